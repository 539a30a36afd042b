"""Looks after policies: webhooks are there while a policy is, and what runs is judged again.

Nothing is evicted: what a policy would no longer let in gets a label and an event, and stands in
the policy's status.
"""

from __future__ import annotations

import logging
from collections import defaultdict

from underway.api.objects import Object, labels_of, name_of, namespace_of, uid_of
from underway.api.resources import (
    MUTATINGWEBHOOKCONFIGURATIONS,
    NAMESPACES,
    PODS,
    VALIDATINGWEBHOOKCONFIGURATIONS,
    Resource,
)
from underway.base.clock import rfc3339
from underway.base.errors import Conflict, NotFound
from underway.capabilities.provenance.backend.evidence import EvidenceSource
from underway.capabilities.provenance.controller.admission import ImageAdmission
from underway.capabilities.provenance.controller.gate import Gate
from underway.capabilities.provenance.model import (
    ATTESTATIONAUTHORITIES,
    POLICIES,
    VIOLATION_LABEL,
    Policy,
)
from underway.capabilities.provenance.rules import pods
from underway.reconcile import (
    WARNING,
    Controller,
    ManagedCertificate,
    Manager,
    Request,
    RequeueAfter,
    Watched,
    WebhookServer,
    generation_changed,
    set_condition,
    write_status,
)

log = logging.getLogger(__name__)

NAME = "image-policies.underway.dev"
FIELD_MANAGER = "underway-image-policies"
RECHECK_S = 3600.0
_TIMEOUT_S = 30
_SHOWN = 20  # violations in a policy's status
_ALL = Request("", "all")
_UNTOUCHED = ["kube-system", "kube-public", "kube-node-lease"]
_CONFIGURATIONS = (MUTATINGWEBHOOKCONFIGURATIONS, VALIDATINGWEBHOOKCONFIGURATIONS)


def install(manager: Manager, source: EvidenceSource, address: str, port: int = 0) -> Caretaker:
    """Serve the webhooks at ``address`` (port 0: any free one) and look after the policies."""
    gate = Gate(manager, source)
    admission = ImageAdmission(manager, gate)
    certificate = ManagedCertificate(
        namespace="kube-system",
        name="image-policy-webhook",
        names=[address],
        inject=[(resource, NAME) for resource in _CONFIGURATIONS],
    )
    server = WebhookServer(certificate, host=address, port=port)
    server.mutate("/pin", admission.pin)
    server.validate("/judge", admission.judge)
    caretaker = Caretaker(manager, gate, server, address)
    first, *others = [manager.informer(each) for each in POLICIES]
    watched = [*others, manager.informer(ATTESTATIONAUTHORITIES)]
    controller = Controller(
        "image-policies",
        caretaker.reconcile,
        primary=first,
        watches=[
            Watched(each, lambda _obj: [_ALL], predicates=(generation_changed,)) for each in watched
        ],
        predicates=(generation_changed,),
    )
    manager.add(controller).enqueue(_ALL)
    caretaker.controller = controller
    manager.add_webhooks(server)
    return caretaker


class Caretaker:
    """One pass looks at every policy and every pod; it is made hourly and when a policy changes."""

    controller: Controller

    def __init__(self, manager: Manager, gate: Gate, server: WebhookServer, address: str) -> None:
        self._client = manager.client
        self._clock = manager.clock
        self._events = manager.events
        self._pods = manager.informer(PODS)
        self._namespaces = manager.informer(NAMESPACES)
        self._gate = gate
        self._server = server
        self._address = address

    async def reconcile(self, request: Request) -> RequeueAfter | None:
        """Make one pass."""
        if request != _ALL:
            self.controller.enqueue(_ALL)
            return None
        await self._gate.synced()
        await self._server.started.wait()
        objects = self._gate.objects()
        await self._register(bool(objects))
        found = await self._check() if objects else {}
        await self._label(found)
        by_policy: dict[str, list[Object]] = defaultdict(list)
        for pod, entries in found.values():
            for policy, image, message in entries:
                by_policy[policy.uid].append({
                    "pod": f"{namespace_of(pod)}/{name_of(pod)}", "image": image,
                    "message": message[:500],
                })  # fmt: skip
        compiled = {each.uid: each for each in self._gate.policies()}
        for obj in objects:
            await self._tell(obj, compiled.get(uid_of(obj)), by_policy[uid_of(obj)])
        return RequeueAfter(RECHECK_S)

    async def _register(self, wanted: bool) -> None:
        for resource, kind, path in zip(
            _CONFIGURATIONS, ("Mutating", "Validating"), ("/pin", "/judge"), strict=True
        ):
            if wanted:
                url = f"https://{self._address}:{self._server.port}{path}"
                await self._client.apply(
                    resource, configuration(kind, url), field_manager=FIELD_MANAGER
                )
            else:
                await self._gone(resource)

    async def _gone(self, resource: Resource) -> None:
        try:
            await self._client.delete(resource, NAME)
        except NotFound:
            return

    async def _check(self) -> dict[str, tuple[Object, list[tuple[Policy, str, str]]]]:
        """What the policies hold against pods that run, by the pods' uid."""
        await self._pods.synced()
        await self._namespaces.synced()
        found: dict[str, tuple[Object, list[tuple[Policy, str, str]]]] = {}
        for pod in self._pods.list():
            namespace = namespace_of(pod)
            if namespace in _UNTOUCHED:
                continue
            labels = labels_of(self._namespaces.get(namespace) or {})
            for image, digest in pods.running(pod):
                policies = self._gate.about(image, namespace, labels)
                if not policies:
                    continue
                for policy, violation in await self._gate.judge(image, digest, policies):
                    _, entries = found.setdefault(uid_of(pod), (pod, []))
                    entries.append((policy, image, str(violation)))
        return found

    async def _label(self, found: dict[str, tuple[Object, list[tuple[Policy, str, str]]]]) -> None:
        for pod in self._pods.list():
            marked = VIOLATION_LABEL in labels_of(pod)
            bad = uid_of(pod) in found
            if marked == bad:
                continue
            labels = {VIOLATION_LABEL: "true" if bad else None}
            try:
                await self._client.patch(
                    PODS, name_of(pod), {"metadata": {"labels": labels}}, namespace_of(pod)
                )
            except NotFound:
                continue
            if bad:
                _, entries = found[uid_of(pod)]
                self._events.event(pod, WARNING, "ImagePolicyViolation", entries[0][2])

    async def _tell(self, obj: Object, policy: Policy | None, violations: list[Object]) -> None:
        if policy is None:
            return
        now = rfc3339(self._clock.now())
        status: Object = dict(obj.get("status") or {})
        conditions = [dict(each) for each in status.get("conditions") or ()]
        ready = {
            "type": "Ready",
            "status": "False" if policy.broken else "True",
            "reason": "Malformed" if policy.broken else "Enforced",
            "message": policy.broken or "images are judged by this policy",
            "observedGeneration": policy.generation,
        }
        set_condition(conditions, ready, now)
        status |= {
            "conditions": conditions,
            "observedGeneration": policy.generation,
            "violationCount": len(violations),
            "violations": violations[:_SHOWN],
        }
        resource = next(each for each in POLICIES if each.kind == obj["kind"])
        try:
            await write_status(self._client, resource, obj, status)
        except (NotFound, Conflict):
            log.debug("%s changed meanwhile", policy.title)


def configuration(kind: str, url: str) -> Object:
    """The webhook configuration, ``kind`` Mutating or Validating."""
    rules = [_rule("", "v1", "pods", "pods/ephemeralcontainers")]
    if kind == "Validating":
        rules += [
            _rule("apps", "v1", "deployments", "statefulsets", "daemonsets", "replicasets"),
            _rule("batch", "v1", "jobs", "cronjobs"),
            _rule("", "v1", "replicationcontrollers"),
        ]
    hook: Object = {
        "name": f"{kind.lower()}.{NAME}",
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": url},
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "sideEffects": "NoneOnDryRun",
        "timeoutSeconds": _TIMEOUT_S,
        "rules": rules,
        # The platform's own namespaces have to come up without it.
        "namespaceSelector": {
            "matchExpressions": [
                {
                    "key": "kubernetes.io/metadata.name",
                    "operator": "NotIn",
                    "values": _UNTOUCHED,
                }
            ]
        },
    }
    if kind == "Mutating":
        hook["reinvocationPolicy"] = "IfNeeded"
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [hook],
    }


def _rule(group: str, version: str, *resources: str) -> Object:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": ["CREATE", "UPDATE"],
        "resources": list(resources),
    }
