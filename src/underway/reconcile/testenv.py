"""Testing controllers against a real API server: start them, wait for what they bring about.

The server itself is handed in as a handler, so that the same tests can run against the embedded
server in process or a cluster over the network. Nothing here polls: waiting follows a watch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from underway.api.objects import Object, object_key
from underway.api.resources import Resource
from underway.base.clock import Clock, SystemClock
from underway.base.errors import Expired, RequestTimeout
from underway.client import Client
from underway.reconcile.manager import Manager
from underway.wire.http import Handler

WAIT_S = 20.0

Condition = Callable[[dict[str, Object]], Any]
"""Given all objects by key; anything true ends the wait."""


class Environment:
    """A client, a clock and a manager on one API server."""

    def __init__(self, handler: Handler, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self.client = Client(handler, user_agent="testenv")
        self.manager = Manager(Client(handler, user_agent="controllers"), self.clock)

    async def until(
        self,
        resource: Resource,
        condition: Condition,
        namespace: str | None = None,
        *,
        timeout_s: float = WAIT_S,
    ) -> Any:
        """Wait until ``condition`` gives something true for the resource's objects; returns it.

        Raises:
            RequestTimeout: it did not within ``timeout_s`` real seconds; the message shows the
                objects' last state.
        """
        objects: dict[str, Object] = {}
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        return await self._follow(resource, condition, namespace, objects)
                    except Expired:
                        continue
        except TimeoutError as error:
            raise RequestTimeout(
                f"{resource.plural}: waited {timeout_s:g} s; now {list(objects.values())}"
            ) from error

    async def _follow(
        self,
        resource: Resource,
        condition: Condition,
        namespace: str | None,
        objects: dict[str, Object],
    ) -> Any:
        found = await self.client.list(resource, namespace)
        objects.clear()
        objects.update((object_key(item), item) for item in found.items)
        version = found.resource_version
        while True:
            if result := condition(objects):
                return result
            watch = self.client.watch(resource, namespace, resource_version=version)
            async with contextlib.aclosing(watch) as events:
                async for event in events:
                    obj = event.object
                    version = obj["metadata"].get("resourceVersion", version)
                    if event.type == "BOOKMARK":
                        continue
                    if event.type == "DELETED":
                        objects.pop(object_key(obj), None)
                    else:
                        objects[object_key(obj)] = obj
                    if result := condition(objects):
                        return result


@contextlib.asynccontextmanager
async def running(environment: Environment) -> AsyncIterator[Environment]:
    """The environment with its manager running; everything is stopped at the end."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(environment.manager.run(), name="manager")
        try:
            yield environment
        finally:
            task.cancel()
