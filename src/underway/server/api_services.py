"""The upkeep of APIServices: those of our own groups are listed, those of others looked after.

Each group and version served here has an APIService of its own, as upstream. Of one that leads to
a Service, the condition Available says whether its discovery answers; what it answers is what our
own discovery shows.

Source: kube-aggregator ``pkg/controllers/status/remote/remote_available_controller.go``,
``pkg/controllers/autoregister``; kubernetes ``pkg/controlplane/apiserver/aggregator.go``
(priorities).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from underway.api.objects import Object, labels_of, set_condition
from underway.api.resources import APISERVICES
from underway.base.clock import Clock, rfc3339
from underway.base.errors import AlreadyExists, NotFound, UnderwayError
from underway.server.aggregation import STORAGE, Aggregation, Backend, Described, why
from underway.server.bootstrap import SYSTEM
from underway.server.catalog import Catalog
from underway.server.crds import STORAGE as DEFINITIONS
from underway.server.deleting import DeleteOptions, Deleter
from underway.server.identity import MASTERS, User
from underway.server.store import Change, Key, Store
from underway.server.writing import By, Writer
from underway.wire.http import Request

log = logging.getLogger(__name__)

AGGREGATOR = User("system:kube-aggregator", (MASTERS,))
AUTOMANAGED = "kube-aggregator.kubernetes.io/automanaged"
_CHECK_S = 30.0
_RETRY_S = 5.0  # while one is not available
_TIMEOUT_S = 5.0
_DOCUMENT_BYTES = 4 * 1024 * 1024
_CUSTOM_PRIORITY = (1000, 100)
# Group -> groupPriorityMinimum and versionPriority of its version 1.
_PRIORITIES = {
    "": (18000, 1),
    "apps": (17800, 15),
    "events.k8s.io": (17750, 15),
    "authentication.k8s.io": (17700, 15),
    "authorization.k8s.io": (17600, 15),
    "autoscaling": (17500, 15),
    "batch": (17400, 15),
    "certificates.k8s.io": (17300, 15),
    "networking.k8s.io": (17200, 15),
    "policy": (17100, 15),
    "rbac.authorization.k8s.io": (17000, 15),
    "storage.k8s.io": (16800, 15),
    "apiextensions.k8s.io": (16700, 15),
    "admissionregistration.k8s.io": (16700, 15),
    "scheduling.k8s.io": (16600, 15),
    "coordination.k8s.io": (16500, 15),
    "node.k8s.io": (16300, 15),
    "discovery.k8s.io": (16200, 15),
    "flowcontrol.apiserver.k8s.io": (16100, 21),
    "resource.k8s.io": (16050, 15),
    "storagemigration.k8s.io": (16000, 15),
}
_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class ApiServices:
    """Keeps them, until ``run`` is cancelled."""

    def __init__(
        self,
        aggregation: Aggregation,
        catalog: Catalog,
        store: Store,
        writer: Writer,
        deleter: Deleter,
        clock: Clock,
    ) -> None:
        self._aggregation = aggregation
        self._catalog = catalog
        self._store = store
        self._writer = writer
        self._deleter = deleter
        self._clock = clock
        self._wake = asyncio.Event()
        self._listing = False  # whether our own have to be gone through

    def start(self) -> None:
        """Listen to the store."""
        self._store.subscribe(self._notice)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            while True:
                self._wake.clear()
                try:
                    if self._listing:
                        self._listing = False
                        await self.list_own()
                    for backend in list(self._aggregation.backends()):
                        await self._look_after(backend)
                except UnderwayError as error:
                    log.warning("cannot keep APIServices up to date: %s", error)
                await self._wake.wait()

    async def _tick(self) -> None:
        passed_s = 0.0
        while True:
            await self._clock.sleep(_RETRY_S)
            passed_s += _RETRY_S
            backends = list(self._aggregation.backends())
            if backends and (passed_s >= _CHECK_S or not all(b.available for b in backends)):
                passed_s = 0.0
                self._wake.set()

    def _notice(self, change: Change) -> None:
        resource, namespace, _ = change.row.key
        if resource == DEFINITIONS:
            self._listing = True
            self._wake.set()
        elif resource == STORAGE:
            self._listing = self._listing or change.type == "DELETED"
            self._wake.set()
        elif resource in ("services", "endpointslices.discovery.k8s.io") and any(
            namespace == backend.namespace for backend in self._aggregation.backends()
        ):
            self._wake.set()

    # -- our own ---------------------------------------------------------------------------

    async def list_own(self) -> None:
        """Create the APIServices of what is served here, and remove those of what is no more."""
        wanted: dict[str, Object] = {}
        for group, versions in self._catalog.groups().items():
            if group == APISERVICES.group:
                continue
            custom = any(s.custom for s in self._catalog.in_version(group, versions[0]))
            for version in versions:
                wanted[f"{version}.{group}"] = _own(group, version, custom=custom)
        async with asyncio.TaskGroup() as tasks:
            for name, obj in wanted.items():
                row = self._store.latest(Key(STORAGE, "", name))
                if row is None or not _is_local_available(row.decode()):
                    tasks.create_task(self._ensure(name, obj))
            for row in self._store.rows(STORAGE):
                if row.key.name not in wanted and AUTOMANAGED in labels_of(row.decode()):
                    tasks.create_task(self._remove(row.key))

    async def _ensure(self, name: str, obj: Object) -> None:
        served = self._catalog.of(APISERVICES)
        try:
            await self._writer.create(served, obj, "", By(SYSTEM, "underway"))
        except AlreadyExists:
            pass
        except UnderwayError as error:
            log.warning("cannot list %s: %s", name, error)
            return
        row = self._store.latest(Key(STORAGE, "", name))
        if row is not None and not (row.decode().get("spec") or {}).get("service"):
            text = "Local APIServices are always available"
            await self._set(name, ("True", "Local", text))

    async def _remove(self, key: Key) -> None:
        try:
            await self._deleter.delete(self._catalog.of(APISERVICES), key, DeleteOptions(), SYSTEM)
        except UnderwayError as error:
            log.info("APIService %s: %s", key.name, error)

    # -- those of others -------------------------------------------------------------------

    async def _look_after(self, backend: Backend) -> None:
        verdict = self._service_verdict(backend)
        if verdict is None:
            verdict = await self._ask(backend)
        await self._set(backend.object_name, verdict)

    def _service_verdict(self, backend: Backend) -> tuple[str, str, str] | None:
        """Why the Service cannot be asked; None if it can."""
        if self._aggregation.is_here(backend):
            return None
        namespace, name, port = backend.namespace, backend.service, backend.port
        row = self._store.get(Key("services", namespace, name))
        where = f'service/{name} in "{namespace}"'
        if row is None:
            return "False", "ServiceNotFound", f"{where} is not present"
        spec = row.decode().get("spec") or {}
        if spec.get("type") == "ExternalName":
            return None
        if all(each.get("port") != port for each in spec.get("ports") or ()):
            text = f"{where} is not listening on port {port}"
            return "False", "ServicePortError", text
        try:
            self._aggregation.proxies.endpoint(namespace, name, str(port))
        except UnderwayError:
            text = f'endpoints for service/{name} in "{namespace}" have no addresses'
            return "False", "MissingEndpoints", text
        return None

    async def _ask(self, backend: Backend) -> tuple[str, str, str]:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                resources = await self._resources(backend)
                openapi = await self._openapi_hash(backend)
        except TimeoutError:
            problem = f"no answer within {_TIMEOUT_S:.0f} s"
        except UnderwayError as error:
            problem = why(error)
        except (KeyError, TypeError, AttributeError) as error:
            problem = f"its discovery is malformed: {error!r}"
        else:
            self._aggregation.describe(backend, Described(resources, openapi))
            return "True", "Passed", "all checks passed"
        url = f"https://{backend.service}.{backend.namespace}.svc:{backend.port}{backend.path}"
        text = f"failing or missing response from {url}: {problem}"
        return "False", "FailedDiscoveryCheck", text

    async def _resources(self, backend: Backend) -> tuple[Object, ...]:
        """The backend's resources, as its aggregated discovery or the older form has them."""
        found = await self._get(backend, "/apis", f"{_AGGREGATED},application/json")
        if isinstance(found, dict) and found.get("kind") == "APIGroupDiscoveryList":
            for group in found["items"]:
                for version in group["versions"]:
                    named = (group["metadata"]["name"], version["version"])
                    if named == (backend.group, backend.version):
                        return tuple(version.get("resources") or ())
        found = await self._get(backend, backend.path, "application/json")
        if not isinstance(found, dict):
            raise NotFound(f"bad status from {backend.path}")
        return tuple(_entries(backend, found.get("resources") or ()))

    async def _openapi_hash(self, backend: Backend) -> str:
        found = await self._get(backend, "/openapi/v3", "application/json")
        if not isinstance(found, dict):
            return ""
        paths = found.get("paths") or {}
        url = (paths.get(backend.path.lstrip("/")) or {}).get("serverRelativeURL") or ""
        return str(url).partition("hash=")[2]

    async def _get(self, backend: Backend, path: str, accept: str) -> Any:
        """A document of the backend; None where it has none."""
        request = Request("GET", path, "", {"accept": accept})
        response = await self._aggregation.send(backend, request, AGGREGATOR)
        chunks, size = [], 0
        if isinstance(response.body, bytes):
            chunks = [response.body]
        else:
            async for chunk in response.body:
                chunks.append(chunk)
                size += len(chunk)
                if size > _DOCUMENT_BYTES:
                    raise NotFound(f"{path} is longer than {_DOCUMENT_BYTES} bytes")
        if response.status >= 500 or (response.status >= 300 and path == backend.path):
            raise NotFound(f"bad status from {path}: {response.status}")
        if response.status >= 300:
            return None
        try:
            return msgspec.json.decode(b"".join(chunks))
        except (msgspec.DecodeError, RecursionError):
            return None

    async def _set(self, name: str, verdict: tuple[str, str, str]) -> None:
        """Write the condition Available."""
        status, reason, message = verdict
        now = rfc3339(self._clock.now())

        def judged(obj: Object | None) -> Object:
            if obj is None:
                raise LookupError(name)
            conditions = obj.setdefault("status", {}).setdefault("conditions", [])
            condition = {"type": "Available", "status": status}
            set_condition(conditions, {**condition, "reason": reason, "message": message}, now)
            return obj

        try:
            by = By(SYSTEM, "underway", "status", raw=True)
            served = self._catalog.of(APISERVICES)
            await self._writer.modify(served, Key(STORAGE, "", name), judged, by)
        except NotFound:
            return  # deleted meanwhile


def _own(group: str, version: str, *, custom: bool) -> Object:
    minimum, priority = _CUSTOM_PRIORITY if custom else _PRIORITIES.get(group, (16000, 15))
    if not custom and version.startswith("v") and version[1:].isdecimal():
        priority += 15 * (int(version[1:]) - 1)
    return {
        "apiVersion": APISERVICES.api_version,
        "kind": "APIService",
        "metadata": {
            "name": f"{version}.{group}",
            "labels": {AUTOMANAGED: "true" if custom else "onstart"},
        },
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": minimum,
            "versionPriority": priority,
        },
    }


def _is_local_available(obj: Object) -> bool:
    if (obj.get("spec") or {}).get("service"):
        return True  # somebody else serves the group now; it is looked after elsewhere
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Available" and c.get("status") == "True" for c in conditions)


def _entries(backend: Backend, resources: Any) -> list[Object]:
    """Entries of an APIResourceList as aggregated discovery has them."""
    found: dict[str, Object] = {}
    for each in resources:
        name, _, sub = each["name"].partition("/")
        kind = {
            "group": each.get("group") or backend.group,
            "version": each.get("version") or backend.version,
            "kind": each["kind"],
        }
        if sub:
            owner = found.get(name)
            if owner is not None:
                entry = {"subresource": sub, "responseKind": kind, "verbs": each["verbs"]}
                owner.setdefault("subresources", []).append(entry)
            continue
        entry = {
            "resource": name,
            "responseKind": kind,
            "scope": "Namespaced" if each.get("namespaced") else "Cluster",
            "singularResource": each.get("singularName") or "",
            "verbs": each.get("verbs") or [],
        }
        for field in ("shortNames", "categories"):
            if each.get(field):
                entry[field] = each[field]
        found[name] = entry
    return list(found.values())
