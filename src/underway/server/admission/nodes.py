"""NodeRestriction: a node writes only what is its own, and says of itself only what it may.
TaintNodesByCondition: a new node is not ready.

Source: Kubernetes reference, "Admission Control", NodeRestriction; kubernetes
``plugin/pkg/admission/noderestriction``.
"""

from __future__ import annotations

from collections.abc import Iterator

from underway.api.objects import (
    Object,
    annotations_of,
    labels_of,
    meta,
    name_of,
    namespace_of,
    uid_of,
)
from underway.base.errors import Forbidden
from underway.server.admission.pods import MIRROR
from underway.server.admission.write import Write
from underway.server.authorizer import LEASE_NAMESPACE, node_of, references
from underway.server.call import Call, refused
from underway.server.store import Key, Store

NOT_READY = "node.kubernetes.io/not-ready"
_PREFIX = "node-restriction.kubernetes.io"
_DOMAINS = ("kubernetes.io", "k8s.io")
_FREE_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
_FREE_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        # Upstream's installers set it; here the machine's one node agent registers with it.
        "node-role.kubernetes.io/control-plane",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)


def taint(write: Write) -> None:
    """Keep pods away from a node that registers until it is ready (TaintNodesByCondition).

    The controller that watches over nodes takes the taint away. A node made by somebody else, as
    tests and simulators do, may stand in a cluster without that controller and stays as it is.
    """
    node = write.new
    if node is None or write.served.storage != "nodes" or not node_of(write.user):
        return
    taints = node.setdefault("spec", {}).setdefault("taints", [])
    if not any((t.get("key"), t.get("effect")) == (NOT_READY, "NoSchedule") for t in taints):
        taints.append({"key": NOT_READY, "effect": "NoSchedule"})


def check_create(write: Write) -> None:
    """What a node may create.

    Raises:
        Forbidden: it is a node's request, and not about itself.
    """
    storage, new, node = write.served.storage, write.new, node_of(write.user)
    if not node or new is None:
        return
    match storage:
        case "nodes":
            if name_of(new) != node:
                raise _refused(
                    write, f'node "{node}" is not allowed to create node "{name_of(new)}"'
                )
            _check_labels(write, node, set(labels_of(new)), "set the following labels")
        case "pods":
            _check_mirror(write, node, new)
        case "leases.coordination.k8s.io":
            _check_lease(write, new, node)
        case "csinodes.storage.k8s.io":
            if name_of(new) != node:
                raise _refused(write, "can only access CSINode with the same name as the node")


def check_change(write: Write) -> None:
    """What a node may change or delete.

    Raises:
        Forbidden: it is a node's request, and not about itself.
    """
    storage, old, node = write.served.storage, write.old, node_of(write.user)
    if not node or old is None:
        return
    match storage:
        case "nodes":
            _check_node_change(write, node, old)
        case "pods":
            if (old.get("spec") or {}).get("nodeName") != node:
                what = "modify" if write.new is not None else "delete"
                raise _refused(
                    write, f'node "{node}" can only {what} pods with spec.nodeName set to itself'
                )
            if write.new is not None and labels_of(write.new) != labels_of(old):
                raise _refused(write, f'node "{node}" cannot update labels through pod status')
        case "leases.coordination.k8s.io":
            _check_lease(write, old, node)
        case "csinodes.storage.k8s.io":
            if name_of(old) != node:
                raise _refused(write, "can only access CSINode with the same name as the node")
        case "persistentvolumeclaims":
            _check_claim(write, node, old)


def check_token(store: Store, call: Call, review: Object) -> None:
    """A node gets tokens only for pods on it.

    Raises:
        Forbidden: it is a node's request, and not for one of them.
    """
    node = node_of(call.user)
    if not node:
        return
    reference = (review.get("spec") or {}).get("boundObjectRef") or {}
    name = call.attributes.name
    if reference.get("kind") != "Pod" or not reference.get("name"):
        why = "node requested token not bound to a pod"
        raise refused(Forbidden, call.served, name, why)
    if not reference.get("uid"):
        why = "node requested token with a pod binding without a uid"
        raise refused(Forbidden, call.served, name, why)
    row = store.get(Key("pods", call.attributes.namespace, reference["name"]))
    pod = row.decode() if row else {}
    if row is not None and uid_of(pod) != reference["uid"]:
        why = f"the UID in the bound object reference ({reference['uid']}) does not match the UID"
        raise refused(Forbidden, call.served, name, f"{why} in record ({uid_of(pod)})")
    if (pod.get("spec") or {}).get("nodeName") != node:
        why = "node requested token bound to a pod scheduled on a different node"
        raise refused(Forbidden, call.served, name, why)


def _check_mirror(write: Write, node: str, pod: Object) -> None:
    spec = pod["spec"]
    if MIRROR not in annotations_of(pod):
        raise _refused(
            write,
            f'pod does not have "{MIRROR}" annotation, node "{node}" can only create mirror pods',
        )
    if spec.get("nodeName") != node:
        raise _refused(
            write, f'node "{node}" can only create pods with spec.nodeName set to itself'
        )
    owners = meta(pod).get("ownerReferences") or ()
    if any(each.get("kind") != "Node" or each.get("name") != node for each in owners):
        raise _refused(
            write, f'node "{node}" can only create pods with an owner reference set to itself'
        )
    if spec.get("serviceAccountName"):
        raise _refused(write, f'node "{node}" can not create pods that reference a service account')
    for kind, name in references(pod):
        if name:
            raise _refused(write, f'node "{node}" can not create pods that reference {kind}')
    for volume in spec.get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            if "serviceAccountToken" in source:
                why = "can not create pods that reference service account tokens"
                raise _refused(write, f'node "{node}" {why}')


def _check_node_change(write: Write, node: str, old: Object) -> None:
    new = write.new
    if name_of(old) != node:
        raise _refused(write, f'node "{node}" is not allowed to modify node "{name_of(old)}"')
    if new is None:
        return
    if (new.get("spec") or {}).get("taints") != (old.get("spec") or {}).get("taints"):
        raise _refused(write, f'node "{node}" is not allowed to modify taints')
    if meta(new).get("ownerReferences") != meta(old).get("ownerReferences"):
        raise _refused(write, f'node "{node}" is not allowed to modify ownerReferences')
    before, after = labels_of(old), labels_of(new)
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    _check_labels(write, node, changed, "modify labels")


def _check_labels(write: Write, node: str, changed: set[str], what: str) -> None:
    if forbidden := sorted(key for key in changed if _is_reserved(key)):
        raise _refused(write, f'node "{node}" is not allowed to {what}: {", ".join(forbidden)}')


def _is_reserved(label: str) -> bool:
    """Whether a label steers what runs on a node, so that the node itself may not set it."""
    domain, slash, _ = label.partition("/")
    if not slash or label in _FREE_LABELS:
        return False
    if domain == _PREFIX or domain.endswith(f".{_PREFIX}"):
        return True
    if any(domain == free or domain.endswith(f".{free}") for free in _FREE_DOMAINS):
        return False
    return any(domain == each or domain.endswith(f".{each}") for each in _DOMAINS)


def _check_lease(write: Write, lease: Object, node: str) -> None:
    if namespace_of(lease) != LEASE_NAMESPACE:
        raise _refused(write, f'can only access leases in the "{LEASE_NAMESPACE}" system namespace')
    if name_of(lease) != node:
        raise _refused(
            write, "can only access node lease with the same name as the requesting node"
        )


def _check_claim(write: Write, node: str, old: Object) -> None:
    """Of a claim a node reports only how far its resizing is."""
    new = write.new
    if new is None or write.subresource != "status":
        raise _refused(write, f'node "{node}" may only update PVC status')
    if list(_beside_resizing(new)) != list(_beside_resizing(old)):
        why = "is not allowed to update fields other than status.capacity and status.conditions"
        raise _refused(write, f'node "{node}" {why}')


def _beside_resizing(claim: Object) -> Iterator[object]:
    yield claim.get("spec")
    yield labels_of(claim)
    yield annotations_of(claim)
    resizing = ("capacity", "conditions", "allocatedResources", "allocatedResourceStatuses")
    status = claim.get("status") or {}
    yield {name: value for name, value in status.items() if name not in resizing}


def _refused(write: Write, why: str) -> Exception:
    return refused(Forbidden, write.served, write.name, why)
