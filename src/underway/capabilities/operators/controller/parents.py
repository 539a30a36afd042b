"""What both kinds of controller share: their parents, children, hooks and life.

A ``Machine`` is one CompositeController or DecoratorController at work; ``Machines`` starts and
stops them as their objects come, change and go.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable

from underway.api.objects import Object, deleting, name_of, object_key, uid_of
from underway.api.resources import CUSTOMRESOURCEDEFINITIONS, NAMESPACES, Resource
from underway.base.errors import AlreadyExists, Conflict, NotFound
from underway.capabilities.operators.backend import HookClient
from underway.capabilities.operators.model import (
    ChildId,
    CustomizeAnswer,
    Hook,
    Hooks,
    Method,
    SyncAnswer,
)
from underway.capabilities.operators.rules import related as relations
from underway.capabilities.operators.rules.children import (
    Action,
    ChildKind,
    Children,
    grouped,
    plan,
)
from underway.capabilities.operators.rules.related import Related
from underway.reconcile import (
    WARNING,
    Controller,
    Done,
    Entry,
    EventType,
    Expectations,
    Informer,
    Manager,
    Request,
    RequeueAfter,
    Result,
    add_finalizer,
    generation_changed,
    has_finalizer,
    remove_finalizer,
    set_controller,
)

log = logging.getLogger(__name__)

WORKERS = 5


async def discover(manager: Manager, api_version: str, plural: str) -> Resource:
    """The resource that a rule names.

    Raises:
        NotFound: the cluster serves none of that name.
    """
    group, _, version = api_version.rpartition("/")
    path = f"/apis/{api_version}" if group else f"/api/{api_version}"
    try:
        response = await manager.client.request("GET", path)
        await response.read()
        served = response.json().get("resources") or []
    except NotFound:
        served = []
    for each in served:
        if each.get("name") == plural:
            return Resource(group, version, plural, each["kind"], bool(each.get("namespaced")))
    raise NotFound(f"the cluster serves no {plural} in {api_version}")


class Machine(ABC):
    """One controller at work on the parents of one resource."""

    def __init__(
        self,
        manager: Manager,
        source: Object,
        hooks: Hooks,
        parent: Resource,
        kinds: list[ChildKind],
        *,
        finalizer: str,
        resync_s: float,
        ignore_status: bool,
    ) -> None:
        self.manager = manager
        self.source = source
        self.hooks = hooks
        self.kinds = kinds
        self.client = HookClient(manager.client, manager.clock)
        self.parents = manager.informer(parent)
        self.informers = {kind: manager.informer(kind.resource) for kind in kinds}
        self._finalizer = finalizer
        self._resync_s = resync_s
        self._expectations = {
            kind.resource.group_resource: Expectations(informer)
            for kind, informer in self.informers.items()
        }
        self._related: dict[str, list[Related]] = {}
        self._customized: dict[str, tuple[tuple[str, int], tuple[relations.RelatedRule, ...]]] = {}
        self._following: dict[str, tuple[Informer, Callable[..., None]]] = {}
        self.controller = Controller(
            f"{name_of(source)}-{parent.plural}",
            self._reconcile,
            primary=self.parents,
            owns=[*self.informers.values()],
            workers=WORKERS,
            predicates=[generation_changed] if ignore_status else (),
        )

    def start(self) -> None:
        """Begin to work."""
        self.manager.add(self.controller)

    async def stop(self) -> None:
        """End; what is under way is cancelled."""
        self.manager.remove(self.controller)
        for informer, handler in self._following.values():
            informer.remove_handler(handler)
        await self.client.aclose()

    # -- what differs ----------------------------------------------------------------------

    @abstractmethod
    def concerns(self, parent: Object) -> bool:
        """Whether the controller's selectors choose the parent."""

    @abstractmethod
    async def observe(self, parent: Object) -> Children:
        """The parent's children as cached."""

    @abstractmethod
    async def decide(
        self, parent: Object, observed: Children, related: Object, *, finalizing: bool
    ) -> tuple[SyncAnswer, Children]:
        """What the hook answers, and the children that are desired by it."""

    @abstractmethod
    async def report(self, parent: Object, answer: SyncAnswer) -> None:
        """Write to the parent what the hook says of it."""

    @abstractmethod
    def method_of(self, which: ChildId) -> Method:
        """How a child is updated."""

    # -- one parent ------------------------------------------------------------------------

    async def _reconcile(self, request: Request) -> Result:
        parent = self.parents.get(request.key)
        if parent is None:
            self._forget(request.key)
            return Done()
        parent.setdefault("apiVersion", self.parents.resource.api_version)
        parent.setdefault("kind", self.parents.resource.kind)
        held = has_finalizer(parent, self._finalizer)
        concerned = self.concerns(parent)
        if not concerned and not held:
            self._forget(request.key)
            return Done()
        if not all(each.satisfied(request.key) for each in self._expectations.values()):
            return Done()
        if held and self.hooks.finalize is None:
            parent = await self._write_finalizer(parent, held=False)
            held = False
        elif not held and self.hooks.finalize is not None and not deleting(parent):
            parent = await self._write_finalizer(parent, held=True)
            held = True
        finalizing = held and (deleting(parent) or not concerned)
        if deleting(parent) and not held:
            return Done()  # the garbage collector sees to the children
        return await self._sync(request, parent, finalizing=finalizing)

    async def _sync(self, request: Request, parent: Object, *, finalizing: bool) -> Result:
        observed = await self.observe(parent)
        found = await self._related_objects(request.key, parent)
        answer, desired = await self.decide(parent, observed, found, finalizing=finalizing)
        await self._manage(request.key, parent, observed, desired)
        await self.report(parent, answer)
        if finalizing and answer.finalized:
            fresh = await self.manager.client.get(
                self.parents.resource, request.name, request.namespace
            )
            await self._write_finalizer(fresh, held=False)
            return Done()
        delays_s = [each for each in (answer.resync_after_seconds, self._resync_s) if each > 0]
        return RequeueAfter(min(delays_s)) if delays_s else Done()

    async def ask(
        self, hook: Hook | None, question: Object, *, finalizing: bool
    ) -> SyncAnswer | None:
        """What the sync (or finalize) hook answers; None where there is no such hook."""
        if hook is None:
            return None
        return await self.client.ask(
            hook, {"controller": self.source, "finalizing": finalizing, **question}, SyncAnswer
        )

    def group(self, parent: Object, children: Iterable[Object], hook: Hook | None) -> Object:
        """Children as the hook gets them."""
        return grouped(parent, self.kinds, children, hook.version if hook else "v1")

    def complain(self, parent: Object, reason: str, message: str) -> None:
        """Tell the parent's users of a problem."""
        self.manager.events.event(
            parent, WARNING, reason, message, component=f"metacontroller/{name_of(self.source)}"
        )

    async def _write_finalizer(self, parent: Object, *, held: bool) -> Object:
        write = add_finalizer if held else remove_finalizer
        return await write(self.manager.client, self.parents.resource, parent, self._finalizer)

    def _forget(self, key: str) -> None:
        self._related.pop(key, None)
        self._customized.pop(key, None)
        for each in self._expectations.values():
            each.forget(key)

    # -- children --------------------------------------------------------------------------

    async def _manage(
        self, key: str, parent: Object, observed: Children, desired: Children
    ) -> None:
        failures: list[Exception] = []
        for action in plan(observed, desired, self.method_of):
            try:
                await self._act(key, parent, action)
            except NotFound:
                continue  # it was to change or go, and has gone
            except (Conflict, AlreadyExists) as error:
                failures.append(Conflict(str(error)))  # what is cached is old
            except Exception as error:  # noqa: BLE001  # the others are still to be seen to
                self.complain(parent, "SyncError", f"cannot {action.verb} a child: {error}")
                failures.append(error)
        if failures:
            raise failures[0]

    async def _act(self, key: str, parent: Object, action: Action) -> None:
        obj = action.object
        resource = self._resource_of(obj)
        expected = self._expectations[resource.group_resource]
        client = self.manager.client
        if action.verb == "delete":
            await client.delete(
                resource,
                name_of(obj),
                obj["metadata"].get("namespace"),
                uid=uid_of(obj),
                propagation="Background",
            )
            expected.deleted(key, obj)
        elif action.verb == "create":
            expected.created(key, await client.create(resource, set_controller(parent, obj)))
        else:
            expected.updated(key, await client.replace(resource, obj))

    def _resource_of(self, obj: Object) -> Resource:
        which = ChildId.of(obj)
        for kind in self.kinds:
            if (kind.resource.group, kind.resource.kind) == (which.group, which.kind):
                return kind.resource
        raise NotFound(f"{which.kind} is none of the child resources")

    # -- related objects -------------------------------------------------------------------

    async def _related_objects(self, key: str, parent: Object) -> Object:
        hook = self.hooks.customize
        if hook is None:
            return {}
        version = (uid_of(parent), parent["metadata"].get("generation", 0))
        known = self._customized.get(key)
        if known is None or known[0] != version or not version[1]:
            question = {"controller": self.source, "parent": parent}
            answer = await self.client.ask(hook, question, CustomizeAnswer)
            known = self._customized[key] = (version, answer.related_resources)
        rules = []
        for rule in known[1]:
            resource = await discover(self.manager, rule.api_version, rule.resource)
            rules.append(relations.related(rule, resource, parent, hook.version))
        self._related[key] = rules
        found: Object = {rule.title: {} for rule in rules}
        for rule in rules:
            informer = await self._follow(rule.resource)
            objects = [obj for obj in informer.list() if self._wanted(rule, obj)]
            for title, entries in grouped(parent, (), objects, hook.version).items():
                found[title] |= entries
        return found

    async def _follow(self, resource: Resource) -> Informer:
        """The informer of a related resource, whose changes wake the parents they concern."""
        informer = self.manager.informer(resource)
        spaces = self.manager.informer(NAMESPACES)
        name = f"{resource.api_version}/{resource.plural}"
        if name not in self._following:

            def handle(_kind: EventType, old: Entry | None, new: Entry | None) -> None:
                views = [each.view for each in (old, new) if each is not None]
                for key, rules in list(self._related.items()):
                    if any(
                        rule.resource == resource and self._wanted(rule, view)
                        for rule in rules
                        for view in views
                    ):
                        self.controller.enqueue(Request.of(key))

            self._following[name] = (informer, handle)
            informer.add_handler(handle)
        await spaces.synced()
        await informer.synced()
        return informer

    def _wanted(self, rule: Related, obj: Object) -> bool:
        spaces = self.manager.informer(NAMESPACES)
        entry = spaces.entry(obj["metadata"].get("namespace") or "")
        return rule.matches(obj, (entry.meta.labels or {}) if entry else None)


class Machines:
    """All controllers of one kind, kept as their objects say."""

    def __init__(
        self,
        manager: Manager,
        resource: Resource,
        make: Callable[[Manager, Object], Awaitable[list[Machine]]],
    ) -> None:
        self._manager = manager
        self._make = make
        self._informer = manager.informer(resource)
        self._running: dict[str, tuple[tuple[str, int], list[Machine]]] = {}
        self._waiting: set[str] = set()
        self.controller = Controller(
            f"metacontroller-{resource.plural}",
            self._reconcile,
            primary=resource,
            watches=[(CUSTOMRESOURCEDEFINITIONS, self._those_waiting)],
            predicates=[generation_changed],
        )

    def _those_waiting(self, _crd: Object) -> list[Request]:
        return [Request.of(key) for key in self._waiting]

    async def _reconcile(self, request: Request) -> Done:
        source = self._informer.get(request.key)
        running = self._running.get(request.key)
        version = (uid_of(source), source["metadata"].get("generation", 0)) if source else ("", 0)
        if running and running[0] == version:
            return Done()
        if running:
            del self._running[request.key]
            for machine in running[1]:
                await machine.stop()
        self._waiting.discard(request.key)
        if source is None or deleting(source):
            return Done()
        source.setdefault("apiVersion", self._informer.resource.api_version)
        source.setdefault("kind", self._informer.resource.kind)
        try:
            machines = await self._make(self._manager, source)
        except NotFound as error:
            # The definition that brings the resource wakes it again.
            self._waiting.add(request.key)
            self._manager.events.event(source, WARNING, "NoSuchResource", str(error))
            return Done()
        for machine in machines:
            machine.start()
        self._running[request.key] = (version, machines)
        log.info("%s %s works", source["kind"], object_key(source))
        return Done()
