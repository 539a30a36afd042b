"""Blocking calls on a cluster, for tests that are plain functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from underway.api.objects import Object, find_condition, key_of, meta, name_of, namespace_of
from underway.api.resources import Resource
from underway.base.errors import BadRequest, NotFound
from underway.client import Client, Patch
from underway.reconcile.testenv import WAIT_S, Environment
from underway.server.catalog import Catalog, version_priority

T = TypeVar("T")

Which = str | Resource
"""A kind (``Deployment``), a name kubectl takes (``deploy``, ``widgets.example.com``)."""
Objects = list[Object]
Manifest = Object | str | Path
"""An object, YAML text of one or several, or a file of such."""
Condition = str | Callable[[Object], Any]
"""A condition's type (``Available``) that is to be True, or a function of the object."""


class ClusterClient:
    """Calls as the cluster's administrator.

    Namespaced objects lie in ``default`` where no namespace is given. Calls raise the
    ``underway.base.errors`` class that the API's Status stands for.

    Args:
        run: runs an awaitable on the cluster's event loop and gives its result.
    """

    def __init__(
        self, environment: Environment, catalog: Catalog, run: Callable[[Awaitable[Any]], Any]
    ) -> None:
        self._environment = environment
        self._client: Client = environment.client
        self._catalog = catalog
        self._run = run

    def get(self, which: Which, name: str, namespace: str = "default") -> Object:
        """One object."""
        resource = self.resource(which)
        return self._call(self._client.get(resource, name, _space(resource, namespace)))

    def list(self, which: Which, namespace: str | None = None, *, labels: str = "") -> Objects:
        """Objects of a namespace, or of all."""
        found = self._call(self._client.list(self.resource(which), namespace, labels=labels))
        return found.items

    def create(self, manifest: Manifest) -> Objects:
        """Create every object of a manifest."""
        return [
            self._call(self._client.create(resource, obj)) for resource, obj in self._read(manifest)
        ]

    def apply(self, manifest: Manifest) -> Objects:
        """Apply every object of a manifest, server-side."""
        return [
            self._call(self._client.apply(resource, obj, field_manager="test"))
            for resource, obj in self._read(manifest)
        ]

    def patch(
        self,
        which: Which,
        name: str,
        body: Any,
        namespace: str = "default",
        *,
        how: Patch = Patch.MERGE,
        subresource: str = "",
    ) -> Object:
        """Change part of an object."""
        resource = self.resource(which)
        space = _space(resource, namespace)
        return self._call(
            self._client.patch(resource, name, body, space, how=how, subresource=subresource)
        )

    def delete(
        self, which: Which, name: str, namespace: str = "default", *, propagation: str = ""
    ) -> None:
        """Begin an object's deletion; see ``wait_gone``."""
        resource = self.resource(which)
        space = _space(resource, namespace)
        self._call(self._client.delete(resource, name, space, propagation=propagation))

    def wait_for(
        self,
        which: Which,
        name: str,
        condition: Condition,
        namespace: str = "default",
        *,
        timeout_s: float = WAIT_S,
    ) -> Object:
        """Wait until an object is there and as it should be; follows a watch, never polls.

        Raises:
            RequestTimeout: it was not within ``timeout_s`` real seconds; the message shows what
                was there.
        """
        resource = self.resource(which)
        space = _space(resource, namespace)
        key = key_of(space, name)

        def found(objects: dict[str, Object]) -> Object | None:
            obj = objects.get(key)
            return obj if obj is not None and _holds(obj, condition) else None

        waiting = self._environment.until(resource, found, space, timeout_s=timeout_s)
        return self._call(waiting)

    def wait_gone(
        self, which: Which, name: str, namespace: str = "default", *, timeout_s: float = WAIT_S
    ) -> None:
        """Wait until an object is no longer there.

        Raises:
            RequestTimeout: it still was after ``timeout_s`` real seconds.
        """
        resource = self.resource(which)
        space = _space(resource, namespace)
        key = key_of(space, name)
        self._call(
            self._environment.until(
                resource, lambda objects: key not in objects, space, timeout_s=timeout_s
            )
        )

    def resource(self, which: Which) -> Resource:
        """The resource meant, in the version the API prefers.

        Raises:
            NotFound: the cluster serves none of that name.
        """
        return which if isinstance(which, Resource) else self._call(self._find(which))

    async def _find(self, which: str) -> Resource:
        word, _, group = which.lower().partition(".")
        found = [
            served.resource
            for served in self._catalog
            if word in _names(served.resource) and group in ("", served.resource.group)
        ]
        if not found:
            raise NotFound(f"the cluster serves no resource called {which}")
        same = [each for each in found if each.group == found[0].group]
        return min(same, key=lambda each: version_priority(each.version))

    async def _find_kind(self, obj: Object) -> Resource:
        api_version, kind = str(obj.get("apiVersion")), str(obj.get("kind"))
        served = self._catalog.of_kind(api_version, kind)
        if served is None:
            raise NotFound(f"the cluster serves no {kind} of {api_version} ({name_of(obj)})")
        return served.resource

    def _read(self, manifest: Manifest) -> Iterable[tuple[Resource, Object]]:
        for obj in objects_of(manifest):
            resource = self._call(self._find_kind(obj))
            if resource.namespaced and not namespace_of(obj):
                obj = {**obj, "metadata": {**meta(obj), "namespace": "default"}}
            yield resource, obj

    def _call(self, awaitable: Awaitable[T]) -> T:
        result: T = self._run(awaitable)
        return result


def _names(resource: Resource) -> tuple[str, ...]:
    kind = resource.kind.lower()
    return (resource.plural, kind, resource.singular or kind, *resource.short_names)


def _space(resource: Resource, namespace: str) -> str | None:
    return namespace if resource.namespaced else None


def _holds(obj: Object, condition: Condition) -> Any:
    if callable(condition):
        return condition(obj)
    found = find_condition((obj.get("status") or {}).get("conditions"), condition)
    return found is not None and found.get("status") == "True"


def objects_of(manifest: Manifest) -> list[Object]:
    """The objects of a manifest, in its order.

    Raises:
        BadRequest: it is no YAML, or holds something that is no object.
    """
    if isinstance(manifest, dict):
        return [manifest]
    where = str(manifest) if isinstance(manifest, Path) else "the manifest"
    text = manifest.read_text(encoding="utf-8") if isinstance(manifest, Path) else manifest
    try:
        found = [each for each in yaml.safe_load_all(text) if each is not None]
    except yaml.YAMLError as error:
        raise BadRequest(f"{where} is no YAML: {error}") from error
    for each in found:
        if not isinstance(each, dict):
            raise BadRequest(f"{where} holds something that is no object: {each!r:.80}")
    return found
