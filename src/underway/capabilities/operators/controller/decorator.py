"""DecoratorController: attachments, labels and annotations for objects that others control.

Source: Metacontroller's API reference, "DecoratorController".
"""

from __future__ import annotations

from underway.api import selectors
from underway.api.objects import (
    Object,
    annotations_of,
    controller_of,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from underway.api.resources import Resource
from underway.base.errors import Invalid
from underway.base.home import Home
from underway.capabilities.operators.controller.parents import Machine, Machines, discover
from underway.capabilities.operators.model import (
    DECORATORCONTROLLERS,
    ChildId,
    DecoratorSpec,
    Method,
    ParentRule,
    SyncAnswer,
    spec_of,
)
from underway.capabilities.operators.rules.children import (
    ChildKind,
    Children,
    desired_children,
    strategies,
)
from underway.reconcile import Manager, merge_difference, write_status

MARK = "metacontroller.k8s.io/decorator-controller"


class Decorator(Machine):
    """One DecoratorController at work on one of its resources."""

    def __init__(
        self,
        manager: Manager,
        source: Object,
        spec: DecoratorSpec,
        rule: ParentRule,
        parent: Resource,
        kinds: list[ChildKind],
    ) -> None:
        super().__init__(
            manager,
            source,
            spec.hooks,
            parent,
            kinds,
            finalizer=f"metacontroller.io/decoratorcontroller-{name_of(source)}",
            resync_s=spec.resync_period_seconds,
            ignore_status=rule.ignore_status_changes,
        )
        self._strategies = strategies(kinds)
        self._labels = selectors.from_object(rule.label_selector or {})
        chosen = dict(rule.annotation_selector or {})
        if "matchAnnotations" in chosen:
            chosen["matchLabels"] = chosen.pop("matchAnnotations")
        self._annotations = selectors.from_object(chosen)

    def concerns(self, parent: Object) -> bool:
        """Whether both selectors choose the object."""
        return self._labels.matches(labels_of(parent)) and self._annotations.matches(
            annotations_of(parent)
        )

    def method_of(self, which: ChildId) -> Method:
        """How an attachment is updated."""
        return self._strategies[which.group, which.kind].method

    async def observe(self, parent: Object) -> Children:
        """What this controller attached: its mark is on it, and the object controls it."""
        found: Children = {}
        for informer in self.informers.values():
            await informer.synced()
            for child in informer.owned_by(uid_of(parent)):
                owner = controller_of(child) or {}
                if owner.get("uid") != uid_of(parent):
                    continue
                if annotations_of(child).get(MARK) == name_of(self.source):
                    found[ChildId.of(child)] = child
        return found

    async def decide(
        self, parent: Object, observed: Children, related: Object, *, finalizing: bool
    ) -> tuple[SyncAnswer, Children]:
        """Ask the hook."""
        hook = self.hooks.finalize if finalizing else self.hooks.sync
        question = {
            "object": parent,
            "attachments": self.group(parent, observed.values(), hook),
            "related": related,
        }
        answer = await self.ask(hook, question, finalizing=finalizing)
        if answer is None:
            raise Invalid(f"DecoratorController {name_of(self.source)} has no sync hook")
        desired = desired_children(parent, self.kinds, answer.attachments or ())
        for child in desired.values():
            notes = child["metadata"].get("annotations") or {}
            child["metadata"]["annotations"] = {**notes, MARK: name_of(self.source)}
        return answer, desired

    async def report(self, parent: Object, answer: SyncAnswer) -> None:
        """Set the labels, annotations and status that the hook names; null takes one away."""
        wanted: Object = {
            "labels": _with(labels_of(parent), answer.labels),
            "annotations": _with(annotations_of(parent), answer.annotations),
        }
        current = {"labels": labels_of(parent), "annotations": annotations_of(parent)}
        resource = self.parents.resource
        if patch := merge_difference(current, wanted):
            parent = await self.manager.client.patch(
                resource, name_of(parent), {"metadata": patch}, namespace_of(parent)
            )
        if answer.status is not None:
            await write_status(self.manager.client, resource, parent, answer.status)


def _with(current: dict[str, str], changes: dict[str, str | None] | None) -> dict[str, str]:
    merged = {**current, **(changes or {})}
    return {name: value for name, value in merged.items() if value is not None}


async def _make(manager: Manager, source: Object) -> list[Machine]:
    spec = spec_of(source, DecoratorSpec)
    kinds = [
        ChildKind(each, await discover(manager, each.api_version, each.resource))
        for each in spec.attachments
    ]
    return [
        Decorator(
            manager,
            source,
            spec,
            rule,
            await discover(manager, rule.api_version, rule.resource),
            kinds,
        )
        for rule in spec.resources
    ]


def add(manager: Manager, _home: Home) -> None:
    """Run the cluster's DecoratorControllers."""
    manager.add(Machines(manager, DECORATORCONTROLLERS, _make).controller)
