"""What conformance tests do to a cluster: every verb of the API, blocking, and real kubectl."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, Self
from urllib.parse import urlencode

from tests import peers
from underway.api.objects import Object, name_of, namespace_of
from underway.api.resources import Resource
from underway.base.errors import Conflict, NotFound
from underway.client import Client, Patch, WatchEvent
from underway.testing import Cluster

WAIT_S = 20.0


class World:
    """Calls in one namespace; ``which`` is a kind or plural, ``sub`` a subresource."""

    def __init__(self, cluster: Cluster, ns: str, client: Client | None = None) -> None:
        self.cluster = cluster
        self.ns = ns
        self.client = client or cluster.client._client

    @classmethod
    @contextlib.contextmanager
    def of(cls, cluster: Cluster, test: str) -> Iterator[Self]:
        """In a new namespace, whose deletion begins at the end; nothing waits for it."""
        world = cls(cluster, "t" + hashlib.sha256(test.encode()).hexdigest()[:12])
        world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": world.ns}})
        try:
            yield world
        finally:
            world.delete("Namespace", world.ns)

    # -- verbs -----------------------------------------------------------------------------

    def create(self, obj: Object, sub: str = "") -> Object:
        obj = copy.deepcopy(obj)
        resource = self.resource(obj)
        if resource.namespaced:
            obj["metadata"].setdefault("namespace", self.ns)
        space = namespace_of(obj) if resource.namespaced else None
        name = name_of(obj) if sub else ""
        return self.run(self.client.create(resource, obj, space, name=name, subresource=sub))

    def get(self, which: Any, name: str, sub: str = "") -> Object:
        resource = self.resource(which)
        return self.run(self.client.get(resource, name, self._space(resource), subresource=sub))

    def list(self, which: Any, labels: str = "", fields: str = "", everywhere: bool = False):
        resource = self.resource(which)
        space = None if everywhere else self._space(resource)
        return self.run(self.client.list(resource, space, labels=labels, fields=fields)).items

    def put(self, obj: Object, sub: str = "") -> Object:
        return self.run(self.client.replace(self.resource(obj), obj, subresource=sub))

    def change(self, obj: Object, sub: str = "", **fields: Any) -> Object:
        """Write the object as it now is, with dotted fields set: ``spec__replicas=2``."""

        async def again() -> Object:
            resource = self.resource(obj)
            space = namespace_of(obj) if resource.namespaced else None
            while True:
                now = await self.client.get(resource, name_of(obj), space)
                for path, value in fields.items():
                    *parents, last = path.split("__")
                    at = now
                    for each in parents:
                        at = at.setdefault(each, {})
                    at[last] = value
                with contextlib.suppress(Conflict):
                    return await self.client.replace(resource, now, subresource=sub)
                await asyncio.sleep(0)  # what the other writer wrote is yet to be committed

        return self.run(again())

    def patch(self, which: Any, name: str, body: Any, sub: str = "", how=Patch.MERGE) -> Object:
        resource = self.resource(which)
        space = self._space(resource)
        return self.run(self.client.patch(resource, name, body, space, how=how, subresource=sub))

    def delete(self, which: Any, name: str, propagation: str = "", grace_s: int | None = None):
        resource = self.resource(which)
        space = self._space(resource)
        return self.run(
            self.client.delete(
                resource, name, space, propagation=propagation, grace_period_s=grace_s
            )
        )

    def delete_all(self, which: Any, labels: str) -> None:
        """DELETE on the collection."""
        resource = self.resource(which)
        self.raw("DELETE", resource.path(self._space(resource)), labelSelector=labels)

    def raw(self, method: str, path: str, body: Any = None, type_="application/json", **query):
        """Any request; the answer's JSON."""

        async def ask() -> Any:
            answer = await self.client.request(method, path, urlencode(query), body, type_)
            return json.loads(await answer.read())

        return self.run(ask())

    # -- waiting ---------------------------------------------------------------------------

    def until(self, which: Any, name: str, holds: Callable[[Object], Any]) -> Object:
        """The object, once it is there and as it should be."""

        def found(objects: dict[str, Object]) -> Any:
            for obj in objects.values():
                if name_of(obj) == name and holds(obj):
                    return obj
            return None

        return self._until(which, found)

    def until_all(self, which: Any, holds: Callable[[list[Object]], Any], labels: str = ""):
        """What ``holds`` gives for the objects of the kind, once that is something."""
        wanted = dict(each.split("=") for each in labels.split(",") if each)

        def found(objects: dict[str, Object]) -> Any:
            chosen = [
                obj
                for obj in objects.values()
                if wanted.items() <= (obj["metadata"].get("labels") or {}).items()
            ]
            return holds(sorted(chosen, key=name_of))

        return self._until(which, found)

    def gone(self, which: Any, name: str) -> None:
        self._until(which, lambda objects: name not in map(name_of, objects.values()))

    def _until(self, which: Any, found: Callable[[dict[str, Object]], Any]) -> Any:
        resource = self.resource(which)
        waiting = self.cluster.client._environment.until(
            resource, found, self._space(resource), timeout_s=WAIT_S
        )
        return self.run(waiting)

    @contextlib.contextmanager
    def watch(self, which: Any, labels: str = "", version: str = "") -> Iterator[Watching]:
        """A watch from ``version``, by default from now."""
        resource = self.resource(which)
        space = self._space(resource)
        if not version:
            version = self.run(self.client.list(resource, space)).resource_version
        events = self.client.watch(
            resource, space, resource_version=version, labels=labels, bookmarks=False
        )
        try:
            yield Watching(self, events)
        finally:
            self.run(events.aclose())

    # -- others ----------------------------------------------------------------------------

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True):
        """Run kubectl in the namespace; its output, or with ``check=False`` the ended process."""
        home = str(self.cluster.home.root)
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "HOME": home,
            "TMPDIR": home,
        }
        done = subprocess.run(
            [str(peers.kubectl()), "-n", self.ns, *words],
            input=stdin,
            check=False,
            capture_output=True,
            text=True,
            timeout=90,
            env=environment,
        )
        if not check:
            return done
        assert done.returncode == 0, f"kubectl {' '.join(words)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def as_user(self, user: str, *groups: str) -> World:
        """The same namespace seen by another user, whom the administrator impersonates."""
        handler = self.cluster.client._client._handler

        async def impersonate(request):
            request.headers["impersonate-user"] = user
            if groups:
                request.headers["impersonate-group"] = ",".join(groups)
            return await handler(request)

        return World(self.cluster, self.ns, Client(impersonate))

    def resource(self, which: Any) -> Resource:
        """From a Resource, a kind or plural, or an object (its own version)."""
        if isinstance(which, dict):
            served = self.cluster.client._catalog.of_kind(which["apiVersion"], which["kind"])
            if served is None:
                raise NotFound(f"no {which['kind']} of {which['apiVersion']} is served")
            return served.resource
        return self.cluster.client.resource(which)

    def run(self, awaitable: Any) -> Any:
        return self.cluster.call(awaitable)

    def _space(self, resource: Resource) -> str | None:
        return self.ns if resource.namespaced else None


class Watching:
    """What a watch tells, one event after the other."""

    def __init__(self, world: World, events: Any) -> None:
        self._world = world
        self._events = events

    def next(self) -> WatchEvent:
        async def take() -> WatchEvent:
            async with asyncio.timeout(WAIT_S):
                return await anext(self._events)

        return self._world.run(take())

    def until(self, kind: str, name: str, holds: Callable[[Object], Any] = bool) -> Object:
        """Read on to an event of this type about the object as it should be."""
        while True:
            event = self.next()
            if event.type == kind and name_of(event.object) == name and holds(event.object):
                return event.object


def template(image: str = "registry.example.com/web:1", labels=None, **spec: Any) -> Object:
    """A pod template."""
    return {
        "metadata": {"labels": labels or {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": image}], **spec},
    }


def pod(name: str, labels: Any = None, **spec: Any) -> Object:
    made = template(labels=labels, **spec)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **made["metadata"]},
        "spec": made["spec"],
    }


def workload(kind: str, name: str = "web", replicas: int | None = 1, **spec: Any) -> Object:
    """A Deployment, ReplicaSet, StatefulSet, DaemonSet or ReplicationController."""
    core = kind == "ReplicationController"
    labels = {"app": name}
    made = {
        "selector": labels if core else {"matchLabels": labels},
        "template": template(labels=labels),
        **spec,
    }
    if replicas is not None and kind != "DaemonSet":
        made["replicas"] = replicas
    if kind == "StatefulSet":
        made.setdefault("serviceName", name)
    return {
        "apiVersion": "v1" if core else "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": labels},
        "spec": made,
    }


def configmap(name: str, labels: Any = None, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, **({"labels": labels} if labels else {})},
        "data": data,
    }


def condition(obj: Object, kind: str) -> Object:
    """The condition of that type; empty where there is none."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind), {})


_numbers = itertools.count(1)


def unique(prefix: str) -> str:
    """A name for an object without a namespace."""
    return f"{prefix}-{next(_numbers)}"
