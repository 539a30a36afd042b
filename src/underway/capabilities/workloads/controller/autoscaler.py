"""HorizontalPodAutoscalers: as many replicas as their metrics ask for.

Source: Kubernetes docs, "Horizontal Pod Autoscaling"; the reasons of conditions and events are
upstream's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime

from underway.api import quantity, selectors
from underway.api.objects import (
    Object,
    deleting,
    meta,
    name_of,
    namespace_of,
    object_key,
    set_condition,
    split_key,
    uid_of,
)
from underway.api.resources import HORIZONTALPODAUTOSCALERS, PODS, Resource
from underway.base.clock import rfc3339
from underway.base.errors import Conflict, NotFound, UnderwayError
from underway.base.home import Home
from underway.capabilities.workloads.controller.inventory import resource_of
from underway.capabilities.workloads.controller.measures import Measures
from underway.capabilities.workloads.model import spec_of, status_of
from underway.capabilities.workloads.rules import demand, scaling
from underway.capabilities.workloads.rules.demand import Fleet, Proposal, Unmeasured
from underway.capabilities.workloads.rules.scaling import Condition, Event, History
from underway.reconcile import (
    NORMAL,
    WARNING,
    Controller,
    Done,
    Manager,
    Request,
    RequeueAfter,
    Result,
    generation_changed,
    write_status,
)

COMPONENT = "horizontal-pod-autoscaler"
PERIOD_S = 15.0  # between looks; metrics tell nobody when they change


@dataclass(frozen=True)
class Answer:
    """What all metrics together ask for: ``why`` names the one that asks for most."""

    replicas: int
    why: str
    current: list[Object]


@dataclass
class Turn:
    """One look at an autoscaler, and what is to be said of it."""

    scaler: Object
    now: datetime
    conditions: list[Object] = field(default_factory=list)

    def say(self, condition: Condition) -> None:
        """Set a condition."""
        said = {
            "type": condition.kind,
            "status": "True" if condition.status else "False",
            "reason": condition.reason,
            "message": condition.message,
        }
        set_condition(self.conditions, said, rfc3339(self.now))


class Autoscalers:
    """The reconciler."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._scalers = manager.informer(HORIZONTALPODAUTOSCALERS)
        self._pods = manager.informer(PODS)
        self._measures = Measures(manager)
        self._histories: dict[str, tuple[str, History]] = {}
        self._selectors: dict[str, str] = {}

    async def reconcile(self, request: Request) -> Result:
        """Look at the metrics, set the scale, write the status; again before long."""
        scaler = self._scalers.get(request.key)
        if scaler is None or deleting(scaler):
            self._histories.pop(request.key, None)
            self._selectors.pop(request.key, None)
            return Done()
        uid, history = self._histories.get(request.key, ("", History()))
        if uid != uid_of(scaler):
            history = History()
            self._histories[request.key] = (uid_of(scaler), history)
        before = [dict(each) for each in status_of(scaler).get("conditions") or ()]
        turn = Turn(scaler, self._manager.clock.now(), before)
        status = await self._look(turn, history)
        await write_status(
            self._client,
            HORIZONTALPODAUTOSCALERS,
            scaler,
            {
                **status_of(scaler),
                "observedGeneration": meta(scaler).get("generation"),
                "conditions": turn.conditions,
                **status,
            },
        )
        return RequeueAfter(PERIOD_S)

    async def _look(self, turn: Turn, history: History) -> Object:
        try:
            resource, scale = await self._scale(turn.scaler)
        except UnderwayError as error:
            text = f"the HPA controller was unable to get the target's current scale: {error}"
            turn.say(Condition("AbleToScale", False, "FailedGetScale", text))
            self._tell(turn.scaler, WARNING, "FailedGetScale", error.message)
            return {}
        text = "the HPA controller was able to get the target's current scale"
        turn.say(Condition("AbleToScale", True, "SucceededGetScale", text))
        current = int(spec_of(scale).get("replicas") or 0)
        least, most = scaling.bounds(turn.scaler)
        seen: Object = {"currentReplicas": int(status_of(scale).get("replicas") or 0)}
        if current == 0 and least != 0:
            text = "scaling is disabled since the replica count of the target is zero"
            turn.say(Condition("ScalingActive", False, "ScalingDisabled", text))
            return {**seen, "desiredReplicas": 0}
        if current > most:
            wanted, why = most, "Current number of replicas above Spec.MaxReplicas"
        elif current < least:
            wanted, why = least, "Current number of replicas below Spec.MinReplicas"
        else:
            try:
                answer = await self._ask(turn, scale, current)
            except Unmeasured as error:
                self._tell(turn.scaler, WARNING, "FailedComputeMetricsReplicas", str(error))
                return {**seen, "desiredReplicas": current}
            seen["currentMetrics"] = answer.current or None
            decision = scaling.decide(turn.scaler, current, answer.replicas, history, turn.now)
            for condition in decision.conditions:
                turn.say(condition)
            wanted, why = decision.replicas, answer.why
            if wanted < current:
                why = "All metrics below target"
        if wanted == current:
            return {**seen, "desiredReplicas": wanted}
        done = await self._set(turn, resource, scale, wanted, why)
        if not done:
            return {**seen, "desiredReplicas": current}
        history.events.append(Event(turn.now, wanted - current))
        return {**seen, "desiredReplicas": wanted, "lastScaleTime": rfc3339(turn.now)}

    async def _scale(self, scaler: Object) -> tuple[Resource, Object]:
        target = spec_of(scaler)["scaleTargetRef"]
        version = target.get("apiVersion") or "v1"
        resource = await resource_of(self._manager, version, target["kind"])
        if resource is None:
            raise NotFound(f'no matches for kind "{target["kind"]}" in group version "{version}"')
        scale = await self._client.get(
            resource, target["name"], namespace_of(scaler), subresource="scale"
        )
        return resource, scale

    async def _set(
        self, turn: Turn, resource: Resource, scale: Object, wanted: int, why: str
    ) -> bool:
        scaler = turn.scaler
        body = {**scale, "spec": {**spec_of(scale), "replicas": wanted}}
        try:
            await self._client.replace(resource, body, subresource="scale")
        except Conflict:
            raise
        except UnderwayError as error:
            text = f"the HPA controller was unable to update the target scale: {error}"
            turn.say(Condition("AbleToScale", False, "FailedUpdateScale", text))
            told = f"New size: {wanted}; reason: {why}; error: {error.message}"
            self._tell(scaler, WARNING, "FailedRescale", told)
            return False
        text = f"the HPA controller was able to update the target scale to {wanted}"
        turn.say(Condition("AbleToScale", True, "SucceededRescale", text))
        self._tell(scaler, NORMAL, "SuccessfulRescale", f"New size: {wanted}; reason: {why}")
        return True

    # -- metrics ---------------------------------------------------------------------------

    async def _ask(self, turn: Turn, scale: Object, current: int) -> Answer:
        """What the metrics ask for.

        Raises:
            Unmeasured: none gives an answer, or one gives none and the others ask for less.
        """
        selector = str(status_of(scale).get("selector") or "")
        if not selector:
            text = "the HPA target's scale is missing a selector"
            turn.say(Condition("ScalingActive", False, "InvalidSelector", text))
            raise Unmeasured("InvalidSelector", "selector is required")
        chosen = selectors.parse_labels(selector)
        self._only(turn, selector)
        entries = self._pods.entries(namespace_of(turn.scaler))
        fleet = Fleet(
            [each.object for each in entries if chosen.matches(each.meta.labels)],
            current,
            turn.now,
            scaling.tolerance(turn.scaler, "scaleUp", demand.TOLERANCE),
            scaling.tolerance(turn.scaler, "scaleDown", demand.TOLERANCE),
        )
        best: tuple[int, str] | None = None
        shown: list[Object] = []
        failures: list[Unmeasured] = []
        metrics = spec_of(turn.scaler).get("metrics") or ()
        for metric in metrics:
            try:
                proposal, name, status = await self._one(turn.scaler, metric, fleet, selector)
            except Unmeasured as error:
                failures.append(error)
                continue
            shown.append(status)
            if best is None or proposal.replicas > best[0]:
                best = (proposal.replicas, name)
        if best is None or (failures and best[0] < current):
            failure = failures[0] if failures else Unmeasured("InvalidMetricSourceType", "none")
            text = f"the HPA was unable to compute the replica count: {failure}"
            turn.say(Condition("ScalingActive", False, failure.reason, text))
            raise Unmeasured(
                failure.reason,
                f"invalid metrics ({len(failures)} invalid out of {len(metrics)}), "
                f"first error is: {failure}",
            )
        replicas, name = best
        text = f"the HPA was able to successfully calculate a replica count from {name}"
        turn.say(Condition("ScalingActive", True, "ValidMetricFound", text))
        return Answer(replicas, f"{name} above target", shown)

    def _only(self, turn: Turn, selector: str) -> None:
        """Two that scale the same pods would undo each other's work.

        Raises:
            Unmeasured: another autoscaler's target has the same selector.
        """
        key = object_key(turn.scaler)
        self._selectors[key] = selector
        namespace = namespace_of(turn.scaler)
        others = sorted(
            name
            for each, found in self._selectors.items()
            if found == selector and each != key and self._scalers.entry(each) is not None
            for where, name in (split_key(each),)
            if where == namespace
        )
        if not others:
            return
        names = ", ".join(sorted([*others, name_of(turn.scaler)]))
        text = f"pods by selector {selector} are controlled by multiple HPAs: [{names}]"
        turn.say(Condition("ScalingActive", False, "AmbiguousSelector", text))
        raise Unmeasured("AmbiguousSelector", text)

    async def _one(
        self, scaler: Object, metric: Object, fleet: Fleet, selector: str
    ) -> tuple[Proposal, str, Object]:
        namespace = namespace_of(scaler)
        match metric["type"]:
            case "Resource":
                return await self._of_resource(namespace, metric, "resource", fleet, selector)
            case "ContainerResource":
                which = "containerResource"
                return await self._of_resource(namespace, metric, which, fleet, selector)
            case "Pods":
                source = metric["pods"]
                named, target = source["metric"], source["target"]
                measured = await self._measures.pods(namespace, selector, named)
                proposal = demand.by_average(fleet, measured, _milli(target["averageValue"]))
                shown = {"metric": named, "current": _shown("averageValue", proposal.average)}
                return proposal, f"pods metric {named['name']}", {"type": "Pods", "pods": shown}
            case "Object":
                source = metric["object"]
                named, described = source["metric"], source["describedObject"]
                value = await self._measures.object(namespace, described, named)
                proposal, current = _single(fleet, value, source["target"])
                shown = {"metric": named, "describedObject": described, "current": current}
                text = f"{described['kind']} metric {named['name']}"
                return proposal, text, {"type": "Object", "object": shown}
            case "External":
                source = metric["external"]
                named = source["metric"]
                value = await self._measures.external(namespace, named)
                proposal, current = _single(fleet, value, source["target"])
                shown = {"metric": named, "current": current}
                text = f"external metric {named['name']}"
                return proposal, text, {"type": "External", "external": shown}
        raise Unmeasured("InvalidMetricSourceType", f"unknown metric type {metric['type']}")

    async def _of_resource(
        self, namespace: str, metric: Object, which: str, fleet: Fleet, selector: str
    ) -> tuple[Proposal, str, Object]:
        source = metric[which]
        name, target, container = source["name"], source["target"], source.get("container") or ""
        measured = await self._measures.resource(namespace, selector, name, container)
        shown: Object = {"name": name}
        text = f"{name} container resource" if container else f"{name} resource"
        if container:
            shown["container"] = container
        if target.get("averageUtilization") is not None:
            percent = int(target["averageUtilization"])
            proposal = demand.by_utilization(fleet, measured, name, percent, container)
            shown["current"] = {
                "averageUtilization": proposal.average,
                **_shown("averageValue", proposal.raw_average),
            }
            text += " utilization (percentage of request)"
        else:
            wanted = _milli(target["averageValue"])
            proposal = demand.by_average(fleet, measured, wanted, cpu=name == "cpu")
            shown["current"] = _shown("averageValue", proposal.average)
        return proposal, text, {"type": metric["type"], which: shown}

    def _tell(self, scaler: Object, kind: str, reason: str, text: str) -> None:
        self._manager.events.event(scaler, kind, reason, text, component=COMPONENT)


def _single(fleet: Fleet, value_milli: int, target: Object) -> tuple[Proposal, Object]:
    if target.get("averageValue") is not None:
        proposal = demand.by_share(fleet, value_milli, _milli(target["averageValue"]))
        return proposal, _shown("averageValue", proposal.average)
    proposal = demand.by_value(fleet, value_milli, _milli(target["value"]))
    return proposal, _shown("value", value_milli)


def _milli(amount: object) -> int:
    return max(math.ceil(quantity.parse(str(amount)) * 1000), 1)


def _shown(name: str, milli: int) -> Object:
    return {name: quantity.canonical(f"{milli}m")}


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run the controller."""
    reconciler = Autoscalers(manager)
    manager.add(
        Controller(
            "horizontalpodautoscaler",
            reconciler.reconcile,
            primary=HORIZONTALPODAUTOSCALERS,
            workers=2,
            predicates=[generation_changed],
        )
    )
