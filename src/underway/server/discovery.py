"""What clients ask first: versions, groups, resources, health.

Source: kubernetes/apimachinery meta/v1 ``APIGroupList``, ``APIResourceList``; kubernetes/api
apidiscovery/v2 ``APIGroupDiscoveryList``; API concepts "API Discovery".
"""

from __future__ import annotations

import hashlib
import platform
from base64 import b64encode
from functools import cache, partial

import msgspec

from underway.api import schema as schemas
from underway.api.objects import Object
from underway.api.resources import Resource
from underway.server.aggregation import Aggregation
from underway.server.catalog import BUILTIN_GROUPS, Catalog, Served, version_priority
from underway.wire.http import Request, Response

DISCOVERY_GROUP = "apidiscovery.k8s.io"
_CUSTOM = (1000, 100)  # groupPriorityMinimum and versionPriority of custom resources
_BUILTIN_MINIMUM = 15_000  # no built-in group's groupPriorityMinimum is less

# The kind a subresource speaks, where it is not the resource's own; and its verbs.
_SUBRESOURCES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "approval": ("", "", "", ("get", "patch", "update")),
    "attach": ("", "v1", "PodAttachOptions", ("create", "get")),
    "binding": ("", "v1", "Binding", ("create",)),
    "eviction": ("policy", "v1", "Eviction", ("create",)),
    "exec": ("", "v1", "PodExecOptions", ("create", "get")),
    "finalize": ("", "", "", ("update",)),
    "log": ("", "", "", ("get",)),
    "portforward": ("", "v1", "PodPortForwardOptions", ("create", "get")),
    "scale": ("autoscaling", "v1", "Scale", ("get", "patch", "update")),
    "token": ("authentication.k8s.io", "v1", "TokenRequest", ("create",)),
}
_PROXY_VERBS = ("create", "delete", "get", "patch", "update")
_CHANGE_VERBS = ("get", "patch", "update")


def subresource_kind(resource: Resource, name: str) -> tuple[str, str, str, tuple[str, ...]]:
    """(group, version, kind, verbs) of a subresource."""
    if name == "proxy":
        return "", "v1", f"{resource.kind}ProxyOptions", _PROXY_VERBS
    group, version, kind, verbs = _SUBRESOURCES.get(name, ("", "", "", _CHANGE_VERBS))
    if not kind:
        return resource.group, resource.version, resource.kind, verbs
    return group, version, kind, verbs


@cache
def version_info() -> Object:
    """The answer of ``/version``: the Kubernetes version whose API is served."""
    number = schemas.builtin_version().lstrip("v")
    parts = [*number.split("."), "0", "0"]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "major": parts[0],
        "minor": parts[1],
        "gitVersion": f"v{'.'.join(parts[:3])}+underway",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "cpython",
        "platform": f"linux/{machine}",
    }


def _storage_hash(served: Served) -> str:
    digest = hashlib.sha256(f"{served.storage}/{served.stored_version}".encode()).digest()
    return b64encode(digest[:8]).decode()


class Discovery:
    """Documents about the catalog, with ETags."""

    def __init__(self, catalog: Catalog, aggregation: Aggregation) -> None:
        self._catalog = catalog
        self._aggregation = aggregation

    def respond(self, request: Request, address: str) -> Response | None:
        """The answer to a discovery path; None if it is none."""
        segments = request.segments()
        accept = request.headers.get("accept", "")
        match segments:
            case ["api"] | ["apis"]:
                for version in ("v2", "v2beta1"):
                    wanted = f"g={DISCOVERY_GROUP};v={version};as=APIGroupDiscoveryList"
                    if wanted in accept.replace(" ", ""):
                        return self._aggregated(request, version, core=segments == ["api"])
                if segments == ["api"]:
                    return _tagged(request, self._core_versions(address), "application/json")
                groups = [self._group(g) for g in self._groups() if g]
                body = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
                return _tagged(request, body, "application/json")
            case ["api", version]:
                return self._resources(request, "", version)
            case ["apis", group] if group and group in self._groups():
                body = {"kind": "APIGroup", "apiVersion": "v1", **self._group(group)}
                return _tagged(request, body, "application/json")
            case ["apis", group, version]:
                return self._resources(request, group, version)
        return None

    def _core_versions(self, address: str) -> Object:
        return {
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
        }

    def _group(self, group: str) -> Object:
        versions = [
            {"groupVersion": f"{group}/{version}", "version": version}
            for version in self._groups()[group]
        ]
        return {"name": group, "versions": versions, "preferredVersion": versions[0]}

    def _resources(self, request: Request, group: str, version: str) -> Response | None:
        found = self._catalog.in_version(group, version)
        if not found:
            return None
        entries: list[Object] = []
        for served in found:
            entries += _legacy_entries(served)
        body = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/{version}" if group else version,
            "resources": entries,
        }
        return _tagged(request, body, "application/json")

    def _aggregated(self, request: Request, version: str, *, core: bool) -> Response:
        api_version = f"{DISCOVERY_GROUP}/{version}"
        items = []
        for group, versions in self._groups().items():
            if (group == "") != core:
                continue
            shown = [self._aggregated_version(group, each) for each in versions]
            metadata: Object = {"creationTimestamp": None}
            if group:
                metadata["name"] = group
            items.append({"metadata": metadata, "versions": shown})
        body = {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": api_version,
            "metadata": {},
            "items": items,
        }
        media = f"application/json;g={DISCOVERY_GROUP};v={version};as=APIGroupDiscoveryList"
        return _tagged(request, body, media)

    def _groups(self) -> dict[str, list[str]]:
        """Group -> versions, our own and those of other servers, in the order of discovery."""
        own = self._catalog.groups()
        others = list(self._aggregation.backends())
        if not others:
            return own
        minimum: dict[str, int] = {}
        rank: dict[tuple[str, str], int] = {}
        for backend in others:
            named = (backend.group, backend.version)
            minimum[backend.group] = max(minimum.get(backend.group, 0), backend.group_priority)
            rank[named] = backend.version_priority
            own.setdefault(backend.group, [])
            if backend.version not in own[backend.group]:
                own[backend.group].append(backend.version)

        def place(group: str, version: str) -> tuple[int, tuple[int, int, int, str]]:
            return -rank.get((group, version), _CUSTOM[1]), version_priority(version)

        for group in minimum:
            own[group].sort(key=partial(place, group))
        minimum = {group: minimum.get(group, _CUSTOM[0]) for group in own}
        minimum |= dict.fromkeys(BUILTIN_GROUPS, _BUILTIN_MINIMUM)
        # Sorting is stable: our groups keep their order, and custom ones their place behind them.
        return {group: own[group] for group in sorted(own, key=lambda g: -minimum[g])}

    def _aggregated_version(self, group: str, version: str) -> Object:
        backend = self._aggregation.find(group, version)
        if backend is None:
            found = self._catalog.in_version(group, version)
            resources, fresh = [_aggregated_entry(served) for served in found], True
        else:
            resources = list(self._aggregation.said_of(backend).resources)
            fresh = backend.available
        return {
            "version": version,
            "resources": resources,
            "freshness": "Current" if fresh else "Stale",
        }


def _tagged(request: Request, body: Object, media: str) -> Response:
    data = msgspec.json.encode(body)
    etag = f'"{hashlib.sha512(data).hexdigest().upper()}"'
    headers = {"content-type": media, "etag": etag, "vary": "Accept"}
    if request.headers.get("if-none-match") == etag:
        return Response(304, headers)
    return Response(200, headers, data)


def _legacy_entries(served: Served) -> list[Object]:
    resource = served.resource
    entry: Object = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if "list" in resource.verbs:
        entry["storageVersionHash"] = _storage_hash(served)
    entries = [entry]
    for name in resource.subresources:
        group, version, kind, verbs = subresource_kind(resource, name)
        sub: Object = {
            "name": f"{resource.plural}/{name}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": kind,
            "verbs": list(verbs),
        }
        if (group, version) != (resource.group, resource.version):
            sub |= {"group": group, "version": version}
        entries.append(sub)
    return entries


def _aggregated_entry(served: Served) -> Object:
    resource = served.resource
    scope = "Namespaced" if resource.namespaced else "Cluster"
    entry: Object = {
        "resource": resource.plural,
        "responseKind": _kind(resource.group, resource.version, resource.kind),
        "scope": scope,
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.subresources:
        entry["subresources"] = []
        for name in resource.subresources:
            group, version, kind, verbs = subresource_kind(resource, name)
            entry["subresources"].append(
                {
                    "subresource": name,
                    "responseKind": _kind(group, version, kind),
                    "verbs": list(verbs),
                }
            )
    return entry


def _kind(group: str, version: str, kind: str) -> Object:
    return {"group": group, "version": version, "kind": kind}
