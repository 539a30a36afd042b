"""CompositeController: a parent resource whose children a hook decides.

Source: Metacontroller's API reference, "CompositeController".
"""

from __future__ import annotations

from underway.api import selectors
from underway.api.objects import (
    Object,
    deleting,
    labels_of,
    meta,
    name_of,
    namespace_of,
    set_condition,
    uid_of,
)
from underway.api.resources import Resource
from underway.base.clock import rfc3339
from underway.base.errors import Invalid
from underway.base.home import Home
from underway.capabilities.operators.controller.parents import Machine, Machines, discover
from underway.capabilities.operators.model import (
    COMPOSITECONTROLLERS,
    CONTROLLERREVISIONS,
    ChildId,
    CompositeSpec,
    Method,
    SyncAnswer,
    spec_of,
)
from underway.capabilities.operators.rules import rolling
from underway.capabilities.operators.rules.children import (
    ChildKind,
    Children,
    desired_children,
    strategies,
)
from underway.capabilities.operators.rules.rolling import Revision
from underway.reconcile import Manager, claim, write_status

UID_LABEL = "controller-uid"


class Composite(Machine):
    """One CompositeController at work."""

    def __init__(
        self,
        manager: Manager,
        source: Object,
        spec: CompositeSpec,
        parent: Resource,
        kinds: list[ChildKind],
    ) -> None:
        super().__init__(
            manager,
            source,
            spec.hooks,
            parent,
            kinds,
            finalizer=f"metacontroller.io/compositecontroller-{name_of(source)}",
            resync_s=spec.resync_period_seconds,
            ignore_status=spec.parent_resource.ignore_status_changes,
        )
        self._spec = spec
        self._strategies = strategies(kinds)
        self._selector = selectors.from_object(spec.parent_resource.label_selector or {})
        self._paths = spec.parent_resource.revision_history.field_paths or ("spec",)
        rolls = any(each.rolling for each in self._strategies.values())
        self._revisions = manager.informer(CONTROLLERREVISIONS) if rolls else None

    def concerns(self, parent: Object) -> bool:
        """Whether the rule's selector chooses the parent."""
        return self._selector.matches(labels_of(parent))

    def method_of(self, which: ChildId) -> Method:
        """How a child is updated."""
        return self._strategies[which.group, which.kind].method

    async def observe(self, parent: Object) -> Children:
        """The parent's children, after adopting orphans its selector chooses."""
        selector = self._children_selector(parent)
        found: Children = {}

        async def live() -> Object:
            return await self.manager.client.get(
                self.parents.resource, name_of(parent), namespace_of(parent)
            )

        for kind, informer in self.informers.items():
            await informer.synced()
            candidates = informer.list(namespace_of(parent) or None)
            claimed = await claim(
                self.manager.client,
                kind.resource,
                parent,
                candidates,
                lambda child: selector.matches(labels_of(child)),
                live,
            )
            found |= {ChildId.of(child): child for child in claimed}
        return found

    async def decide(
        self, parent: Object, observed: Children, related: Object, *, finalizing: bool
    ) -> tuple[SyncAnswer, Children]:
        """Ask the hook; with rolling updates, once for each revision of the parent."""
        if self._revisions is None:
            return await self._desired(parent, observed, related, finalizing=finalizing)
        await self._revisions.synced()
        stored = [
            each
            for each in self._revisions.owned_by(uid_of(parent))
            if namespace_of(each) == namespace_of(parent) and not deleting(each)
        ]
        latest, older = self._states(parent, stored)

        async def ask(revision: Revision) -> SyncAnswer:
            answer, revision.desired = await self._desired(
                revision.parent, observed, related, finalizing=finalizing
            )
            return answer

        answers = [await ask(each) for each in (latest, *older)]
        condition = rolling.advance(latest, older, observed, self._strategies)
        await self._store(parent, stored, [latest, *(each for each in older if each.members)])
        answer = answers[0]
        status = dict(answer.status or {})
        conditions = [dict(each) for each in status.get("conditions") or ()]
        before = (parent.get("status") or {}).get("conditions") or ()
        now = rfc3339(self.manager.clock.now())
        merged = [dict(each) for each in before if each.get("type") == condition["type"]]
        set_condition(merged, condition, now)
        status["conditions"] = [*conditions, *merged]
        delays_s = [each.resync_after_seconds for each in answers if each.resync_after_seconds > 0]
        combined = SyncAnswer(
            status=status,
            resync_after_seconds=min(delays_s, default=0),
            finalized=all(each.finalized for each in answers),
        )
        return combined, rolling.merged_children(latest, older)

    async def report(self, parent: Object, answer: SyncAnswer) -> None:
        """Replace the parent's status."""
        if answer.status is None and not parent.get("status"):
            return
        status = dict(answer.status or {})
        if "generation" in meta(parent):
            status.setdefault("observedGeneration", meta(parent)["generation"])
        await write_status(self.manager.client, self.parents.resource, parent, status)

    async def _desired(
        self, parent: Object, observed: Children, related: Object, *, finalizing: bool
    ) -> tuple[SyncAnswer, Children]:
        hook = self.hooks.finalize if finalizing else self.hooks.sync
        question = {
            "parent": parent,
            "children": self.group(parent, observed.values(), hook),
            "related": related,
        }
        answer = await self.ask(hook, question, finalizing=finalizing)
        if answer is None:
            raise Invalid(f"CompositeController {name_of(self.source)} has no sync hook")
        labels = {UID_LABEL: uid_of(parent)} if self._spec.generate_selector else None
        desired = desired_children(parent, self.kinds, answer.children or (), labels)
        selector = self._children_selector(parent)
        for which, child in desired.items():
            if not selector.matches(labels_of(child)):
                raise Invalid(
                    f"the hook's child {which.kind} {which.key} has not the labels that"
                    " spec.selector of its parent asks for"
                )
        return answer, desired

    def _children_selector(self, parent: Object) -> selectors.LabelSelector:
        if self._spec.generate_selector:
            return selectors.from_labels({UID_LABEL: uid_of(parent)})
        selector = (parent.get("spec") or {}).get("selector")
        if not isinstance(selector, dict) or not selector:
            raise Invalid(
                f"{parent['kind']} {name_of(parent)} has no spec.selector",
                hint="generateSelector in the CompositeController does without",
            )
        return selectors.from_object(selector)

    # -- revisions -------------------------------------------------------------------------

    def _states(self, parent: Object, stored: list[Object]) -> tuple[Revision, list[Revision]]:
        """The latest state of the parent, and those that children may still follow."""
        patch = rolling.patch_of(parent, self._paths)
        latest = Revision(patch, parent)
        older = []
        for each in stored:
            members = rolling.members_of(each, namespace_of(parent))
            old = each.get("parentPatch") or {}
            if old == patch:
                latest.stored, latest.members = each, members
            else:
                state = rolling.parent_at(parent, old, self._paths)
                older.append(Revision(old, state, each, members))
        return latest, older

    async def _store(self, parent: Object, stored: list[Object], revisions: list[Revision]) -> None:
        """Write down who follows what, before anything is done about it."""
        labels = (
            {UID_LABEL: uid_of(parent)}
            if self._spec.generate_selector
            else ((parent.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
        )
        wanted = [
            rolling.as_object(each, parent, self.parents.resource, labels) for each in revisions
        ]
        names = {name_of(each) for each in wanted}
        client = self.manager.client
        for each in stored:
            if name_of(each) not in names:
                await client.delete(
                    CONTROLLERREVISIONS, name_of(each), namespace_of(each), uid=uid_of(each)
                )
        before = {name_of(each): each for each in stored}
        for each in wanted:
            if name_of(each) not in before:
                await client.create(CONTROLLERREVISIONS, each)
            elif before[name_of(each)] != each:
                await client.replace(CONTROLLERREVISIONS, each)


async def _make(manager: Manager, source: Object) -> list[Machine]:
    spec = spec_of(source, CompositeSpec)
    rule = spec.parent_resource
    parent = await discover(manager, rule.api_version, rule.resource)
    kinds = [
        ChildKind(each, await discover(manager, each.api_version, each.resource))
        for each in spec.child_resources
    ]
    return [Composite(manager, source, spec, parent, kinds)]


def add(manager: Manager, _home: Home) -> None:
    """Run the cluster's CompositeControllers."""
    manager.add(Machines(manager, COMPOSITECONTROLLERS, _make).controller)
