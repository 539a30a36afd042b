"""Robot objects: an account in the registry, its credentials in a Secret."""

from __future__ import annotations

import contextlib

from underway.api.objects import Object, deleting, name_of, namespace_of, owner_reference
from underway.api.resources import SECRETS
from underway.base.errors import Forbidden, NotFound, UnderwayError
from underway.base.threads import run_blocking
from underway.capabilities.registry.backend.hub import Hub
from underway.capabilities.registry.controller import objects
from underway.capabilities.registry.controller.projects import ensure_robot
from underway.capabilities.registry.rules import access
from underway.reconcile import Controller, Done, RequeueAfter, Result
from underway.reconcile.finalizers import add_finalizer, remove_finalizer
from underway.reconcile.manager import Manager
from underway.reconcile.sources import Request, generation_changed


def setup(manager: Manager, hub: Hub) -> None:
    """Add the controller."""
    reconciler = Robots(manager, hub)
    controller = Controller(
        "registry-robots",
        reconciler.reconcile,
        primary=objects.ROBOTS,
        owns=[SECRETS],
        predicates=[generation_changed],
    )
    manager.add(controller)


class Robots:
    """Keeps robots as their objects say."""

    def __init__(self, manager: Manager, hub: Hub) -> None:
        self._client = manager.client
        self._clock = manager.clock
        self._robots = manager.informer(objects.ROBOTS)
        self._projects = manager.informer(objects.PROJECTS)
        self._hub = hub

    async def reconcile(self, request: Request) -> Result:
        """Make, change or delete one robot."""
        obj = self._robots.get(request.key)
        if obj is None:
            return Done()
        project, name = obj["spec"]["project"], _robot_name(obj)
        if deleting(obj):
            with contextlib.suppress(NotFound):
                await run_blocking(self._hub.robots.delete, project, name)
            await remove_finalizer(self._client, objects.ROBOTS, obj, objects.FINALIZER)
            return Done()
        obj = await add_finalizer(self._client, objects.ROBOTS, obj, objects.FINALIZER)
        secret = obj["spec"].get("secretName") or name_of(obj)
        try:
            self._check(obj, project)
            await self._apply(obj, project, name, secret)
        except UnderwayError as error:
            await objects.report(self._client, objects.ROBOTS, obj, self._clock, error=error)
            return RequeueAfter(objects.RETRY_S)
        username = access.robot_username(project, name)
        await objects.report(
            self._client, objects.ROBOTS, obj, self._clock, username=username, secretName=secret
        )
        return Done()

    def _check(self, obj: Object, project: str) -> None:
        """Who may make a Robot in a namespace must not so get into others' projects."""
        namespace = namespace_of(obj)
        owner = self._projects.get(project)
        allowed = (owner or {"spec": {}})["spec"].get("namespaces") or ()
        if project != namespace and namespace not in allowed:
            raise Forbidden(
                f"robots of the project {project} cannot be made in the namespace {namespace}",
                hint=f"name the namespace in the Project {project}",
            )

    async def _apply(self, obj: Object, project: str, name: str, secret: str) -> None:
        namespace = namespace_of(obj)
        try:
            known = await self._client.get(SECRETS, secret, namespace)
        except NotFound:
            known = {}
        actions = tuple(obj["spec"].get("permissions") or ("pull",))
        fresh = await run_blocking(
            ensure_robot, self._hub, project, name, actions,
            objects.password_of(known, self._hub.host),
        )  # fmt: skip
        if fresh:
            made = objects.pull_secret(secret, namespace, self._hub.host, *fresh, obj)
            made["metadata"]["ownerReferences"] = [owner_reference(obj)]
            await self._client.apply(SECRETS, made, field_manager=objects.MANAGER)


def _robot_name(obj: Object) -> str:
    """Unique in the project: two namespaces may have robots of the same name."""
    return f"{namespace_of(obj)}.{name_of(obj)}"
