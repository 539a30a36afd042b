"""Project objects: the project, its members, and pull secrets for the namespaces it names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from underway.api.objects import Object, deleting, key_of, name_of, namespace_of
from underway.api.resources import NAMESPACES, SECRETS, SERVICEACCOUNTS
from underway.base.errors import AlreadyExists, NotFound, UnderwayError
from underway.base.threads import run_blocking
from underway.capabilities.registry.backend.database import Cursor
from underway.capabilities.registry.backend.hub import Hub
from underway.capabilities.registry.backend.projects import MEMBERS
from underway.capabilities.registry.backend.remote import REGISTRIES
from underway.capabilities.registry.controller import objects
from underway.capabilities.registry.rules import access, roles
from underway.reconcile import Controller, Done, RequeueAfter, Result
from underway.reconcile.finalizers import add_finalizer, remove_finalizer
from underway.reconcile.manager import Manager
from underway.reconcile.sources import Request, generation_changed

_PREFIX = "registry-"  # what a pull secret's name begins with


def setup(manager: Manager, hub: Hub) -> None:
    """Add the controller."""
    reconciler = Projects(manager, hub)
    controller = Controller(
        "registry-projects",
        reconciler.reconcile,
        primary=objects.PROJECTS,
        watches=[
            (NAMESPACES, reconciler.of_namespace),
            (SERVICEACCOUNTS, reconciler.of_account),
        ],
        predicates=[generation_changed],
    )
    manager.add(controller)


class Projects:
    """Keeps projects as their objects say."""

    def __init__(self, manager: Manager, hub: Hub) -> None:
        self._client = manager.client
        self._clock = manager.clock
        self._projects = manager.informer(objects.PROJECTS)
        self._namespaces = manager.informer(NAMESPACES)
        self._accounts = manager.informer(SERVICEACCOUNTS)
        self._hub = hub

    def of_account(self, account: Object) -> Iterable[Request]:
        """The projects that a namespace's default account concerns: it comes after that."""
        if name_of(account) == "default":
            yield from self._named(namespace_of(account))

    def of_namespace(self, namespace: Object) -> Iterable[Request]:
        """The projects that a namespace concerns."""
        yield from self._named(name_of(namespace))

    def _named(self, namespace: str) -> Iterable[Request]:
        for each in self._projects.list():
            if namespace in (each["spec"].get("namespaces") or ()):
                yield Request("", name_of(each))

    async def reconcile(self, request: Request) -> Result:
        """Make, change or delete one project."""
        obj = self._projects.get(request.key)
        if obj is None:
            return Done()
        if deleting(obj):
            return await self._delete(obj)
        obj = await add_finalizer(self._client, objects.PROJECTS, obj, objects.FINALIZER)
        try:
            await run_blocking(self._apply, name_of(obj), obj["spec"])
            secrets = [
                await self._grant(obj, namespace)
                for namespace in obj["spec"].get("namespaces") or ()
                if self._namespaces.get(namespace) is not None
            ]
        except UnderwayError as error:
            await objects.report(self._client, objects.PROJECTS, obj, self._clock, error=error)
            return RequeueAfter(objects.RETRY_S)
        row = await run_blocking(self._hub.projects.row, name_of(obj))
        count = len(await run_blocking(self._hub.storage.repositories, name_of(obj)))
        await objects.report(
            self._client, objects.PROJECTS, obj, self._clock, id=row["id"], repositories=count,
            usedBytes=row["used_bytes"], pullSecrets=sorted(secrets),
        )  # fmt: skip
        return Done()

    async def _delete(self, obj: Object) -> Result:
        """A project with repositories stays, and says so, until somebody deletes those."""
        try:
            with contextlib.suppress(NotFound):
                await run_blocking(self._hub.projects.delete, name_of(obj))
        except UnderwayError as error:
            await objects.report(self._client, objects.PROJECTS, obj, self._clock, error=error)
            return RequeueAfter(objects.RETRY_S)
        for namespace in obj["spec"].get("namespaces") or ():
            with contextlib.suppress(NotFound):
                await self._client.delete(SECRETS, f"{_PREFIX}{name_of(obj)}", namespace)
        await remove_finalizer(self._client, objects.PROJECTS, obj, objects.FINALIZER)
        return Done()

    def _apply(self, name: str, spec: dict[str, Any]) -> None:
        projects = self._hub.projects
        registry_id = 0
        if remote := spec.get("cacheOf"):
            found = REGISTRIES.find(self._hub.database, "name = ?", remote)
            if found is None:
                raise NotFound(f"there is no RemoteRegistry {remote}")
            registry_id = found["id"]
        if projects.find(name) is None:
            with contextlib.suppress(AlreadyExists):
                projects.create(name, registry_id=registry_id)
        row = projects.row(name)
        wanted = {
            "public": spec.get("public", False),
            "quota_bytes": spec.get("quotaBytes", -1),
            "metadata": {
                **(row["metadata"] or {}), "auto_scan": str(spec.get("autoScan", False)).lower(),
            },
        }  # fmt: skip
        if any(row[field] != value for field, value in wanted.items()):
            projects.update(row["id"], wanted)
        if spec.get("members") is not None:
            self._apply_members(row["id"], row["owner_name"], spec["members"])

    def _apply_members(self, id: int, owner: str, members: list[dict[str, str]]) -> None:
        numbers = {name: number for number, name in roles.ROLES.items()}
        wanted = {each["name"]: numbers[each["role"]] for each in members}
        there = {row["entity_name"]: row for row in
                 MEMBERS.where(self._hub.database, "project_id = ?", id)}  # fmt: skip

        def change(cursor: Cursor) -> None:
            for name, row in there.items():
                if name in wanted and row["role_id"] != wanted[name]:
                    MEMBERS.update(cursor, row["id"], {"role_id": wanted[name]})
                elif name not in wanted and name != owner:
                    MEMBERS.delete(cursor, row["id"])

        self._hub.database.write(change)
        for name, role in wanted.items():
            if name not in there:
                group = name.startswith("system:serviceaccounts")
                self._hub.projects.add_member(id, name, role, group=group)

    async def _grant(self, project: Object, namespace: str) -> str:
        """A robot for a namespace's pods, and its secret where the default account uses it."""
        name, robot = f"{_PREFIX}{name_of(project)}", f"pods-of-{namespace}"
        try:
            secret = await self._client.get(SECRETS, name, namespace)
        except NotFound:
            secret = {}
        fresh = await run_blocking(
            ensure_robot, self._hub, name_of(project), robot, ("pull",),
            objects.password_of(secret, self._hub.host),
        )  # fmt: skip
        if fresh:
            made = objects.pull_secret(name, namespace, self._hub.host, *fresh, project)
            await self._client.apply(SECRETS, made, field_manager=objects.MANAGER)
        account = self._accounts.get(key_of(namespace, "default"))
        known = (account or {}).get("imagePullSecrets") or []
        if account is not None and {"name": name} not in known:
            patch = {"imagePullSecrets": [*known, {"name": name}]}
            await self._client.patch(SERVICEACCOUNTS, "default", patch, namespace)
        return f"{namespace}/{name}"


def ensure_robot(
    hub: Hub, project: str, name: str, actions: tuple[str, ...], known: tuple[str, str]
) -> tuple[str, str] | None:
    """Make a robot that can do this; gives its name and secret, None where the known ones do."""
    wanted = (roles.image_permission(project, access.permissions_of(actions)),)
    username = access.robot_username(project, name)
    found = hub.robots.find(project, name)
    if found is not None and found.permissions == wanted and known[0] == username:
        with contextlib.suppress(UnderwayError):
            access.check_secret(found, known[1])
            return None
    if found is not None:
        hub.robots.delete(project, name)
    _, secret = hub.robots.create(name, wanted, project=project, creator="cluster")
    return username, secret
