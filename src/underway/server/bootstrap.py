"""What every cluster holds from its first second on. Each start runs it; nothing changes twice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from underway.api.objects import Object, name_of
from underway.api.resources import (
    CLUSTERROLEBINDINGS,
    CLUSTERROLES,
    CONFIGMAPS,
    ENDPOINTSLICES,
    NAMESPACES,
    PRIORITYCLASSES,
    ROLES,
    SERVICEACCOUNTS,
    SERVICES,
    Resource,
)
from underway.base.errors import AlreadyExists, Forbidden, NotFound
from underway.server.bootstrap_roles import cluster_role_bindings, cluster_roles
from underway.server.catalog import Catalog
from underway.server.identity import MASTERS, User
from underway.server.store import Key, Store
from underway.server.writing import By, Writer

SYSTEM = User("system:apiserver", (MASTERS,))
SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
ROOT_CA = "kube-root-ca.crt"
_PRIORITIES = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}
_RETIRED = ("system:node", "underway:node-agent")
_ROOT_CA_NOTE = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal"
    " endpoints such as the internal service IP or kubernetes.default.svc. No other usage is"
    " guaranteed across distributions of Kubernetes clusters."
)


class Bootstrap:
    """Creates what is missing.

    Args:
        first_ip: the cluster IP of the ``kubernetes`` Service.
        advertised: address and port at which pods reach this server.
        root_ca: the CA certificate in PEM, empty if there is none.
        extension_authentication: tells extension API servers whom to believe; may be empty.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        writer: Writer,
        *,
        first_ip: str,
        advertised: tuple[str, int],
        root_ca: str,
        extension_authentication: Mapping[str, str],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._writer = writer
        self._first_ip = first_ip
        self._advertised = advertised
        self._root_ca = root_ca
        self._extension_authentication = dict(extension_authentication)

    async def run(self) -> None:
        """Bring a new or an older cluster to what this version expects."""
        # What goes together is one commit of the store.
        await _all(
            self._ensure(NAMESPACES, {"metadata": {"name": name}}) for name in SYSTEM_NAMESPACES
        )
        await _all(
            [
                *(
                    # A controller fills in the rules of aggregated ones.
                    self._ensure(
                        CLUSTERROLES,
                        role,
                        keep=("aggregationRule",) if "aggregationRule" in role else ("rules",),
                    )
                    for role in cluster_roles()
                ),
                *(
                    self._ensure(CLUSTERROLEBINDINGS, binding)
                    for binding in cluster_role_bindings()
                ),
                *(self._retire(binding) for binding in _RETIRED),
                *(
                    self._ensure(PRIORITYCLASSES, {"metadata": {"name": name}, "value": value})
                    for name, value in _PRIORITIES.items()
                ),
                self._kubernetes_service(),
                self._extension_servers(),
                *(self.furnish(row.key.name) for row in self._store.rows("namespaces")),
            ]
        )

    async def _retire(self, binding: str) -> None:
        """Take from nodes what older versions let them read."""
        served = self._catalog.of(CLUSTERROLEBINDINGS)
        key = Key(served.storage, "", binding)
        row = self._store.latest(key)
        if row is None or not row.decode().get("subjects"):
            return

        def emptied(binding: Object | None) -> Object:
            if binding is None:
                raise LookupError(key.name)
            binding.pop("subjects", None)
            return binding

        await self._writer.modify(served, key, emptied, By(SYSTEM, "underway"))

    async def furnish(self, namespace: str) -> None:
        """Give a namespace its default service account and the cluster's CA certificate."""
        row = self._store.latest(Key("namespaces", "", namespace))
        if row is None or b'"deletionTimestamp"' in row.data:
            return
        try:
            await self._ensure(SERVICEACCOUNTS, {"metadata": {"name": "default"}}, namespace)
            if self._root_ca:
                bundle = {
                    "metadata": {
                        "name": ROOT_CA,
                        "annotations": {"kubernetes.io/description": _ROOT_CA_NOTE},
                    },
                    "data": {"ca.crt": self._root_ca},
                }
                await self._ensure(CONFIGMAPS, bundle, namespace, keep=("data",))
        except (NotFound, Forbidden):
            return  # the namespace went away meanwhile

    async def _kubernetes_service(self) -> None:
        labels = {"component": "apiserver", "provider": "kubernetes"}
        address, port = self._advertised
        service = {
            "metadata": {"name": "kubernetes", "labels": labels},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": self._first_ip,
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            },
        }
        endpoints = {
            "metadata": {
                "name": "kubernetes",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv6" if ":" in address else "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }
        await self._ensure(SERVICES, service, "default")
        await self._ensure(ENDPOINTSLICES, endpoints, "default", keep=("endpoints", "ports"))

    async def _extension_servers(self) -> None:
        """What lets extension API servers learn whose word on users to take."""
        name = "extension-apiserver-authentication"
        if self._extension_authentication:
            told = {"metadata": {"name": name}, "data": self._extension_authentication}
            await self._ensure(CONFIGMAPS, told, "kube-system", keep=("data",))
        rule = {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": [name],
            "verbs": ["get", "list", "watch"],
        }
        reader = {"metadata": {"name": f"{name}-reader"}, "rules": [rule]}
        await self._ensure(ROLES, reader, "kube-system", keep=("rules",))

    async def _ensure(
        self, resource: Resource, obj: Object, namespace: str = "", keep: tuple[str, ...] = ()
    ) -> None:
        """Create the object if it is missing; of one that is there, keep these fields ours."""
        served = self._catalog.of(resource)
        key = Key(served.storage, namespace, name_of(obj))
        by = By(SYSTEM, "underway")
        row = self._store.latest(key)
        if row is None:
            whole = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
            try:
                await self._writer.create(served, whole, namespace, by)
            except AlreadyExists:
                return
            return
        present = row.decode()
        if any(present.get(name) != obj.get(name) for name in keep):

            def restored(found: Object | None) -> Object:
                if found is None:
                    raise LookupError(key.name)
                for name in keep:
                    if name in obj:
                        found[name] = obj[name]
                return found

            await self._writer.modify(served, key, restored, by)


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)
