"""Removing pods that did not ask for it: the index by node, and saying why before they go."""

from __future__ import annotations

from collections.abc import Iterable

from underway.api.objects import Object, deleting, name_of, namespace_of, uid_of
from underway.api.resources import PODS
from underway.base.errors import Conflict, NotFound
from underway.capabilities.workloads.model import finished, spec_of
from underway.capabilities.workloads.rules import nodes as rules
from underway.client import Patch
from underway.reconcile import Informer, Manager


def pods_by_node(manager: Manager) -> Informer:
    """The shared informer of pods, with an index ``node`` by the name of their node."""
    pods = manager.informer(PODS)
    pods.add_index("node", _node_name)
    return pods


def _node_name(pod: Object) -> Iterable[str]:
    name = spec_of(pod).get("nodeName")
    return (name,) if name else ()


async def remove(
    manager: Manager,
    pod: Object,
    reason: str,
    message: str,
    *,
    force: bool = False,
) -> None:
    """Delete a pod, saying why in its DisruptionTarget condition first.

    ``force`` removes it at once and, as its node will not say how it ended, as failed.
    """
    status: Object = {}
    if reason and not finished(pod):
        now = manager.clock.now()
        status["conditions"] = [rules.disruption_target(reason, message, now)]
        if force:
            status["phase"] = "Failed"
    elif deleting(pod) and not force:
        return
    where = (name_of(pod), namespace_of(pod))
    try:
        if status:
            body = {"metadata": {"uid": uid_of(pod)}, "status": status}
            await manager.client.patch(
                PODS, where[0], body, where[1], how=Patch.STRATEGIC, subresource="status"
            )
        grace_s = 0 if force else None
        await manager.client.delete(PODS, *where, uid=uid_of(pod), grace_period_s=grace_s)
    except NotFound:
        return
    except Conflict:
        # A namesake took its place; anything else comes back with the next change.
        live = await manager.client.get(PODS, *where)
        if uid_of(live) == uid_of(pod):
            raise
