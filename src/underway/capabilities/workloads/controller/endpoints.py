"""EndpointSlices and Endpoints: the addresses behind each Service."""

from __future__ import annotations

from collections.abc import Iterable

from underway.api import selectors
from underway.api.objects import (
    Object,
    deleting,
    labels_of,
    meta,
    name_of,
    namespace_of,
    uid_of,
)
from underway.api.resources import ENDPOINTS, ENDPOINTSLICES, PODS, SERVICES
from underway.base.errors import NotFound
from underway.base.home import Home
from underway.capabilities.workloads.controller.pods import pod_informer
from underway.capabilities.workloads.model import spec_of
from underway.capabilities.workloads.rules import endpoints as rules
from underway.reconcile import Controller, Done, Expectations, Manager, Request, Result

_BY_SERVICE = "service"


class Endpoints:
    """The reconciler of Services."""

    def __init__(self, manager: Manager) -> None:
        self._client = manager.client
        self._services = manager.informer(SERVICES)
        self._pods = pod_informer(manager)
        self._slices = manager.informer(ENDPOINTSLICES)
        self._slices.add_index(_BY_SERVICE, _service_key)
        self._legacy = manager.informer(ENDPOINTS)
        self._expected = Expectations(self._slices)

    async def reconcile(self, request: Request) -> Result:
        """Make the Service's slices and Endpoints show its pods."""
        service = self._services.get(request.key)
        if service is None or deleting(service):
            self._expected.forget(request.key)
            await self._drop_legacy(request)
            return Done()
        if not rules.selects(service):
            return Done()
        chosen = selectors.from_labels(spec_of(service)["selector"])
        pods = [pod for pod in self._pods.list(request.namespace) if chosen.matches(labels_of(pod))]
        if self._expected.satisfied(request.key):
            await self._write_slices(request, service, pods)
        await self._write_legacy(request, service, pods)
        return Done()

    def services_of(self, pod: Object) -> Iterable[Request]:
        """The Services whose selector chooses a pod."""
        for service in self._services.list(namespace_of(pod)):
            chosen = selectors.from_labels(spec_of(service).get("selector"))
            if chosen.matches(labels_of(pod)):
                yield Request(namespace_of(service), name_of(service))

    async def _write_slices(self, request: Request, service: Object, pods: list[Object]) -> None:
        current = self._slices.by_index(_BY_SERVICE, request.key)
        plan = rules.plan_slices(service, pods, current)
        for each in plan.create:
            created = await self._client.create(ENDPOINTSLICES, each)
            self._expected.created(request.key, created)
        for each in plan.update:
            await self._client.replace(ENDPOINTSLICES, each)
        for each in plan.delete:
            try:
                await self._client.delete(
                    ENDPOINTSLICES, name_of(each), namespace_of(each), uid=uid_of(each)
                )
            except NotFound:
                continue
            self._expected.deleted(request.key, each)

    async def _write_legacy(self, request: Request, service: Object, pods: list[Object]) -> None:
        wanted = rules.legacy_endpoints(service, pods)
        current = self._legacy.get(request.key)
        if current is None:
            await self._client.create(ENDPOINTS, wanted)
            return
        same = (current.get("subsets") or []) == wanted["subsets"]
        if same and labels_of(current) == labels_of(wanted):
            return
        header = {**meta(current), "labels": labels_of(wanted)}
        await self._client.replace(ENDPOINTS, {**wanted, "metadata": header})

    async def _drop_legacy(self, request: Request) -> None:
        current = self._legacy.get(request.key)
        managed = current is not None and (
            labels_of(current).get(rules.ENDPOINTS_MANAGED_BY) == rules.ENDPOINTS_MANAGER
        )
        if current is None or not managed:
            return
        try:
            await self._client.delete(
                ENDPOINTS, request.name, request.namespace, uid=uid_of(current)
            )
        except NotFound:
            return


def _service_key(piece: Object) -> Iterable[str]:
    labels = labels_of(piece)
    if labels.get(rules.MANAGED_BY) == rules.MANAGER and rules.SERVICE_NAME in labels:
        yield f"{namespace_of(piece)}/{labels[rules.SERVICE_NAME]}"


def _service_of_slice(piece: Object) -> Iterable[Request]:
    for key in _service_key(piece):
        yield Request.of(key)


def _namesake(endpoints: Object) -> Iterable[Request]:
    yield Request(namespace_of(endpoints), name_of(endpoints))


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = Endpoints(manager)
    manager.add(
        Controller(
            "endpoints",
            reconciler.reconcile,
            primary=SERVICES,
            watches=[
                (PODS, reconciler.services_of),
                (ENDPOINTSLICES, _service_of_slice),
                (ENDPOINTS, _namesake),
            ],
            workers=2,
        )
    )
