"""The permissions a controller needs, from what it is made of.

Source: Kubernetes docs, "Using RBAC Authorization"; "Owners and Dependents" for finalizers.
"""

from __future__ import annotations

from collections.abc import Iterable

from underway.api.objects import Object
from underway.api.resources import EVENTS_CORE, LEASES, Resource
from underway.reconcile.controller import Controller
from underway.reconcile.informer import Informer
from underway.reconcile.sources import Source

READ = ("get", "list", "watch")
WRITE = ("create", "delete", "patch", "update")


def policy_rules(
    controllers: Iterable[Controller], *, more: Iterable[tuple[Resource, Iterable[str]]] = ()
) -> list[Object]:
    """The rules of a ClusterRole for these controllers.

    Primary objects are read and their status and finalizers written, owned ones written too,
    watched ones read. ``more`` is what their code uses besides: resources and verbs.
    """
    verbs: dict[tuple[str, str], set[str]] = {}

    def allow(resource: Resource, names: Iterable[str], subresource: str = "") -> None:
        plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
        verbs.setdefault((resource.group, plural), set()).update(names)

    for controller in controllers:
        primary = _resource(controller.primary)
        allow(primary, (*READ, "patch", "update"))
        allow(primary, ("get", "patch", "update"), "status")
        allow(primary, ("update",), "finalizers")
        for owned in controller.owns:
            allow(_resource(owned.source), (*READ, *WRITE))
        for watched in controller.watches:
            allow(_resource(watched.source), READ)
    for resource, names in more:
        allow(resource, names)
    allow(EVENTS_CORE, ("create", "patch"))
    return [
        {"apiGroups": [group], "resources": [plural], "verbs": sorted(names)}
        for (group, plural), names in sorted(verbs.items())
    ]


def leader_rules() -> list[Object]:
    """The rules of a Role with which replicas elect one of them (see ``Manager.lead``)."""
    verbs = ["create", "get", "update"]
    return [{"apiGroups": [LEASES.group], "resources": [LEASES.plural], "verbs": verbs}]


def _resource(source: Source) -> Resource:
    return source.resource if isinstance(source, Informer) else source
