"""ClusterRole aggregation: roles made of others have the rules of those written into them."""

from __future__ import annotations

from collections.abc import Iterable

from underway.api.objects import Object, deleting, labels_of, name_of
from underway.api.resources import CLUSTERROLES
from underway.base.home import Home
from underway.capabilities.workloads.rules import aggregation as rules
from underway.reconcile import Controller, Done, Manager, Request, Result

FIELD_MANAGER = "clusterrole-aggregation-controller"


class Aggregation:
    """The reconciler of ClusterRoles."""

    def __init__(self, manager: Manager) -> None:
        self._client = manager.client
        self._roles = manager.informer(CLUSTERROLES)

    async def reconcile(self, request: Request) -> Result:
        """Write the rules; roles that select this one are looked at when its change is seen."""
        role = self._roles.get(request.name)
        if role is None or deleting(role) or not rules.is_aggregated(role):
            return Done()
        wanted = rules.rules_of(role, self._roles.list())
        if wanted != (role.get("rules") or []):
            body = {
                "apiVersion": CLUSTERROLES.api_version,
                "kind": CLUSTERROLES.kind,
                "metadata": {"name": request.name},
                "rules": wanted,
            }
            await self._client.apply(CLUSTERROLES, body, field_manager=FIELD_MANAGER)
        return Done()

    def aggregated(self, _role: Object) -> Iterable[Request]:
        """Every role that may select the one that changed."""
        return [
            Request("", name_of(each)) for each in self._roles.list() if rules.is_aggregated(each)
        ]


def _matters(role: Object | None) -> object:
    if role is None:
        return None
    return labels_of(role), role.get("rules"), role.get("aggregationRule")


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = Aggregation(manager)
    manager.add(
        Controller(
            "clusterrole-aggregation",
            reconciler.reconcile,
            primary=CLUSTERROLES,
            watches=[(CLUSTERROLES, reconciler.aggregated)],
            predicates=[lambda _kind, old, new: _matters(old) != _matters(new)],
        )
    )
