"""NodeRestriction: a node writes only its own Node and the pods on it.

Source: Kubernetes reference, "Admission Control", NodeRestriction.
"""

from __future__ import annotations

from underway.api.objects import annotations_of, name_of
from underway.base.errors import Forbidden
from underway.server.admission.pods import MIRROR
from underway.server.admission.write import Write
from underway.server.call import refused
from underway.server.identity import NODE_PREFIX, NODES, User


def check_create(write: Write) -> None:
    """What a node may create.

    Raises:
        Forbidden: it is a node's request, and not about itself.
    """
    storage, new, node = write.served.storage, write.new, _node_name(write.user)
    if not node or new is None:
        return
    if storage == "nodes" and name_of(new) != node:
        why = f'node "{node}" is not allowed to create node "{name_of(new)}"'
        raise refused(Forbidden, write.served, write.name, why)
    if storage != "pods":
        return
    if MIRROR not in annotations_of(new):
        why = f'pod does not have "{MIRROR}" annotation, node "{node}" can only create mirror pods'
        raise refused(Forbidden, write.served, write.name, why)
    if new["spec"].get("nodeName") != node:
        why = f'node "{node}" can only create pods with spec.nodeName set to itself'
        raise refused(Forbidden, write.served, write.name, why)


def check_change(write: Write) -> None:
    """What a node may change or delete.

    Raises:
        Forbidden: it is a node's request, and not about itself.
    """
    storage, old, node = write.served.storage, write.old, _node_name(write.user)
    if not node or old is None:
        return
    if storage == "nodes" and name_of(old) != node:
        why = f'node "{node}" is not allowed to modify node "{name_of(old)}"'
        raise refused(Forbidden, write.served, write.name, why)
    if storage == "pods" and (old.get("spec") or {}).get("nodeName") != node:
        why = f'node "{node}" can only modify pods with spec.nodeName set to itself'
        raise refused(Forbidden, write.served, write.name, why)


def _node_name(user: User) -> str:
    if NODES in user.groups and user.name.startswith(NODE_PREFIX):
        return user.name.removeprefix(NODE_PREFIX)
    return ""
