"""EndpointSlice mirroring: Endpoints written by hand reach the Services without a selector."""

from __future__ import annotations

from collections.abc import Iterable

from underway.api.objects import Object, labels_of, name_of, namespace_of, uid_of
from underway.api.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES
from underway.base.errors import NotFound
from underway.base.home import Home
from underway.capabilities.workloads.rules import mirroring as rules
from underway.capabilities.workloads.rules.endpoints import MANAGED_BY, SERVICE_NAME
from underway.reconcile import Controller, Done, Expectations, Manager, Request, Result

_BY_SERVICE = "mirrored service"


class Mirroring:
    """The reconciler of Endpoints."""

    def __init__(self, manager: Manager) -> None:
        self._client = manager.client
        self._endpoints = manager.informer(ENDPOINTS)
        self._services = manager.informer(SERVICES)
        self._slices = manager.informer(ENDPOINTSLICES)
        self._slices.add_index(_BY_SERVICE, _service_key)
        self._expected = Expectations(self._slices)

    async def reconcile(self, request: Request) -> Result:
        """Make the slices show what the Endpoints object says."""
        if not self._expected.satisfied(request.key):
            return Done()
        endpoints = self._endpoints.get(request.key)
        if not rules.mirrors(self._services.get(request.key), endpoints):
            endpoints = None
        plan = rules.plan(endpoints, self._slices.by_index(_BY_SERVICE, request.key))
        for each in plan.create:
            created = await self._client.create(ENDPOINTSLICES, each)
            self._expected.created(request.key, created)
        for each in plan.update:
            written = await self._client.replace(ENDPOINTSLICES, each)
            self._expected.updated(request.key, written)
        for each in plan.delete:
            try:
                await self._client.delete(
                    ENDPOINTSLICES, name_of(each), namespace_of(each), uid=uid_of(each)
                )
            except NotFound:
                continue
            self._expected.deleted(request.key, each)
        return Done()


def _service_key(piece: Object) -> Iterable[str]:
    labels = labels_of(piece)
    if labels.get(MANAGED_BY) == rules.MANAGER and SERVICE_NAME in labels:
        yield f"{namespace_of(piece)}/{labels[SERVICE_NAME]}"


def _of_slice(piece: Object) -> Iterable[Request]:
    return [Request.of(key) for key in _service_key(piece)]


def _namesake(service: Object) -> Iterable[Request]:
    return [Request(namespace_of(service), name_of(service))]


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = Mirroring(manager)
    manager.add(
        Controller(
            "mirroring",
            reconciler.reconcile,
            primary=ENDPOINTS,
            watches=[(SERVICES, _namesake), (ENDPOINTSLICES, _of_slice)],
        )
    )
