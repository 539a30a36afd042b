from __future__ import annotations

import pytest

from underway.capabilities.passage.model import PASSAGE_ANNOTATION
from underway.capabilities.passage.rules import rollouts


def workload(kind: str, spec: dict, status: dict, passage: str = "") -> dict:
    template = {"metadata": {"annotations": {PASSAGE_ANNOTATION: passage}}}
    return {
        "kind": kind,
        "metadata": {"name": "web", "generation": 2},
        "spec": {"template": template, **spec},
        "status": {"observedGeneration": 2, **status},
    }


@pytest.mark.parametrize(("kind", "spec", "status", "complete"), [
    ("Deployment", {"replicas": 2}, {"observedGeneration": 1}, False),
    ("Deployment", {"replicas": 2}, {"updatedReplicas": 1, "replicas": 1}, False),
    ("Deployment", {"replicas": 2}, {"updatedReplicas": 2, "replicas": 3, "availableReplicas": 2}, False),
    ("Deployment", {"replicas": 2}, {"updatedReplicas": 2, "replicas": 2, "availableReplicas": 1}, False),
    ("Deployment", {"replicas": 2}, {"updatedReplicas": 2, "replicas": 2, "availableReplicas": 2}, True),
    ("StatefulSet", {"replicas": 2}, {"updateRevision": "b", "currentRevision": "a", "updatedReplicas": 1, "availableReplicas": 2}, False),
    ("StatefulSet", {"replicas": 2}, {"updateRevision": "a", "currentRevision": "a", "availableReplicas": 1}, False),
    ("StatefulSet", {"replicas": 2}, {"updateRevision": "a", "currentRevision": "a", "availableReplicas": 2}, True),
    ("StatefulSet", {"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}}},
     {"updateRevision": "b", "currentRevision": "a", "updatedReplicas": 1, "availableReplicas": 2}, True),
    ("StatefulSet", {"replicas": 2, "updateStrategy": {"type": "OnDelete"}}, {}, True),
    ("DaemonSet", {}, {"desiredNumberScheduled": 2, "updatedNumberScheduled": 1, "numberAvailable": 2}, False),
    ("DaemonSet", {}, {"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 1}, False),
    ("DaemonSet", {}, {"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2}, True),
    ("Job", {"completions": 3}, {"succeeded": 2}, False),
    ("Job", {}, {"conditions": [{"type": "Complete", "status": "True"}]}, True),
    ("Job", {"suspend": True}, {}, True),
])  # fmt: skip
def test_when_a_rollout_is_complete(kind: str, spec: dict, status: dict, complete: bool) -> None:
    found = rollouts.rollout(workload(kind, spec, status), [])
    assert (found.complete, found.failure) == (complete, "")


def test_a_failed_job_says_why() -> None:
    condition = {"type": "Failed", "status": "True", "message": "back-off limit reached"}
    found = rollouts.rollout(workload("Job", {}, {"conditions": [condition]}), [])
    assert found.failure == "job web failed: back-off limit reached"


def pod(passage: str, state: dict, last: dict | None = None) -> dict:
    container = {"name": "web", "state": state, "lastState": last or {}}
    return {
        "metadata": {"name": "web-1", "annotations": {PASSAGE_ANNOTATION: passage}},
        "status": {"containerStatuses": [container]},
    }


CRASHED = {"waiting": {"reason": "CrashLoopBackOff"}}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_a_crashing_container_fails_the_rollout_with_its_exit_code(kind: str) -> None:
    crashed = pod("p", CRASHED, {"terminated": {"exitCode": 3}})
    found = rollouts.rollout(workload(kind, {}, {}, "p"), [crashed])
    assert "exit code 3" in found.failure
    assert (found.failing_pod, found.failing_container, found.restarted) == ("web-1", "web", True)


def test_a_job_goes_on_after_a_crash_but_not_without_its_image() -> None:
    job = workload("Job", {}, {}, "p")
    assert not rollouts.rollout(job, [pod("p", CRASHED, {"terminated": {"exitCode": 3}})]).failure
    missing = pod("p", {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})
    assert "ImagePullBackOff, not found" in rollouts.rollout(job, [missing]).failure


def test_pods_of_another_passage_do_not_fail_this_rollout() -> None:
    found = rollouts.rollout(workload("Deployment", {}, {}, "new"), [pod("old", CRASHED)])
    assert not found.failure
