"""How the rollout of a workload stands."""

from __future__ import annotations

from collections.abc import Iterable

from underway.api.objects import Object, find_condition, meta, name_of
from underway.capabilities.passage.model import PASSAGE_ANNOTATION, Rollout

# Reasons for which a container waits and that only a change of the objects or the image ends.
# Source: kubernetes pkg/kubelet/images/types.go, pkg/kubelet/container/sync_result.go.
_STUCK = frozenset({
    "CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "ErrImageNeverPull",
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "RunContainerError",
})  # fmt: skip


def selector_of(workload: Object) -> Object:
    """The label selector of the workload's pods; a Job's is written by the server."""
    found: Object = (workload.get("spec") or {}).get("selector") or {}
    return found


def rollout(workload: Object, pods: Iterable[Object]) -> Rollout:
    """How a Deployment, StatefulSet, DaemonSet or Job stands.

    Source: kubectl ``rollout status`` for what complete means (observed generation, updated, old
    and available replicas, partitions), ``wait --for=condition=complete`` for Jobs.
    """
    if workload["kind"] == "Job":
        return _job(workload, pods)
    observed = (workload.get("status") or {}).get("observedGeneration", 0)
    if observed < meta(workload).get("generation", 0):
        return Rollout(False, f"{name_of(workload)}: waiting for the rollout to begin")
    return _stuck_pod(workload, pods) or _PROGRESS[workload["kind"]](workload)


def _deployment(deployment: Object) -> Rollout:
    spec, status = deployment.get("spec") or {}, deployment.get("status") or {}
    wanted, name = spec.get("replicas", 1), name_of(deployment)
    progressing = find_condition(status.get("conditions"), "Progressing") or {}
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        message = progressing.get("message") or "the progress deadline has passed"
        return Rollout(False, f"{name}: {message}", failure=message)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if updated < wanted:
        return Rollout(False, f"{name}: {updated} of {wanted} new replicas created")
    if status.get("replicas", 0) > updated:
        return Rollout(False, f"{name}: {status['replicas'] - updated} old replicas still there")
    return _ready(name, available, wanted)


def _statefulset(statefulset: Object) -> Rollout:
    spec, status = statefulset.get("spec") or {}, statefulset.get("status") or {}
    wanted, name = spec.get("replicas", 1), name_of(statefulset)
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return Rollout(True, f"{name}: updated when its pods are deleted (OnDelete)")
    partition = (strategy.get("rollingUpdate") or {}).get("partition") or 0
    to_update, updated = max(wanted - partition, 0), status.get("updatedReplicas", 0)
    if status.get("updateRevision") != status.get("currentRevision") and updated < to_update:
        return Rollout(False, f"{name}: {updated} of {to_update} replicas updated")
    return _ready(name, status.get("availableReplicas", 0), wanted)


def _daemonset(daemonset: Object) -> Rollout:
    spec, status = daemonset.get("spec") or {}, daemonset.get("status") or {}
    wanted, name = status.get("desiredNumberScheduled", 0), name_of(daemonset)
    if (spec.get("updateStrategy") or {}).get("type") == "OnDelete":
        return Rollout(True, f"{name}: updated when its pods are deleted (OnDelete)")
    updated = status.get("updatedNumberScheduled", 0)
    if updated < wanted:
        return Rollout(False, f"{name}: {updated} of {wanted} pods updated")
    return _ready(name, status.get("numberAvailable", 0), wanted)


def _ready(name: str, available: int, wanted: int) -> Rollout:
    if available < wanted:
        return Rollout(False, f"{name}: {available} of {wanted} replicas ready")
    return Rollout(True, f"{name}: {available}/{wanted} ready")


_PROGRESS = {"Deployment": _deployment, "StatefulSet": _statefulset, "DaemonSet": _daemonset}
AWAITED = frozenset({*_PROGRESS, "Job"})


def _job(job: Object, pods: Iterable[Object]) -> Rollout:
    spec, status, name = job.get("spec") or {}, job.get("status") or {}, name_of(job)
    for kind in ("Failed", "FailureTarget"):
        failed = find_condition(status.get("conditions"), kind) or {}
        if failed.get("status") == "True":
            reason = f"job {name} failed: {failed.get('message') or failed.get('reason')}"
            return Rollout(False, f"{name}: failed", failure=reason)
    complete = find_condition(status.get("conditions"), "Complete") or {}
    if complete.get("status") == "True":
        return Rollout(True, f"{name}: complete")
    if spec.get("suspend"):
        return Rollout(True, f"{name}: suspended")
    # A Job tries its pods again, so that only what keeps them from starting ends the waiting.
    stuck = _stuck_pod(job, pods)
    if stuck is not None and not stuck.restarted:
        return stuck
    done, wanted = status.get("succeeded", 0), spec.get("completions") or 1
    return Rollout(False, f"{name}: {done} of {wanted} completions")


def _stuck_pod(workload: Object, pods: Iterable[Object]) -> Rollout | None:
    passage = _template_passage(workload)
    for pod in pods:
        if (meta(pod).get("annotations") or {}).get(PASSAGE_ANNOTATION, "") != passage:
            continue
        status = pod.get("status") or {}
        scheduled = find_condition(status.get("conditions"), "PodScheduled") or {}
        if scheduled.get("reason") == "Unschedulable":
            reason = f"no node can take it: {scheduled.get('message', '')}"
            return Rollout(False, name_of(workload), reason, name_of(pod))
        statuses = status.get("initContainerStatuses") or []
        for container in [*statuses, *(status.get("containerStatuses") or [])]:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in _STUCK:
                return _stuck(workload, pod, container, waiting)
    return None


def _stuck(workload: Object, pod: Object, container: Object, waiting: Object) -> Rollout:
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
        f"{name_of(workload)}: {waiting['reason']}",
        failure=reason,
        failing_pod=name_of(pod),
        failing_container=container["name"],
        restarted=last is not None,
    )


def _template_passage(workload: Object) -> str:
    template = (workload.get("spec") or {}).get("template") or {}
    found: str = (meta(template).get("annotations") or {}).get(PASSAGE_ANNOTATION, "")
    return found
