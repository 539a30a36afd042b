"""Admission: pods and what makes pods are let in by the policies, and tags become digests."""

from __future__ import annotations

import logging

from underway.api.objects import Object, annotations_of, controller_of, labels_of, name_of
from underway.api.resources import NAMESPACES, SUBJECTACCESSREVIEWS
from underway.base.errors import UnderwayError
from underway.capabilities.provenance.controller.gate import Gate
from underway.capabilities.provenance.model import (
    BREAK_GLASS,
    IMAGEPOLICIES,
    KRITIS_BREAK_GLASS,
    Policy,
    Violation,
)
from underway.capabilities.provenance.rules import pods
from underway.reconcile import WARNING, Admission, Denied, Manager

log = logging.getLogger(__name__)

_CONTROLLERS = "system:serviceaccount:kube-system:"
_SHOWN = 4  # violations in one message


class ImageAdmission:
    """The two webhooks."""

    def __init__(self, manager: Manager, gate: Gate) -> None:
        self._client = manager.client
        self._events = manager.events
        self._namespaces = manager.informer(NAMESPACES)
        self._gate = gate

    async def pin(self, admission: Admission) -> None:
        """Put the digest that a tag names now into a pod, so that what is checked is what runs.

        An image that cannot be found stays as it is: the validating webhook refuses it.
        """
        await self._gate.synced()
        part = pods.pod_part(admission.object or {})
        before = pods.images(admission.old_object)
        labels = await self._labels(admission.namespace)
        for container in pods.containers(part):
            image = str(container["image"])
            try:
                if image in before or pods.digest_of(image):
                    continue
                if self._gate.about(image, admission.namespace, labels):
                    container["image"] = pods.pinned(image, await self._gate.resolve(image))
            except UnderwayError as error:
                log.info("%s is not pinned: %s", image, error)

    async def judge(self, admission: Admission) -> None:
        """Refuse what a policy holds something against.

        Raises:
            Denied: with policy, rule and remedy of each violation.
        """
        await self._gate.synced()
        labels = await self._labels(admission.namespace)
        found: list[tuple[Policy, Violation, str]] = []
        before = pods.images(admission.old_object)
        if _reason(admission.object) != _reason(admission.old_object):
            before = set()  # whoever breaks the glass for what was there must be allowed to
        for image in sorted(pods.images(admission.object) - before):
            found += await self._violations(image, admission, labels)
        enforced = [each for each in found if each[0].enforced]
        for policy, violation, image in found:
            if not policy.enforced:
                admission.warnings.append(f"{image}: {violation}")
        if enforced and not await self._broken_glass(admission, enforced):
            shown = "; ".join(f"{image}: {violation}" for _, violation, image in enforced[:_SHOWN])
            more = f"; and {len(enforced) - _SHOWN} more" if len(enforced) > _SHOWN else ""
            raise Denied(f"{shown}{more}")

    async def _violations(
        self, image: str, admission: Admission, labels: dict[str, str]
    ) -> list[tuple[Policy, Violation, str]]:
        policies = self._gate.about(image, admission.namespace, labels)
        if not policies:
            return []
        try:
            digest = pods.digest_of(image)
            unpinned = not digest and (admission.object or {}).get("kind") == "Pod"
            digest = digest or await self._gate.resolve(image)
            if unpinned:
                # Between the webhooks somebody put a tag back, or pinning failed.
                return [
                    (each, Violation(each.title, "digest", "the image is not named by digest",
                                     "name it as NAME@sha256:..."), image)
                    for each in policies
                ]  # fmt: skip
            verdict = await self._gate.judge(image, digest, policies)
        except UnderwayError as error:
            violation = "the image cannot be checked"
            return [
                (each, Violation(each.title, "image", f"{violation}: {error}", "push it first"),
                 image)
                for each in policies
            ]  # fmt: skip
        found = [(policy, violation, image) for policy, violation in verdict]
        found += [
            (each, Violation(each.title, "digest", "the policy demands a digest, not a tag",
                             pods.pinned(image, digest)), image)
            for each in policies
            if each.digest_required and not pods.digest_of(image)
        ]  # fmt: skip
        return found

    async def _broken_glass(
        self, admission: Admission, found: list[tuple[Policy, Violation, str]]
    ) -> bool:
        """Whether who is allowed to has said why the policies shall not count this time."""
        reason = _reason(admission.object)
        if not reason or not all(policy.break_glass for policy, _, _ in found):
            return False
        if not _of_workload(admission) and not await self._may_break_glass(admission.user):
            return False
        user = str(admission.user.get("username", ""))
        message = f"{user} broke the glass ({reason[:200]}): {found[0][2]}: {found[0][1]}"
        admission.warnings.append(message[:250])
        log.warning("%s/%s: %s", admission.namespace, admission.name, message)
        if not admission.dry_run:
            self._events.event(_subject(admission), WARNING, "BreakGlass", message)
        return True

    async def _may_break_glass(self, user: Object) -> bool:
        review: Object = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.get("username", ""),
                "groups": user.get("groups") or [],
                "resourceAttributes": {
                    "group": IMAGEPOLICIES.group,
                    "resource": IMAGEPOLICIES.plural,
                    "verb": "break-glass",
                },
            },
        }
        answered = await self._client.create(SUBJECTACCESSREVIEWS, review)
        return bool((answered.get("status") or {}).get("allowed"))

    async def _labels(self, namespace: str) -> dict[str, str]:
        known = self._namespaces.get(namespace)
        return labels_of(known or await self._client.get(NAMESPACES, namespace))


def _reason(obj: Object | None) -> str:
    """Why the glass is broken, as pod, template or workload say; empty if it is not."""
    part = pods.pod_part(obj or {}) or {}
    annotations = {
        **annotations_of(obj or {}),
        **((part.get("metadata") or {}).get("annotations") or {}),
    }
    reason = annotations.get(BREAK_GLASS) or annotations.get(KRITIS_BREAK_GLASS) or ""
    return str(reason).strip()


def _of_workload(admission: Admission) -> bool:
    """Whether a cluster's own controller makes this for a workload that was judged itself."""
    user = str(admission.user.get("username") or "")
    return user.startswith(_CONTROLLERS) and controller_of(admission.object or {}) is not None


def _subject(admission: Admission) -> Object:
    obj = admission.object or {}
    header = obj.get("metadata") or {}
    name = name_of(obj) if header.get("name") else str(header.get("generateName") or "")
    return {
        "apiVersion": obj.get("apiVersion", ""),
        "kind": obj.get("kind", ""),
        "metadata": {**header, "name": name or "unnamed", "namespace": admission.namespace},
    }
