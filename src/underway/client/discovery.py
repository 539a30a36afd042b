"""Which resources a cluster serves.

Source: Kubernetes API concepts (API discovery, unaggregated: ``APIResourceList``).
"""

from __future__ import annotations

import msgspec

from underway.api.objects import Object
from underway.api.resources import BUILTIN, Resource
from underway.base.errors import BadRequest, NotFound
from underway.client.client import Client

_BUILTIN = {(each.api_version, each.kind): each for each in BUILTIN}


class Discovery:
    """From ``apiVersion`` and ``kind`` to the REST resource.

    Built-in kinds are known; others are asked of the cluster once for each group and version, and
    again where a kind is not yet among them, since its definition may have come meanwhile.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, str], Resource] = {}

    async def resource(self, api_version: str, kind: str) -> Resource:
        """The resource whose objects are of this kind.

        Raises:
            NotFound: the cluster serves no such kind.
        """
        found = _BUILTIN.get((api_version, kind)) or self._known.get((api_version, kind))
        if found is None:
            await self._ask(api_version)
            found = self._known.get((api_version, kind))
        if found is None:
            raise NotFound(
                f'no matches for kind "{kind}" in version "{api_version}"',
                hint="is its CustomResourceDefinition there? kubectl api-resources",
            )
        return found

    async def resource_of(self, obj: Object) -> Resource:
        """The resource an object belongs to.

        Raises:
            BadRequest: the object does not say what it is.
            NotFound: the cluster serves no such kind.
        """
        api_version, kind = obj.get("apiVersion"), obj.get("kind")
        if not isinstance(api_version, str) or not isinstance(kind, str):
            raise BadRequest("an object has no apiVersion or no kind")
        return await self.resource(api_version, kind)

    async def _ask(self, api_version: str) -> None:
        group, _, version = api_version.rpartition("/")
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        try:
            response = await self._client.request("GET", path)
        except NotFound:
            return
        entries = msgspec.json.decode(await response.read()).get("resources") or []
        subresources: dict[str, list[str]] = {}
        for entry in entries:
            plural, _, below = entry["name"].partition("/")
            if below:
                subresources.setdefault(plural, []).append(below)
        for entry in entries:
            if "/" in entry["name"]:
                continue
            self._known[api_version, entry["kind"]] = Resource(
                group,
                version,
                entry["name"],
                entry["kind"],
                namespaced=bool(entry.get("namespaced")),
                singular=entry.get("singularName", ""),
                short_names=tuple(entry.get("shortNames") or ()),
                categories=tuple(entry.get("categories") or ()),
                verbs=tuple(entry.get("verbs") or ()),
                subresources=tuple(sorted(subresources.get(entry["name"], ()))),
            )
