"""Jobs, CronJobs and PodDisruptionBudgets ([sig-apps])."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.world import World, condition, pod, template
from underway.api.objects import annotations_of, controller_of, name_of
from underway.base.errors import TooManyRequests
from underway.testing import Cluster
from underway.testing.node import EXIT_CODE


def job(name: str = "work", code: object = "never", restart: str = "Never", **spec: object) -> dict:
    """A Job whose pods end with an exit code, or never."""
    made = template(restartPolicy=restart)
    made["metadata"] = {"annotations": {EXIT_CODE: str(code)}, "labels": {"work": name}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"work": name}},
        "spec": {"template": made, **spec},
    }


def active(count: int):
    return lambda found: (found.get("status") or {}).get("active", 0) == count


def outcome(kind: str):
    return lambda found: condition(found, kind).get("status") == "True"


def test_each_index_is_given_to_a_pod_with_its_name(world: World) -> None:
    world.create(job(code=0, completions=4, parallelism=2, completionMode="Indexed"))
    done = world.until("Job", "work", outcome("Complete"))
    assert done["status"]["completedIndexes"] == "0-3"
    pods = world.list("pods")
    key = "batch.kubernetes.io/job-completion-index"
    assert sorted(annotations_of(each)[key] for each in pods) == ["0", "1", "2", "3"]
    for each in pods:
        index = annotations_of(each)[key]
        assert each["metadata"]["labels"][key] == index
        assert each["spec"]["hostname"] == f"work-{index}"
        env = {one["name"]: one for one in each["spec"]["containers"][0]["env"]}
        field = env["JOB_COMPLETION_INDEX"]["valueFrom"]["fieldRef"]["fieldPath"]
        assert key in field


def test_orphans_are_adopted_and_strays_released(world: World) -> None:
    made = world.create(job(parallelism=2, completions=2))
    world.until("Job", "work", active(2))
    first, second = (name_of(each) for each in world.list("pods"))
    world.patch("pods", first, {"metadata": {"ownerReferences": None}})
    adopted = world.until("pods", first, controller_of)
    assert controller_of(adopted)["uid"] == made["metadata"]["uid"]
    labels = dict.fromkeys(adopted["metadata"]["labels"])
    world.patch("pods", second, {"metadata": {"labels": labels}})
    world.until("pods", second, lambda each: controller_of(each) is None)
    world.until_all("pods", lambda pods: len(pods) == 3)


def test_failures_of_disrupted_pods_are_ignored_where_the_policy_says_so(world: World) -> None:
    ignore = {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    made = job(
        parallelism=2,
        completions=2,
        backoffLimit=0,
        completionMode="Indexed",
        podFailurePolicy={"rules": [ignore]},
    )
    world.create(made)
    world.until("Job", "work", active(2))
    pods = world.until_all(
        "pods",
        lambda pods: (
            all((each.get("status") or {}).get("phase") == "Running" for each in pods) and pods
        ),
    )
    for each in pods:
        evict(world, name_of(each))
        world.patch("pods", name_of(each), {"status": {"phase": "Failed"}}, "status")
    world.until_all(
        "pods",
        lambda now: len(now) == 2
        and not {each["metadata"]["uid"] for each in now} & {each["metadata"]["uid"] for each in pods},
    )  # fmt: skip
    found = world.until("Job", "work", active(2))
    assert not found["status"].get("failed")
    for each in world.list("pods"):
        world.until("pods", name_of(each), lambda now: now["status"].get("phase") == "Running")
        world.patch("pods", name_of(each), {"metadata": {"annotations": {EXIT_CODE: "0"}}})
    world.until("Job", "work", outcome("Complete"))


def test_an_exit_code_of_the_policy_fails_the_job_at_once(world: World) -> None:
    codes = {"containerName": "web", "operator": "In", "values": [42]}
    rule = {"action": "FailJob", "onExitCodes": codes}
    world.create(job(code=42, backoffLimit=6, podFailurePolicy={"rules": [rule]}))
    failed = world.until("Job", "work", outcome("Failed"))
    assert condition(failed, "Failed")["reason"] == "PodFailurePolicy"
    assert failed["status"]["failed"] == 1


def test_deleting_a_job_takes_its_pods(world: World) -> None:
    world.create(job(parallelism=2, completions=2))
    world.until("Job", "work", active(2))
    assert len(world.list("pods", "batch.kubernetes.io/job-name=work")) == 2
    world.delete("Job", "work", "Foreground")
    world.gone("Job", "work")
    assert world.list("pods") == []


# -- CronJobs: on a cluster whose time the tests move --------------------------------------------


@pytest.fixture(scope="module")
def timed() -> Iterator[Cluster]:
    with Cluster(nodes=1) as cluster:
        yield cluster


@pytest.fixture
def hours(timed: Cluster, request: pytest.FixtureRequest) -> Iterator[World]:
    with World.of(timed, request.node.name) as world:
        yield world


def cronjob(policy: str, **spec: object) -> dict:
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick"},
        "spec": {
            "schedule": "*/1 * * * ?",
            "concurrencyPolicy": policy,
            "jobTemplate": {"spec": job()["spec"]},
            **spec,
        },
    }


@pytest.mark.parametrize(
    ("policy", "running"), [("Allow", [1, 2, 3]), ("Forbid", [1, 1, 1]), ("Replace", [1, 1, 1])]
)
def test_runs_that_overlap_follow_the_policy(hours: World, policy: str, running: list[int]) -> None:
    world = hours
    world.create(cronjob(policy))
    first: set[str] = set()
    for count in running:
        world.cluster.advance(61)
        jobs = world.until_all(
            "Job",
            lambda jobs, count=count, first=first: len(jobs) == count
            and (policy != "Replace" or not first & {each["metadata"]["uid"] for each in jobs})
            and jobs,
        )  # fmt: skip
        uids = {each["metadata"]["uid"] for each in jobs}
        world.until(
            "CronJob",
            "tick",
            lambda each, uids=uids: (
                {one["uid"] for one in each["status"].get("active", ())} == uids
            ),
        )
        if policy == "Forbid":
            assert not first or first == uids
        first = uids
    if policy == "Forbid":
        world.until_all(
            "events", lambda events: any(each["reason"] == "JobAlreadyActive" for each in events)
        )


def test_a_suspended_cronjob_starts_nothing(hours: World) -> None:
    world = hours
    world.create(cronjob("Allow", suspend=True))
    world.cluster.advance(600)
    made = world.create({**cronjob("Allow"), "metadata": {"name": "other"}})
    world.cluster.advance(61)
    (only,) = world.until_all("Job", lambda jobs: jobs)
    assert controller_of(only)["uid"] == made["metadata"]["uid"]
    assert not world.get("CronJob", "tick").get("status", {}).get("lastScheduleTime")


# -- PodDisruptionBudgets ------------------------------------------------------------------------


def budget(minimum: object, name: str = "web") -> dict:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": {"minAvailable": minimum, "selector": {"matchLabels": {"app": "web"}}},
    }


def evict(world: World, name: str) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    world.raw("POST", world.resource("pods").path(world.ns, name, "eviction"), eviction)


def running(world: World, *names: str) -> None:
    for name in names:
        world.create(pod(name, {"app": "web"}, terminationGracePeriodSeconds=0))
        world.until("pods", name, lambda each: condition(each, "Ready").get("status") == "True")


def test_a_budget_tells_how_many_disruptions_are_allowed(world: World) -> None:
    world.create(budget(1))
    running(world, "a", "b", "c")
    found = world.until(
        "PodDisruptionBudget", "web", lambda each: each["status"].get("disruptionsAllowed") == 2
    )
    counted = {
        key: found["status"][key] for key in ("currentHealthy", "desiredHealthy", "expectedPods")
    }
    assert counted == {"currentHealthy": 3, "desiredHealthy": 1, "expectedPods": 3}
    assert condition(found, "DisruptionAllowed")["status"] == "True"
    world.change(found, spec__minAvailable="100%")
    world.until(
        "PodDisruptionBudget", "web", lambda each: each["status"]["disruptionsAllowed"] == 0
    )


def test_an_eviction_waits_for_the_budget_to_allow_it(world: World) -> None:
    running(world, "a", "b", "c")
    made = world.create(budget(3))
    world.until(
        "PodDisruptionBudget", "web", lambda each: each["status"].get("currentHealthy") == 3
    )
    with pytest.raises(TooManyRequests, match="would violate the pod's disruption budget"):
        evict(world, "a")
    world.change(made, spec__minAvailable=2)
    world.until(
        "PodDisruptionBudget", "web", lambda each: each["status"]["disruptionsAllowed"] == 1
    )
    evict(world, "a")
    world.gone("pods", "a")
    with pytest.raises(TooManyRequests):
        evict(world, "b")
    world.patch("PodDisruptionBudget", "web", {"spec": {"minAvailable": None, "maxUnavailable": 1}})
    world.delete("PodDisruptionBudget", "web")
    evict(world, "b")
    world.gone("pods", "b")
