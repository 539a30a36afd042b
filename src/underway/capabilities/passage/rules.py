"""The decisions of a passage: names, rendered objects, how a rollout stands, what to undo."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from underway.api.objects import Object, find_condition, labels_of, meta, name_of
from underway.base.errors import BadRequest
from underway.capabilities.passage.model import PASSAGE_ANNOTATION, Applied, Rollout

IMAGE_PLACEHOLDER = "$(IMAGE)"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
# Reasons for which a container waits and that only a change of the objects or the image ends.
# Source: kubernetes pkg/kubelet/images/types.go, pkg/kubelet/container/sync_result.go.
_STUCK = frozenset({
    "CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "ErrImageNeverPull",
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "RunContainerError",
})  # fmt: skip


def application_name(given: str, directory: str) -> str:
    """The application's name: the one given, or one made of the directory's.

    Raises:
        BadRequest: the name given is no DNS label of at most 40 characters.
    """
    if given:
        if not _NAME.fullmatch(given):
            raise BadRequest(
                f"--name {given}: not a valid name",
                hint="at most 40 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
            )
        return given
    name = re.sub(r"[^a-z0-9]+", "-", directory.lower()).strip("-")[:40].strip("-")
    return name or "app"


def passage_name(application: str, source_digest: str) -> str:
    """One source has one passage: shipping it again comes back to the same object."""
    return f"{application}-{source_digest.removeprefix('sha256:')[:10]}"


def render(
    documents: Iterable[Object], *, image: str, passage: str, namespace: str
) -> list[Object]:
    """The application's objects as they go to the cluster.

    The image takes its placeholder's place; the workload that runs it is marked with the passage.

    Raises:
        BadRequest: no object uses the placeholder.
    """
    rendered: list[Object] = []
    used = False
    for document in documents:
        changed = _substitute(document, image)
        if changed != document:
            used = True
            template = changed.get("spec", {}).get("template")
            for holder in (changed, template):
                if isinstance(holder, dict):
                    meta(holder).setdefault("annotations", {})[PASSAGE_ANNOTATION] = passage
        meta(changed).setdefault("namespace", namespace)
        rendered.append(changed)
    if not used:
        raise BadRequest(
            f"no manifest has the image {IMAGE_PLACEHOLDER}",
            hint=f"write `image: {IMAGE_PLACEHOLDER}` where the built image belongs",
        )
    return rendered


def _substitute(value: Any, image: str) -> Any:
    if isinstance(value, str):
        return value.replace(IMAGE_PLACEHOLDER, image)
    if isinstance(value, dict):
        return {key: _substitute(item, image) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, image) for item in value]
    return value


def front_service(objects: Sequence[Object], passage: str) -> Object | None:
    """The Service in front of the shipped workload, or None where there is none."""
    labels: dict[str, str] = {}
    for obj in objects:
        template = (obj.get("spec") or {}).get("template")
        if template and meta(obj).get("annotations", {}).get(PASSAGE_ANNOTATION) == passage:
            labels = labels_of(template)
    for obj in objects:
        selector = (obj.get("spec") or {}).get("selector") or {}
        if obj.get("kind") == "Service" and selector and selector.items() <= labels.items():
            return obj
    return None


def service_address(service: Object, host: str) -> tuple[str, int] | None:
    """Where a Service can be reached from the machine: its node port, else its cluster IP."""
    spec = service.get("spec") or {}
    for port in spec.get("ports") or ():
        if port.get("protocol", "TCP") != "TCP":
            continue
        if port.get("nodePort"):
            return host, port["nodePort"]
        if spec.get("clusterIP") not in (None, "", "None"):
            return spec["clusterIP"], port["port"]
    return None


def rollout(deployment: Object, pods: Iterable[Object]) -> Rollout:
    """How a Deployment's rollout stands.

    Source: kubectl ``rollout status`` for what complete means (observed generation, updated,
    old and available replicas).
    """
    spec, status = deployment.get("spec") or {}, deployment.get("status") or {}
    wanted = spec.get("replicas", 1)
    name = name_of(deployment)
    if status.get("observedGeneration", 0) < meta(deployment).get("generation", 0):
        return Rollout(False, f"{name}: waiting for the rollout to begin")
    stuck = _stuck_pod(deployment, pods)
    if stuck is not None:
        return stuck
    progressing = find_condition(status.get("conditions"), "Progressing") or {}
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        message = progressing.get("message") or "the progress deadline has passed"
        return Rollout(False, f"{name}: {message}", failure=message)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if updated < wanted:
        return Rollout(False, f"{name}: {updated} of {wanted} new replicas created")
    if status.get("replicas", 0) > updated:
        return Rollout(False, f"{name}: {status['replicas'] - updated} old replicas still there")
    if available < updated:
        return Rollout(False, f"{name}: {available} of {updated} replicas ready")
    return Rollout(True, f"{name}: {available}/{wanted} ready")


def _stuck_pod(deployment: Object, pods: Iterable[Object]) -> Rollout | None:
    passage = _template_passage(deployment)
    for pod in pods:
        if (meta(pod).get("annotations") or {}).get(PASSAGE_ANNOTATION, "") != passage:
            continue
        status = pod.get("status") or {}
        scheduled = find_condition(status.get("conditions"), "PodScheduled") or {}
        if scheduled.get("reason") == "Unschedulable":
            reason = f"no node can take it: {scheduled.get('message', '')}"
            return Rollout(False, name_of(deployment), reason, name_of(pod))
        statuses = status.get("initContainerStatuses") or []
        for container in [*statuses, *(status.get("containerStatuses") or [])]:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in _STUCK:
                return _stuck(deployment, pod, container, waiting)
    return None


def _stuck(deployment: Object, pod: Object, container: Object, waiting: Object) -> Rollout:
    last = (container.get("lastState") or {}).get("terminated")
    reason = f"container {container['name']} of pod {name_of(pod)}: {waiting['reason']}"
    if last:
        reason += f", it ended with exit code {last.get('exitCode')}"
        if last.get("reason") not in (None, "Error", "Completed"):
            reason += f" ({last['reason']})"
    elif waiting.get("message"):
        reason += f", {waiting['message']}"
    return Rollout(
        False,
        f"{name_of(deployment)}: {waiting['reason']}",
        failure=reason,
        failing_pod=name_of(pod),
        failing_container=container["name"],
        restarted=last is not None,
    )


def _template_passage(deployment: Object) -> str:
    template = (deployment.get("spec") or {}).get("template") or {}
    found: str = (meta(template).get("annotations") or {}).get(PASSAGE_ANNOTATION, "")
    return found


def undo(applied: Sequence[Applied]) -> tuple[list[Applied], list[Applied]]:
    """What to delete and what to put back, so that a failed passage leaves nothing half-made."""
    delete = [each for each in reversed(applied) if each.before is None]
    restore = [each for each in reversed(applied) if each.verb == "configured"]
    return delete, restore


def restored(before: Object, current: Object) -> Object:
    """The object as it was, written over what is there now."""
    obj = {key: value for key, value in before.items() if key != "status"}
    obj["metadata"] = {
        key: value for key, value in before["metadata"].items() if key != "managedFields"
    }
    obj["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"]
    return obj
