"""One pod's life on this node: look, decide (``rules.plan``), act, tell."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from underway.api.objects import Object, deleting, key_of, meta, name_of, namespace_of, uid_of
from underway.api.resources import PODS
from underway.base.errors import BadRequest, Conflict, NotFound, UnderwayError
from underway.base.threads import run_blocking
from underway.capabilities.node.backend import commands
from underway.capabilities.node.backend.containers import Launch, signal_name
from underway.capabilities.node.backend.pulls import Pulled, PullFailure
from underway.capabilities.node.backend.sandboxes import Shared
from underway.capabilities.node.controller.health import Health
from underway.capabilities.node.controller.material import Tokens
from underway.capabilities.node.controller.services import Services
from underway.capabilities.node.model import (
    ContainerRecord,
    ContainerSpec,
    Kind,
    Observed,
    Sandbox,
    Stopping,
    Verdict,
    Waiting,
    containers_of,
    ephemeral_of,
)
from underway.capabilities.node.rules import environment, payload, status
from underway.capabilities.node.rules import plan as rules
from underway.client import Patch
from underway.reconcile.events import NORMAL, WARNING

log = logging.getLogger(__name__)

COMPONENT = "kubelet"
_FIELDS = {Kind.APP: "containers", Kind.EPHEMERAL: "ephemeralContainers"}
MOUNT_BACKOFF_S, MOUNT_BACKOFF_MAX_S = 0.5, 120.0
STEP_BACKOFF_S, STEP_BACKOFF_MAX_S = 1.0, 60.0


class PodWorker:
    """Brings one pod to what its object says, and its object to what is so."""

    def __init__(self, services: Services, pod: Object, *, gone: bool = False) -> None:
        self.uid = uid_of(pod)
        self.pod = pod
        self._services = services
        self._gone = gone
        self._containers: dict[str, list[ContainerRecord]] = {}
        self._shared: Shared | None = None
        self._paths: dict[str, Any] = {}
        self._images: dict[str, Pulled] = {}
        self._pulling: set[str] = set()
        self._waiting: dict[str, Waiting] = {}
        self._stopping: dict[str, Stopping] = {}
        self._health: dict[str, Health] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._ended: set[str] = set()
        self._tokens = Tokens(services.client, services.clock)
        self._stale = False
        self._done = False
        self._woken = asyncio.Event()
        self._alarm: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None

    # -- what others ask -------------------------------------------------------------------

    def update(self, pod: Object) -> None:
        """The pod's object changed."""
        if _version(pod) < _version(self.pod):
            return
        self.pod = pod
        self.refresh()

    def vanish(self) -> None:
        """The pod's object is gone."""
        self._gone = True
        self._woken.set()

    def refresh(self) -> None:
        """Bring volumes up to date and look again."""
        self._stale = True
        self._woken.set()

    def material_changed(self) -> None:
        """An object that the pod names changed: what waited for it need wait no longer."""
        for name, waiting in self._waiting.items():
            if waiting.reason in ("ContainerCreating", "CreateContainerConfigError"):
                self._waiting[name] = replace(waiting, until=None)
        self.refresh()

    def names(self, kind: str, name: str) -> bool:
        """Whether the pod names a ConfigMap (kind ``configmap``) or Secret (``secret``)."""
        configmaps, secrets = payload.referenced(self.pod)
        return name in (configmaps if kind == "configmap" else secrets)

    def runs(self, container: str) -> list[ContainerRecord]:
        """The runs of a container, oldest first."""
        return list(self._containers.get(container) or ())

    def running(self) -> list[ContainerRecord]:
        """The runs that have not ended."""
        return [run for runs in self._containers.values() for run in runs if not run.finished]

    @property
    def is_gone(self) -> bool:
        """Whether the pod's object no longer exists."""
        return self._gone

    @property
    def ip(self) -> str:
        """The pod's address, empty while it has none."""
        return self._shared.ip if self._shared else ""

    @property
    def netns(self) -> str:
        """The path of the pod's network namespace, empty on the host's network."""
        return self._shared.netns if self._shared else ""

    # -- the loop --------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until the pod is gone from this node, or cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self._load()
                failures = 0
                while not self._done:
                    self._woken.clear()
                    try:
                        wait_s = await self._step()
                        failures = 0
                    except UnderwayError as error:
                        log.warning("pod %s: %s", self._key, error)
                        wait_s = min(STEP_BACKOFF_S * 2.0**failures, STEP_BACKOFF_MAX_S)
                        failures = min(failures + 1, 10)
                    if not self._done:
                        self._set_alarm(wait_s)
                        await self._woken.wait()
                raise _Finished
        except* _Finished:
            pass
        finally:
            self._group = None
            for runs in self._containers.values():
                for record in runs:
                    self._services.exits.drop(record.id)

    async def _load(self) -> None:
        """Take up what an earlier agent left."""
        self._containers = await run_blocking(self._services.containers.recover, self.uid)
        if (self.pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            await run_blocking(self._services.sandboxes.release, self.uid)
        elif any(not run.finished for runs in self._containers.values() for run in runs):
            with contextlib.suppress(UnderwayError):
                await self._prepare()
        known = {
            each.get("containerID", "").rpartition("/")[2]: each
            for each in (self.pod.get("status") or {}).get("containerStatuses") or ()
        }
        for runs in self._containers.values():
            for record in runs:
                if not record.finished:
                    before = known.get(record.id)
                    self._adopt(
                        record,
                        Verdict(bool(before.get("started")), bool(before.get("ready")))
                        if before
                        else None,
                    )

    async def _step(self) -> float | None:
        for record in [r for runs in self._containers.values() for r in runs]:
            if record.id in self._ended:
                await self._settle(record)
        if self._stale and self._shared and not self._gone:
            await self._bring_up_to_date()
        while True:
            seen = self._observe()
            decided = rules.plan(self.pod, seen)
            if not decided.actions:
                break
            for action in decided.actions:
                await self._act(action)
                if self._done:
                    return None
        await self._tell()
        due = self._tokens.due
        if due and self._shared:
            decided.look_again(due, seen.now)
            if due <= seen.now:
                self._stale = True
                decided.wait_s = STEP_BACKOFF_S
        return decided.wait_s

    def _observe(self) -> Observed:
        return Observed(
            now=self._services.clock.now(),
            containers=self._containers,
            sandbox=Sandbox(self._shared.ip) if self._shared else None,
            images=frozenset(self._images),
            pulling=frozenset(self._pulling),
            waiting=self._waiting,
            stopping=self._stopping,
            verdicts={key: health.verdict for key, health in self._health.items()},
            gone=self._gone,
        )

    async def _act(self, action: rules.Action) -> None:
        match action:
            case rules.PrepareSandbox():
                await self._prepare_or_wait()
            case rules.ReleaseSandbox():
                await run_blocking(self._services.sandboxes.release, self.uid)
                self._shared = None
            case rules.Pull(name):
                self._pulling.add(name)
                self._spawn(self._pull(self._spec(name)))
            case rules.Start():
                await self._start(action)
            case rules.Stop():
                self._begin_stop(action)
            case rules.Kill(id, name):
                self._stopping[id] = replace(self._stopping[id], killed=True)
                record = self._record(name, id)
                await run_blocking(self._services.containers.signal, record, "SIGKILL")
            case rules.Forget():
                await self._forget()

    # -- sandbox ---------------------------------------------------------------------------

    async def _prepare_or_wait(self) -> None:
        try:
            await self._prepare()
        except (UnderwayError, OSError) as error:
            if isinstance(error, UnderwayError):
                message = error.message
            else:
                message = f"{error.filename or ''}: {error.strerror or error}"
            mount = "MountVolume" in message or "volume" in message
            self._event(WARNING, "FailedMount" if mount else "FailedCreatePodSandBox", message)
            self._hold("", "ContainerCreating", message, MOUNT_BACKOFF_S, MOUNT_BACKOFF_MAX_S)
        else:
            self._waiting.pop("", None)

    async def _prepare(self) -> None:
        services = self._services
        shared = await run_blocking(services.sandboxes.prepare, self.pod)
        sources = await services.material.sources(self.pod)
        files = await services.material.files(
            self.pod, sources, services.machine, shared.ip, self._tokens
        )
        claims = await services.material.claims(self.pod)
        self._paths = await run_blocking(services.volumes.prepare, self.pod, files, claims)
        self._shared = shared
        self._stale = False

    async def _bring_up_to_date(self) -> None:
        assert self._shared is not None
        self._stale = False
        services = self._services
        await run_blocking(services.sandboxes.remember, self.pod)
        try:
            sources = await services.material.sources(self.pod)
            files = await services.material.files(
                self.pod, sources, services.machine, self._shared.ip, self._tokens
            )
        except (NotFound, BadRequest) as error:
            self._event(WARNING, "FailedMount", error.message)
            return
        await run_blocking(services.volumes.update, self.pod, files)

    # -- images ----------------------------------------------------------------------------

    async def _pull(self, each: ContainerSpec) -> None:
        services, image = self._services, each.spec.get("image") or ""
        began = services.clock.monotonic()
        loop = asyncio.get_running_loop()

        def started() -> None:
            loop.call_soon_threadsafe(
                self._event, NORMAL, "Pulling", f'Pulling image "{image}"', each
            )

        try:
            policy = services.pulls.policy(image, each.spec.get("imagePullPolicy") or "")
            async with services.pulling:
                pulled = await run_blocking(services.pulls.ensure, image, policy, started)
        except (PullFailure, BadRequest) as error:
            self._pull_failed(each, error)
        else:
            took_s = services.clock.monotonic() - began
            if pulled.downloaded or policy == "Always":
                message = (
                    f'Successfully pulled image "{image}" in {took_s:.3f}s. '
                    f"Image size: {pulled.size_bytes} bytes."
                )
            else:
                message = f'Container image "{image}" already present on machine'
            self._event(NORMAL, "Pulled", message, each)
            self._waiting.pop(each.name, None)
            self._images[each.name] = pulled
        finally:
            self._pulling.discard(each.name)
            self._woken.set()

    def _pull_failed(self, each: ContainerSpec, error: UnderwayError) -> None:
        reason = getattr(error, "waiting_reason", "InvalidImageName")
        image = each.spec.get("image") or ""
        before = self._waiting.get(each.name)
        self._event(WARNING, "Failed", error.message, each)
        self._event(WARNING, "Failed", f"Error: {reason}", each)
        message = error.message
        if before and before.failures and reason == "ErrImagePull":
            reason = "ImagePullBackOff"
            message = f'Back-off pulling image "{image}": {error.message}'
            self._event(NORMAL, "BackOff", f'Back-off pulling image "{image}"', each)
        self._hold(each.name, reason, message, rules.BASE_BACKOFF_S, rules.MAX_BACKOFF_S)

    # -- containers ------------------------------------------------------------------------

    async def _start(self, action: rules.Start) -> None:
        assert self._shared is not None
        each, services = self._spec(action.name), self._services
        pulled = self._images.pop(action.name)
        try:
            sources = await services.material.sources(self.pod)
            variables = environment.environment(
                each.spec, self.pod, sources, services.machine, self._shared.ip
            )
            binds = await run_blocking(
                services.volumes.mounts, self.pod, each.spec, self._paths, variables
            )
            launch = Launch(
                pod=self.pod,
                each=each,
                image=pulled.image,
                image_id=pulled.image_id,
                attempt=action.attempt,
                backoff_s=action.backoff_s,
                hostname=self._shared.hostname,
                variables=variables,
                mounts=_over(self._shared, binds),
                netns=self._shared.netns,
                ipcns=self._shared.ipcns,
                pidns=self._target(each),
            )
            record = await run_blocking(services.containers.start, launch)
        except (NotFound, BadRequest, ValueError) as error:
            self._start_failed(each, "CreateContainerConfigError", _words(error))
            return
        except (UnderwayError, OSError) as error:
            self._start_failed(each, "CreateContainerError", _words(error))
            return
        self._waiting.pop(each.name, None)
        await run_blocking(services.containers.records.prune, self.uid, each.name)
        runs = [*self._containers.get(each.name, ()), record]
        self._containers[each.name] = runs[-2:]
        self._event(NORMAL, "Created", f"Created container: {each.name}", each)
        if record.finished:
            self._event(WARNING, "Failed", f"Error: {record.message}", each)
            return
        self._event(NORMAL, "Started", f"Started container {each.name}", each)
        self._adopt(record, None)
        if hook := (each.spec.get("lifecycle") or {}).get("postStart"):
            self._spawn(self._post_start(record, each, hook))

    def _start_failed(self, each: ContainerSpec, reason: str, message: str) -> None:
        self._event(WARNING, "Failed", f"Error: {message}", each)
        self._hold(each.name, reason, message, 2.0, 60.0)

    def _adopt(self, record: ContainerRecord, before: Verdict | None) -> None:
        """Watch over a running container."""
        try:
            each = self._spec(record.name)
        except NotFound:
            each = ContainerSpec(record.name, Kind.APP, {"name": record.name})
        health = Health(
            self._services.containers,
            self._services.clock,
            record,
            each.spec,
            self._shared.ip if self._shared else "",
            before,
            self._woken.set,
            lambda kind, why: self._event(
                WARNING, "Unhealthy", f"{kind} probe failed: {why}", each
            ),
        )
        self._health[record.id] = health
        self._probes[record.id] = self._spawn(health.run())

        def ended() -> None:
            self._ended.add(record.id)
            self._woken.set()

        self._services.exits.add(record.id, record.shim_pid, ended)

    async def _settle(self, record: ContainerRecord) -> None:
        """Account for a container that ended."""
        finished = await run_blocking(self._services.containers.settle, record)
        runs = self._containers[record.name]
        runs[runs.index(record)] = finished
        self._ended.discard(record.id)
        self._services.exits.drop(record.id)
        self._stopping.pop(record.id, None)
        self._health.pop(record.id, None)
        if probe := self._probes.pop(record.id, None):
            probe.cancel()
        each = self._spec(record.name)
        if self._gone or deleting(self.pod) or not rules.restarts(self.pod, each, finished):
            return
        if finished.backoff_s:
            message = (
                f"Back-off restarting failed container {each.name} in pod "
                f"{name_of(self.pod)}_{namespace_of(self.pod)}({self.uid})"
            )
            self._event(WARNING, "BackOff", message, each)

    def _begin_stop(self, action: rules.Stop) -> None:
        now = self._services.clock.now()
        self._stopping[action.id] = Stopping(now, action.grace_s)
        record = self._record(action.name, action.id)
        each = self._spec(action.name)
        message = action.reason or f"Stopping container {action.name}"
        self._event(NORMAL, "Killing", message, each)
        if probe := self._probes.pop(record.id, None):
            probe.cancel()
        self._spawn(self._stop(record, each, action.grace_s))

    async def _stop(self, record: ContainerRecord, each: ContainerSpec, grace_s: float) -> None:
        hook = (each.spec.get("lifecycle") or {}).get("preStop")
        if hook and grace_s > 0:
            if seconds := (hook.get("sleep") or {}).get("seconds"):
                await self._services.clock.sleep(min(float(seconds), grace_s))
            elif why := await self._carry_out(record, each, hook, grace_s):
                self._event(WARNING, "FailedPreStopHook", f"PreStopHook failed: {why}", each)
        try:
            name = signal_name(record.stop_signal)
        except BadRequest:
            name = "SIGTERM"
        await run_blocking(self._services.containers.signal, record, name)

    async def _post_start(self, record: ContainerRecord, each: ContainerSpec, hook: Object) -> None:
        if seconds := (hook.get("sleep") or {}).get("seconds"):
            await self._services.clock.sleep(float(seconds))
        elif why := await self._carry_out(record, each, hook, None):
            self._event(WARNING, "FailedPostStartHook", f"PostStartHook failed: {why}", each)
            if health := self._health.get(record.id):
                health.fail("FailedPostStartHook")

    async def _carry_out(
        self, record: ContainerRecord, each: ContainerSpec, hook: Object, timeout_s: float | None
    ) -> str:
        limit_s = timeout_s if timeout_s is not None else 3600.0
        return await commands.attempt(
            self._services.containers, record, each.spec, hook, self.ip, limit_s
        )

    # -- telling ---------------------------------------------------------------------------

    async def _tell(self) -> None:
        """Write the pod's status if it changed."""
        before = self.pod.get("status") or {}
        if self._gone or self._done or (deleting(self.pod) and not self._containers):
            return
        if before.get("phase") in ("Succeeded", "Failed") and not self._containers:
            return
        now = status.pod_status(self.pod, self._observe(), self._services.machine.address)
        changed = {name: value for name, value in now.items() if before.get(name) != value}
        for name in ("reason", "message"):
            if before.get(name) and name not in now:
                changed[name] = None
        if not changed:
            return
        if "conditions" in changed:
            changed["conditions"] = _clearing(before.get("conditions") or (), now["conditions"])
        if before.get("podIPs") and "podIPs" in changed:
            changed["podIPs"] = [{"$patch": "replace"}, *changed["podIPs"]]
        body = {"metadata": {"uid": self.uid}, "status": changed}
        try:
            written = await self._services.client.patch(
                PODS,
                name_of(self.pod),
                body,
                namespace_of(self.pod),
                how=Patch.STRATEGIC,
                subresource="status",
            )
        except (NotFound, Conflict) as error:
            log.debug("status of %s not written: %s", self._key, error)
            return
        if uid_of(written) == self.uid and _version(written) >= _version(self.pod):
            self.pod = written

    async def _forget(self) -> None:
        """Nothing runs any more: leave no trace, then let the object go."""
        if not self._gone:
            await self._tell()
        await run_blocking(self._services.sandboxes.remove, self.uid)
        if not self._gone:
            with contextlib.suppress(NotFound, Conflict):
                await self._services.client.delete(
                    PODS,
                    name_of(self.pod),
                    namespace_of(self.pod),
                    uid=self.uid,
                    grace_period_s=0,
                )
        self._done = True

    def _event(
        self, kind: str, reason: str, message: str, each: ContainerSpec | None = None
    ) -> None:
        path = ""
        if each is not None:
            field_name = _FIELDS.get(each.kind, "initContainers")
            path = f"spec.{field_name}{{{each.name}}}"
        subject = {"apiVersion": "v1", "kind": "Pod", "metadata": meta(self.pod)}
        self._services.events.event(
            subject, kind, reason, message, component=COMPONENT, field_path=path
        )

    # -- small matters ---------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return key_of(namespace_of(self.pod), name_of(self.pod))

    def _spec(self, name: str) -> ContainerSpec:
        for each in (*containers_of(self.pod), *ephemeral_of(self.pod)):
            if each.name == name:
                return each
        raise NotFound(f"pod {self._key} has no container {name}")

    def _target(self, each: ContainerSpec) -> str:
        """The process namespace that an ephemeral container is to share with another.

        Raises:
            BadRequest: that one does not run.
        """
        target = each.spec.get("targetContainerName")
        if not target or each.kind is not Kind.EPHEMERAL:
            return ""
        runs = self.runs(target)
        if not runs or not runs[-1].running:
            raise BadRequest(f"target container {target} is not running")
        return f"/proc/{runs[-1].pid}/ns/pid"

    def _record(self, name: str, container_id: str) -> ContainerRecord:
        return next(run for run in self._containers[name] if run.id == container_id)

    def _hold(self, name: str, reason: str, message: str, base_s: float, limit_s: float) -> None:
        """Do not try again before a while that doubles with each failure."""
        before = self._waiting.get(name)
        failures = before.failures if before else 0
        delay_s = min(base_s * 2.0 ** min(failures, 12), limit_s)
        until: datetime = self._services.clock.now() + timedelta(seconds=delay_s)
        self._waiting[name] = Waiting(reason, message, until, failures + 1)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._group is not None
        return self._group.create_task(work)

    def _set_alarm(self, wait_s: float | None) -> None:
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        if wait_s is not None and not self._woken.is_set():
            self._alarm = self._spawn(self._ring(wait_s))

    async def _ring(self, wait_s: float) -> None:
        await self._services.clock.sleep(wait_s)
        self._alarm = None
        self._woken.set()


class _Finished(Exception):
    """The pod is gone: ends the worker's task group with everything in it."""


def _over(shared: Shared, binds: list[Any]) -> list[Any]:
    """The sandbox's mounts, without those that a volume mount of the pod replaces."""
    taken = {bind.target.rstrip("/") for bind in binds}
    return [mount for mount in shared.mounts if mount.target not in taken] + binds


def _clearing(before: Iterable[Object], now: Iterable[Object]) -> list[Object]:
    """Conditions as a strategic merge patch that also takes away what they had and have no more."""
    old = {condition["type"]: condition for condition in before}
    return [{**dict.fromkeys(set(old.get(each["type"], ())) - set(each)), **each} for each in now]


def _words(error: Exception) -> str:
    if isinstance(error, UnderwayError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return str(error)


def _version(pod: Object) -> int:
    text = str(meta(pod).get("resourceVersion") or "0")
    return int(text) if text.isdigit() else 0
