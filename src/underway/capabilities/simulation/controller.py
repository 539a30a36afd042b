"""Simulated nodes and pods, and whatever else Stages are about: one controller for each kind.

A Stage is chosen once for each version of an object and waited for with the work queue's one timer,
so a thousand waiting objects cost nothing while they wait.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from underway.api.objects import Object, name_of, namespace_of, uid_of
from underway.api.resources import BUILTIN, CUSTOMRESOURCEDEFINITIONS, NODES, PODS, Resource
from underway.base.clock import rfc3339
from underway.base.errors import (
    AlreadyExists,
    Conflict,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
    UnderwayError,
)
from underway.base.home import Home
from underway.capabilities.simulation.leases import Leases
from underway.capabilities.simulation.model import STAGES, Stage, is_simulated, stage_of
from underway.capabilities.simulation.rules import actions, addresses, selection
from underway.capabilities.simulation.rules.rendering import Renderer
from underway.client import Patch
from underway.reconcile import Controller, Done, Entry, Informer, Manager, Request, RequeueAfter

log = logging.getLogger(__name__)

WORKERS = 32  # objects of a kind played at once: many, because the API commits them in groups
MANAGER = "kwok"  # field manager of what Stages apply
Kind = tuple[str, str]
_NODE, _POD = ("v1", "Node"), ("v1", "Pod")
_PATCHES = {"json": Patch.JSON, "merge": Patch.MERGE, "strategic": Patch.STRATEGIC}
_TRANSIENT = (ServiceUnavailable, TooManyRequests)


class Simulation:
    """Keeps a player for every kind of which there are Stages, and knows who has which address."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.nodes: dict[str, Known] = {}
        self.addresses = addresses.Addresses()
        self._subject: Object = {}
        self._stages = manager.informer(STAGES)
        self._pods = manager.informer(PODS)
        self._crds: Informer | None = None
        self._players: dict[Kind, Player] = {}
        self._defaults = default_stages()
        self._render = Renderer(self._now, self._functions())

    def listen(self) -> None:
        """Follow Stages, nodes and pods from now on."""
        self._pods.add_index("nodeName", lambda pod: (pod["spec"].get("nodeName") or "",))
        self.manager.informer(NODES).add_handler(self._on_node)
        self._pods.add_handler(self._on_pod)
        self._stages.add_handler(lambda *_: self._review())
        self._review()

    def render(self, text: str, obj: Object) -> Any:
        """What a template gives for an object."""
        self._subject = obj
        return self._render(text, obj)

    def concerns(self, obj: Object) -> bool:
        """Whether Stages may be about an object: not about nodes and pods that are real."""
        if obj["kind"] == "Node" and obj["apiVersion"] == "v1":
            return is_simulated(obj)
        if obj["kind"] == "Pod" and obj["apiVersion"] == "v1":
            return obj["spec"].get("nodeName") in self.nodes
        return True

    def resource(self, api_version: str, kind: str) -> Resource | None:
        """The resource of a kind; for one that is not served yet, it is looked for again."""
        for each in BUILTIN:
            if each.api_version == api_version and each.kind == kind:
                return each
        if self._crds is None:
            self._crds = self.manager.informer(CUSTOMRESOURCEDEFINITIONS)
            self._crds.add_handler(lambda *_: self._review())
        group, _, version = api_version.rpartition("/")
        for crd in self._crds.list():
            spec = crd["spec"]
            names = spec["names"]
            served = any(each["name"] == version for each in spec["versions"])
            if spec["group"] == group and names["kind"] == kind and served:
                namespaced = spec["scope"] == "Namespaced"
                return Resource(group, version, names["plural"], kind, namespaced)
        return None

    # -- following -------------------------------------------------------------------------

    def _review(self) -> None:
        """Bring the players in line with the Stages there are."""
        wanted: dict[Kind, list[Stage]] = {}
        for obj in self._stages.list():
            try:
                stage = stage_of(obj)
                selection.check(stage)
            except UnderwayError as error:
                self.manager.events.event(obj, "Warning", "InvalidStage", str(error))
                log.warning("stage %s: %s", name_of(obj), error)
                continue
            wanted.setdefault((stage.api_version, stage.kind), []).append(stage)
        for kind, stages in self._defaults.items():
            wanted.setdefault(kind, stages)
        for kind, player in self._players.items():
            player.become(wanted.get(kind, ()))
        for kind in wanted.keys() - self._players.keys():
            resource = self.resource(*kind)
            if resource is not None:
                self._players[kind] = Player(self, resource)
                self._players[kind].become(wanted[kind])

    def _on_node(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        name = (new or old).meta.name  # type: ignore[union-attr]  # one of them is there
        if new is None or not is_simulated(new.view):
            if self.nodes.pop(name, None) is not None:
                self.addresses.release(f"node/{name}")
            return
        known = Known.of(new.view)
        if known.address:
            self.addresses.mark(f"node/{name}", addresses.NODES, known.address)
        first = name not in self.nodes
        self.nodes[name] = known
        if first and (player := self._players.get(_POD)):
            player.look_at(self._pods.index_keys("nodeName", name))

    def _on_pod(self, _kind: str, old: Entry | None, new: Entry | None) -> None:
        if new is None:
            self.addresses.release(old.meta.uid)  # type: ignore[union-attr]
        elif old is None:
            pod = new.view
            node = self.nodes.get(pod["spec"].get("nodeName") or "")
            address = (pod.get("status") or {}).get("podIP")
            if node and address and not pod["spec"].get("hostNetwork"):
                self.addresses.mark(new.meta.uid, node.network, address)

    # -- functions of templates --------------------------------------------------------------

    def _now(self) -> str:
        return rfc3339(self.manager.clock.now())

    def _functions(self) -> dict[str, Callable[..., Any]]:
        return {
            "NodeName": lambda: name_of(self._subject),
            "NodePort": lambda: 0,  # there is no agent to be asked
            "NodeIP": lambda: self._node_ip(name_of(self._subject)),
            "NodeIPWith": self._node_ip,
            "NodeIPsWith": lambda name: [self._node_ip(name)],
            "PodIPWith": self._pod_ip,
            "PodIPsWith": lambda *of: [self._pod_ip(*of)],
        }

    def _node_ip(self, name: str) -> str:
        known = self.nodes.get(name)
        if known is not None and known.address:
            return known.address
        return self.addresses.take(f"node/{name}", addresses.NODES)

    def _pod_ip(self, node: str, host: bool, uid: str, _name: str, _namespace: str) -> str:
        if host:
            return self._node_ip(node)
        known = self.nodes.get(node)
        return self.addresses.take(uid, known.network if known else addresses.PODS)


@dataclass(frozen=True, slots=True)
class Known:
    """What pods need to know of their node."""

    address: str
    network: str

    @classmethod
    def of(cls, node: Object) -> Known:
        """The same, read from a node."""
        found = (node.get("status") or {}).get("addresses") or ()
        internal = (each["address"] for each in found if each["type"] == "InternalIP")
        network = (node.get("spec") or {}).get("podCIDR") or addresses.PODS
        return cls(next(internal, ""), network)


@dataclass(slots=True)
class _Plan:
    """Which Stage one version of an object enters when, and how far it has got."""

    version: tuple[str, str]
    stages: object
    stage: Stage
    due: float
    step: int = 0
    played: bool = False


class Player:
    """Takes the objects of one kind from Stage to Stage."""

    def __init__(self, simulation: Simulation, resource: Resource) -> None:
        self._simulation = simulation
        self._manager = simulation.manager
        self._client = simulation.manager.client
        self._clock = simulation.manager.clock
        self._resource = resource
        self._stages: tuple[Stage, ...] = ()
        self._plans: dict[str, _Plan] = {}
        self._chance = random.Random()  # noqa: S311  # chance, not secrecy
        self._informer = self._manager.informer(resource)
        self._controller = self._manager.add(
            Controller(
                f"stages of {resource.group_resource}",
                self._reconcile,
                primary=self._informer,
                workers=WORKERS,
                predicates=[lambda _kind, _old, new: new is None or simulation.concerns(new)],
            )
        )

    def become(self, stages: Iterable[Stage]) -> None:
        """Play these Stages from now on."""
        stages = tuple(stages)
        if stages != self._stages:
            self._stages = stages
            self.look_at(self._informer.keys())

    def look_at(self, keys: Iterable[str]) -> None:
        """Look at these objects again."""
        for key in keys:
            self._controller.enqueue(Request.of(key))

    async def _reconcile(self, request: Request) -> Done | RequeueAfter:
        obj = self._informer.get(request.key)
        if obj is None or not self._simulation.concerns(obj):
            self._plans.pop(request.key, None)
            return Done()
        while True:
            plan = self._plan(request.key, obj)
            if plan is None or plan.played:
                return Done()
            left_s = plan.due - self._clock.monotonic()
            if left_s > 0:
                return RequeueAfter(left_s)
            result = await self._play(plan, obj)
            if result is None or not plan.stage.immediate:
                return Done()
            obj = result  # the next Stage is chosen before the watch shows this one's result

    def _plan(self, key: str, obj: Object) -> _Plan | None:
        version = uid_of(obj), obj["metadata"]["resourceVersion"]
        plan = self._plans.get(key)
        if plan is not None and plan.version == version and plan.stages is self._stages:
            return plan
        stage = selection.choose(self._stages, obj, self._chance)
        if stage is None:
            self._plans.pop(key, None)
            return None
        delay_s = selection.delay_s(stage, obj, self._clock.now(), self._chance)
        due = self._clock.monotonic() + delay_s
        plan = self._plans[key] = _Plan(version, self._stages, stage, due)
        return plan

    async def _play(self, plan: _Plan, obj: Object) -> Object | None:
        """Take the steps that are left; the object as the last one left it, if one changed it."""
        result: Object | None = None
        try:
            while plan.step < len(plan.stage.steps):
                step = plan.stage.steps[plan.step]
                for action in actions.actions(step, obj, self._simulation.render):
                    result = await self._act(action, obj) or result
                plan.step += 1
        except _TRANSIENT:
            raise  # the work queue comes back to this step
        except (NotFound, Conflict) as error:
            log.debug("stage %s of %s: %s", plan.stage.name, name_of(obj), error)
        except UnderwayError as error:
            text = f"stage {plan.stage.name}: {error}"
            self._manager.events.event(obj, "Warning", "StageFailed", text, component=MANAGER)
            log.warning("%s %s: %s", obj["kind"], name_of(obj), text)
        plan.played = True
        return result

    async def _act(self, action: actions.Action, obj: Object) -> Object | None:
        namespace = namespace_of(obj)
        match action:
            case actions.Tell():
                told = self._manager.events
                told.event(obj, action.type, action.reason, action.message, component=MANAGER)
            case actions.Delete():
                await self._client.delete(
                    self._resource, name_of(obj), namespace, uid=uid_of(obj), grace_period_s=0
                )
            case actions.Modify():
                body = action.body
                if isinstance(body, dict):  # not of another object of this name
                    body = {**body, "metadata": {**(body.get("metadata") or {})}}
                    body["metadata"]["uid"] = uid_of(obj)
                return await self._client.patch(
                    self._resource,
                    name_of(obj),
                    body,
                    namespace,
                    how=_PATCHES[action.how],
                    subresource=action.subresource,
                )
            case actions.Apply():
                await self._apply(action, namespace)
        return None

    async def _apply(self, action: actions.Apply, namespace: str) -> None:
        body = action.body
        resource = self._simulation.resource(body.get("apiVersion") or "v1", body["kind"])
        if resource is None:
            raise NotFound(f"no resource {body['kind']} of {body.get('apiVersion')} is served")
        if resource.namespaced:
            body["metadata"].setdefault("namespace", namespace)
        if action.how == "apply":
            await self._client.apply(
                resource, body, field_manager=MANAGER, subresource=action.subresource
            )
            return
        if not action.subresource:
            try:
                await self._client.create(resource, body)
            except AlreadyExists:
                pass
            else:
                return
        await self._client.patch(
            resource,
            name_of(body),
            body,
            namespace_of(body),
            how=_PATCHES[action.how],
            subresource=action.subresource,
        )


def default_stages() -> dict[Kind, list[Stage]]:
    """The Stages of nodes and pods for clusters that have none of their own for these."""
    found: dict[Kind, list[Stage]] = {}
    folder = resources.files("underway.capabilities.simulation.stages")
    for file in ("nodes.yaml", "pods.yaml"):
        for obj in yaml.safe_load_all(folder.joinpath(file).read_text(encoding="utf-8")):
            stage = stage_of(obj)
            found.setdefault((stage.api_version, stage.kind), []).append(stage)
    return found


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Play Stages, and renew the Leases of simulated nodes."""
    Simulation(manager).listen()
    Leases(manager).listen()
