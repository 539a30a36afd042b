"""Carries out a passage, step by step, and walks it back.

What every step found is written to the Passage's status as it ends. A step that fails stops the
passage; what was applied is undone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from underway.api import selectors
from underway.api.objects import Object, find_condition, labels_of, name_of, namespace_of
from underway.api.resources import (
    CUSTOMRESOURCEDEFINITIONS,
    DEPLOYMENTS,
    NAMESPACES,
    PODS,
    SERVICES,
    Resource,
)
from underway.base.clock import Clock, rfc3339
from underway.base.errors import (
    BadRequest,
    InternalError,
    NotFound,
    RequestTimeout,
    UnderwayError,
)
from underway.base.home import Settings
from underway.base.threads import run_blocking
from underway.capabilities.passage import backend
from underway.capabilities.passage.model import (
    PASSAGE_ANNOTATION,
    PASSAGES,
    Applied,
    Outcome,
    Reference,
    Rollout,
    Source,
    Step,
)
from underway.capabilities.passage.rules import objects, proofs, rollouts, scheduling
from underway.client import Client
from underway.client.discovery import Discovery
from underway.kit.ports import (
    BuildRequest,
    BuildResult,
    FittedSource,
    ImageBuilder,
    ImageScanner,
    ImageSigner,
    ProvenanceRecorder,
    ScanSummary,
    ShippedImage,
    SourceFitter,
)

FIELD_MANAGER = "underway-ship"
_LOG_LINES = 20
_POLL_S = 0.1
_PROOF_S = 120.0  # that a step which only looks or vouches may take


class Reporter(Protocol):
    """Where progress goes."""

    def begin(self, step: str) -> None:
        """A step begins."""
        ...

    def line(self, text: str) -> None:
        """Something happened within the step."""
        ...

    def end(self, step: str, message: str, seconds: float, *, failed: bool = False) -> None:
        """The step has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be shipped, and where to."""

    root: Path
    application: str
    namespace: str = "default"
    port: int | None = None
    timeout_s: float = 180.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What a shipment works with; scanner, signer and recorder where somebody provides them."""

    client: Client
    settings: Settings
    fitter: SourceFitter
    builder: ImageBuilder
    clock: Clock
    scanner: ImageScanner | None = None
    signer: ImageSigner | None = None
    recorder: ProvenanceRecorder | None = None


class Shipment:
    """One run of a passage.

    ``ship`` raises the failing step's error, after the undoing, with the log's last lines.
    """

    def __init__(self, order: Order, tools: Tools, reporter: Reporter) -> None:
        self._order = order
        self._tools = tools
        self._client = tools.client
        self._discovery = Discovery(tools.client)
        self._report = reporter
        self._outcome = Outcome()
        self._passage: Object | None = None
        self._settled = False

    async def ship(self) -> Object:
        """Carry out every step; gives the Passage as it stands in the cluster."""
        try:
            await self._run()
        except (UnderwayError, asyncio.CancelledError) as error:
            await self._undo()
            await self._record("Failed", str(error) or "interrupted")
            raise
        assert self._passage is not None
        if not self._settled:
            await self._record("Succeeded", "")
        return self._passage

    async def _run(self) -> None:
        async with self._step("source") as step:
            await self._require_namespace()
            fitted = await run_blocking(
                self._tools.fitter.fit, self._order.root, self._order.application, self._order.port
            )
            source = await run_blocking(backend.read_source, fitted.root, fitted.language)
            self._describe_source(step, fitted, source)
            self._passage = await self._open_passage(source)
        async with self._step("build") as step:
            built = await self._build(fitted)
            step.message = _build_message(built)
        if not self._settled:
            await self._prove(source, built)
        async with self._step("apply") as step:
            await self._apply(fitted, built)
            step.message = ", ".join(
                f"{each.resource.kind.lower()}/{name_of(each.after)} {each.verb}"
                for each in self._outcome.applied
            )
        async with self._step("rollout") as step:
            step.message = await self._wait_for_rollout()
        async with self._step("probe") as step:
            step.message = await self._probe()
        if not self._settled:
            await self._note_deployment(built)
        async with self._step("prune") as step:
            step.message = await self._prune()

    @asynccontextmanager
    async def _advisory(self, name: str) -> AsyncIterator[Step]:
        """A step whose failure is reported and does not stop the passage."""
        with contextlib.suppress(UnderwayError):
            async with self._step(name) as step:
                try:
                    async with asyncio.timeout(_PROOF_S):
                        yield step
                except UnderwayError:
                    raise
                except TimeoutError as error:
                    raise RequestTimeout(f"not done after {_PROOF_S:g} s") from error
                except Exception as error:  # whatever breaks in a prover, the passage goes on
                    raise InternalError(f"{type(error).__name__}: {error}") from error

    @asynccontextmanager
    async def _step(self, name: str) -> AsyncIterator[Step]:
        step = Step(name, rfc3339(self._tools.clock.now()))
        started = self._tools.clock.monotonic()
        self._outcome.steps.append(step)
        self._report.begin(name)
        try:
            yield step
            step.state = "Succeeded"
        except (UnderwayError, asyncio.CancelledError) as error:
            step.state, step.message = "Failed", str(error) or "interrupted"
            raise
        finally:
            step.seconds = self._tools.clock.monotonic() - started
            failed = step.state != "Succeeded"
            self._report.end(name, step.message, step.seconds, failed=failed)
        if not self._settled and self._passage is not None:
            await self._record("Running", "")

    async def _require_namespace(self) -> None:
        try:
            await self._client.get(NAMESPACES, self._order.namespace)
        except NotFound as error:
            raise NotFound(
                f"namespace {self._order.namespace} does not exist",
                hint=f"kubectl create namespace {self._order.namespace}",
            ) from error

    def _describe_source(self, step: Step, fitted: FittedSource, source: Source) -> None:
        for path in fitted.written:
            self._report.line(f"wrote {path}; it is yours to edit")
        commit = source.commit[:12] if source.commit else "no git commit"
        changed = ", modified" if source.modified else ""
        step.message = f"{fitted.language}, {commit}{changed}"
        if fitted.evidence:
            self._report.line(fitted.evidence)

    async def _open_passage(self, source: Source) -> Object:
        name = objects.passage_name(self._order.application, source.digest)
        spec = {"application": self._order.application, "source": source.as_dict()}
        obj: Object = {
            "apiVersion": PASSAGES.api_version,
            "kind": PASSAGES.kind,
            "metadata": {"name": name, "namespace": self._order.namespace},
            "spec": spec,
        }
        passage = await self._client.apply(PASSAGES, obj, field_manager=FIELD_MANAGER)
        # A source that went through before is only checked again: its record stays as it was.
        self._settled = (passage.get("status") or {}).get("phase") == "Succeeded"
        return passage

    async def _build(self, fitted: FittedSource) -> BuildResult:
        registry = f"{self._tools.settings.bind_address}:{self._tools.settings.registry_port}"
        assert self._passage is not None
        tag = name_of(self._passage).rpartition("-")[2]
        request = BuildRequest(
            context=fitted.root,
            dockerfile=fitted.dockerfile,
            tag=f"{registry}/{self._order.namespace}/{self._order.application}:{tag}",
        )
        built = await run_blocking(self._tools.builder.build, request, self._report.line)
        self._outcome.image = {
            "reference": built.reference,
            "digest": built.digest,
            "inputsDigest": built.inputs_digest,
            "bases": [
                {"reference": base.reference, "digest": base.digest, "origin": base.origin}
                for base in built.bases
            ],
        }
        return built

    async def _prove(self, source: Source, built: BuildResult) -> None:
        """Scan, sign and attest, where somebody can; what fails is reported and stops nothing."""
        tools, image = self._tools, _by_digest(built)
        scan: ScanSummary | None = None
        if tools.scanner is not None:
            async with self._advisory("scan") as step:
                scan = await run_blocking(tools.scanner.scan, image, self._report.line)
                self._outcome.image["scan"] = proofs.scan_status(scan)
                step.message = proofs.scan_message(scan)
        if tools.signer is not None:
            async with self._advisory("sign") as step:
                signed = await run_blocking(tools.signer.sign, image)
                self._outcome.image["signatures"] = [proofs.signed_status(signed)]
                step.message = f"signed by {signed.key_id[:16]}"
        if tools.recorder is not None:
            async with self._advisory("attest") as step:
                shipped = self._shipped(source, built)
                attached = await run_blocking(tools.recorder.record, shipped, scan)
                self._outcome.image["attestations"] = [
                    proofs.signed_status(each) for each in attached
                ]
                step.message = proofs.attest_message(attached)

    def _shipped(self, source: Source, built: BuildResult) -> ShippedImage:
        begun = next(step for step in self._outcome.steps if step.name == "build")
        described = {
            name: value
            for name, value in (
                ("digest", source.digest),
                ("repository", source.repository),
                ("commit", "" if source.modified else source.commit),
            )
            if value
        }
        return ShippedImage(
            built.reference,
            built.digest,
            described,
            {"application": self._order.application, "language": source.language},
            {base.reference: base.digest for base in built.bases},
            begun.started_at,
            rfc3339(self._tools.clock.now()),
        )

    async def _note_deployment(self, built: BuildResult) -> None:
        if self._tools.recorder is None:
            return
        place = f"{self._order.namespace}/{self._order.application}"
        try:
            await run_blocking(self._tools.recorder.deployed, _by_digest(built), place)
        except UnderwayError as error:
            self._report.line(f"the deployment was not noted: {error}")

    async def _apply(self, fitted: FittedSource, built: BuildResult) -> None:
        assert self._passage is not None
        image = _by_digest(built)
        documents = await run_blocking(backend.read_manifests, fitted.manifests)
        rendered = objects.render(
            documents,
            image=image,
            passage=name_of(self._passage),
            application=self._order.application,
        )
        self._outcome.inventory = [self._reference(obj) for obj in rendered]
        if not self._settled:
            await self._record("Running", "")
        for obj in rendered:
            await self._apply_one(obj)

    def _reference(self, obj: Object) -> Reference:
        namespace = namespace_of(obj) or self._order.namespace
        return Reference(obj.get("apiVersion", ""), obj["kind"], namespace, name_of(obj))

    async def _apply_one(self, obj: Object) -> None:
        resource = await self._discovery.resource_of(obj)
        if resource.namespaced:
            obj["metadata"].setdefault("namespace", self._order.namespace)
        before = await self._find(resource, name_of(obj), namespace_of(obj))
        after = await self._client.apply(resource, obj, field_manager=FIELD_MANAGER)
        self._outcome.applied.append(Applied(resource, before, after))
        if resource == CUSTOMRESOURCEDEFINITIONS:
            await self._until_established(name_of(obj))

    async def _until_established(self, name: str) -> None:
        deadline = self._tools.clock.monotonic() + self._order.timeout_s
        while True:
            current = await self._client.get(CUSTOMRESOURCEDEFINITIONS, name)
            conditions = (current.get("status") or {}).get("conditions")
            if (find_condition(conditions, "Established") or {}).get("status") == "True":
                return
            if self._tools.clock.monotonic() > deadline:
                raise RequestTimeout(f"customresourcedefinition {name} is not established")
            await self._tools.clock.sleep(_POLL_S)

    async def _prune(self) -> str:
        """Delete what earlier versions had and this one has not; gives what was done."""
        found = await self._client.list(PASSAGES, self._order.namespace)
        gone = objects.left_behind(found.items, self._order.application, self._outcome.inventory)
        done = [str(each) for each in gone if await self._prune_one(each)]
        return f"{', '.join(done)} removed" if done else "nothing is left of earlier versions"

    async def _prune_one(self, reference: Reference) -> bool:
        try:
            resource = await self._discovery.resource(reference.api_version, reference.kind)
        except NotFound:
            return False
        namespace = reference.namespace if resource.namespaced else None
        current = await self._find(resource, reference.name, namespace)
        if current is None or not objects.belongs_to(current, self._order.application):
            return False
        await self._quietly_delete(resource, current)
        return True

    async def _find(self, resource: Resource, name: str, namespace: str | None) -> Object | None:
        try:
            return await self._client.get(resource, name, namespace)
        except NotFound:
            return None

    async def _wait_for_rollout(self) -> str:
        deadline = self._tools.clock.monotonic() + self._order.timeout_s
        messages = [
            await self._wait_for(each, deadline)
            for each in self._outcome.applied
            if each.after["kind"] in rollouts.AWAITED
        ]
        return ", ".join(messages)

    async def _wait_for(self, applied: Applied, deadline: float) -> str:
        resource, told = applied.resource, ""
        name, namespace = name_of(applied.after), namespace_of(applied.after)
        while True:
            current = await self._client.get(resource, name, namespace)
            pods = await pods_of(self._client, current)
            state = rollouts.rollout(current, pods)
            if state.complete:
                return state.message
            if state.message != told:
                told = state.message
                self._report.line(told)
            if state.failure:
                raise await self._rollout_error(state.failure, current, state)
            if self._tools.clock.monotonic() > deadline:
                raise RequestTimeout(
                    f"{state.message} after {self._order.timeout_s:g} s",
                    hint=f"kubectl describe {resource.singular or resource.plural} {name}",
                )
            await self._tools.clock.sleep(_POLL_S)

    async def _rollout_error(self, failure: str, workload: Object, state: Rollout) -> UnderwayError:
        hint = f"kubectl describe {workload['kind'].lower()} {name_of(workload)}"
        if state.failing_container:
            log = await self._log(namespace_of(workload), state)
            if log:
                failure = f"{failure}\nits last output:\n{log}"
                hint = "mend what its output says and ship again"
        return BadRequest(failure, hint=hint)

    async def _log(self, namespace: str, state: Rollout) -> str:
        path = PODS.path(namespace, state.failing_pod, "log")
        query = f"container={state.failing_container}&tailLines={_LOG_LINES}"
        if state.restarted:
            query += "&previous=true"
        try:
            response = await self._client.request("GET", path, query)
            return (await response.read()).decode("utf-8", "replace").rstrip()
        except UnderwayError:
            return ""

    async def _probe(self) -> str:
        assert self._passage is not None
        shipped = [each.after for each in self._outcome.applied]
        service = objects.front_service(shipped, name_of(self._passage))
        if service is None:
            return "no Service stands in front of it; nothing to probe"
        service = await self._client.get(SERVICES, name_of(service), namespace_of(service))
        address = objects.service_address(service, self._tools.settings.bind_address)
        if address is None:
            return f"service/{name_of(service)} has no TCP address; nothing to probe"
        proof = await run_blocking(backend.probe, *address, timeout_s=30.0)
        self._outcome.proof = proof
        answer = f"HTTP {proof.status}, {proof.size_bytes} bytes" if proof.status else "connected"
        return f"{proof.url} answered: {answer}"

    async def _undo(self) -> None:
        delete, restore = objects.undo(self._outcome.applied)
        for each in delete:
            self._report.line(f"removing {each.resource.kind.lower()}/{name_of(each.after)}")
            await self._quietly_delete(each.resource, each.after)
        for each in restore:
            self._report.line(f"putting back {each.resource.kind.lower()}/{name_of(each.after)}")
            current = await self._find(each.resource, name_of(each.after), namespace_of(each.after))
            if current is not None and each.before is not None:
                await self._client.replace(each.resource, objects.restored(each.before, current))

    async def _quietly_delete(self, resource: Resource, obj: Object) -> None:
        try:
            await self._client.delete(
                resource, name_of(obj), namespace_of(obj), uid=obj["metadata"]["uid"]
            )
        except NotFound:
            return

    async def _record(self, phase: str, message: str) -> None:
        if self._passage is None:
            return
        outcome = self._outcome
        status: Object = {
            "phase": phase,
            "message": message,
            "steps": [step.as_dict() for step in outcome.steps],
            "objects": [str(self._reference(each.after)) for each in outcome.applied],
            "inventory": [each.as_dict() for each in outcome.inventory],
        }
        if outcome.image:
            status["image"] = outcome.image
        if outcome.proof:
            status |= {"url": outcome.proof.url, "proof": outcome.proof.as_dict()}
        self._passage = await self._client.patch(
            PASSAGES,
            name_of(self._passage),
            {"status": status},
            self._order.namespace,
            subresource="status",
        )


def _by_digest(built: BuildResult) -> str:
    return f"{built.reference.partition('@')[0].rpartition(':')[0]}@{built.digest}"


def _build_message(built: BuildResult) -> str:
    origins = ", ".join(f"{base.reference} ({base.origin})" for base in built.bases)
    message = f"{built.digest[:19]}, {built.steps_cached} of {built.steps_total} steps from cache"
    return f"{message}, on {origins}" if origins else message


async def explain_pod(client: Client, namespace: str, name: str) -> Object:
    """A pod's way back to its source.

    Returns:
        ``pod``, ``node``, ``containers`` (name, containerID, imageID), ``owners`` (from the pod
        up), ``passage`` (or None), and ``agrees``: whether the image that runs is the one the
        passage built.
    """
    pod = await client.get(PODS, name, namespace)
    passage_name = (pod["metadata"].get("annotations") or {}).get(PASSAGE_ANNOTATION)
    passage: Object | None = None
    if passage_name:
        try:
            passage = await client.get(PASSAGES, passage_name, namespace)
        except NotFound:
            passage = None
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    containers = [
        {key: each.get(key, "") for key in ("name", "containerID", "imageID", "image")}
        for each in statuses
    ]
    digest = ((passage or {}).get("status") or {}).get("image", {}).get("digest", "")
    return {
        "pod": f"{namespace}/{name}",
        "phase": (pod.get("status") or {}).get("phase", ""),
        "node": (pod.get("spec") or {}).get("nodeName", ""),
        "labels": labels_of(pod),
        "containers": containers,
        "owners": [owner async for owner in _owners(client, pod)],
        "scheduling": scheduling.decision(pod),
        "passage": passage,
        "agrees": bool(digest) and any(digest in each["imageID"] for each in containers),
    }


async def explain_deployment(client: Client, namespace: str, name: str) -> Object:
    """The same for the newest pod of a Deployment.

    Raises:
        NotFound: there is no such Deployment, or it has no pod.
    """
    deployment = await client.get(DEPLOYMENTS, name, namespace)
    pods = await pods_of(client, deployment)
    if not pods:
        raise NotFound(f"deployment {name} in namespace {namespace} has no pod")
    newest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    return await explain_pod(client, namespace, name_of(newest))


async def pods_of(client: Client, workload: Object) -> list[Object]:
    """The pods a workload selects."""
    selector = str(selectors.from_object(rollouts.selector_of(workload)))
    found = await client.list(PODS, namespace_of(workload), labels=selector)
    return found.items


async def _owners(client: Client, obj: Object) -> AsyncIterator[str]:
    namespace, discovery = namespace_of(obj), Discovery(client)
    while references := obj["metadata"].get("ownerReferences"):
        owner = next((each for each in references if each.get("controller")), references[0])
        yield f"{owner['kind']}/{owner['name']}"
        try:
            resource = await discovery.resource(owner["apiVersion"], owner["kind"])
            obj = await client.get(resource, owner["name"], namespace)
        except UnderwayError:
            return
