"""Jobs and CronJobs on the real server."""

import asyncio
from datetime import UTC, datetime

import pytest
from tests.capabilities.workloads.kubelet import kubelet
from tests.cluster import cluster

from underway.api.objects import Object, find_condition
from underway.api.resources import CRONJOBS, JOBS, PODS
from underway.base.clock import FakeClock
from underway.capabilities.workloads.controller import cleanup, cronjob, job
from underway.reconcile.testenv import Environment

NS = "default"
POD = {"containers": [{"name": "c", "image": "busybox"}], "restartPolicy": "Never"}


def make_job(**spec: object) -> Object:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work", "namespace": NS},
        "spec": {"template": {"spec": POD}, **spec},
    }


async def ended(env: Environment) -> tuple[str, Object]:
    def check(all_: dict[str, Object]) -> tuple[str, Object] | None:
        found = all_.get("default/work") or {}
        for kind in ("Complete", "Failed"):
            condition = find_condition((found.get("status") or {}).get("conditions"), kind)
            if condition is not None and condition["status"] == "True":
                return kind, found
        return None

    return await env.until(JOBS, check, NS)


def test_a_job_runs_to_completion_and_counts_its_pods(tmp_path):
    async def main():
        async with cluster(tmp_path, job.add, kubelet(lambda _pod: "Succeeded")) as env:
            await env.client.create(JOBS, make_job(completions=20, parallelism=4))
            kind, found = await ended(env)
            assert kind == "Complete"
            assert found["status"]["succeeded"] == 20
            assert found["status"]["completionTime"]
            await env.until(
                PODS,
                lambda all_: all(not p["metadata"].get("finalizers") for p in all_.values()),
                NS,
            )
            assert len((await env.client.list(PODS, NS)).items) == 20

    asyncio.run(main())


def test_an_indexed_job_gives_each_index_to_one_pod(tmp_path):
    async def main():
        async with cluster(tmp_path, job.add, kubelet(lambda _pod: "Succeeded")) as env:
            await env.client.create(
                JOBS, make_job(completions=4, parallelism=4, completionMode="Indexed")
            )
            _, found = await ended(env)
            assert found["status"]["completedIndexes"] == "0-3"
            pods = (await env.client.list(PODS, NS)).items
            key = "batch.kubernetes.io/job-completion-index"
            assert sorted(p["metadata"]["labels"][key] for p in pods) == list("0123")

    asyncio.run(main())


def test_a_job_whose_pods_fail_is_given_up_at_its_limit(tmp_path):
    async def main():
        async with cluster(tmp_path, job.add, kubelet(lambda _pod: "Failed")) as env:
            await env.client.create(JOBS, make_job(backoffLimit=0))
            kind, found = await ended(env)
            assert kind == "Failed"
            condition = find_condition(found["status"]["conditions"], "Failed")
            assert condition["reason"] == "BackoffLimitExceeded"
            assert found["status"]["failed"] == 1

    asyncio.run(main())


def test_a_suspended_job_has_no_pods_until_it_is_resumed(tmp_path):
    async def main():
        async with cluster(tmp_path, job.add, kubelet()) as env:
            await env.client.create(JOBS, make_job(suspend=True))
            await env.until(
                JOBS,
                lambda all_: find_condition(
                    all_["default/work"].get("status", {}).get("conditions"), "Suspended"
                ),
                NS,
            )
            assert (await env.client.list(PODS, NS)).items == []
            await env.client.patch(JOBS, "work", {"spec": {"suspend": False}}, NS)
            await env.until(JOBS, lambda all_: all_["default/work"]["status"].get("ready"), NS)
            await env.client.patch(JOBS, "work", {"spec": {"suspend": True}}, NS)
            await env.until(PODS, lambda all_: not all_, NS)

    asyncio.run(main())


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
def test_deleting_a_job_takes_its_pods_along(tmp_path, propagation):
    async def main():
        async with cluster(tmp_path, job.add, cleanup.add, kubelet()) as env:
            await env.client.create(JOBS, make_job(parallelism=2, completions=2))
            await env.until(PODS, lambda all_: len(all_) == 2, NS)
            await env.client.delete(JOBS, "work", NS, propagation=propagation)
            await env.until(PODS, lambda all_: not all_, NS)
            await env.until(JOBS, lambda all_: not all_, NS)

    asyncio.run(main())


def test_a_finished_job_goes_after_its_time(tmp_path):
    async def main():
        factories = (job.add, cleanup.add, kubelet(lambda _pod: "Succeeded"))
        async with cluster(tmp_path, *factories) as env:
            await env.client.create(JOBS, make_job(ttlSecondsAfterFinished=0))
            await env.until(PODS, lambda all_: all_, NS)
            await env.until(JOBS, lambda all_: not all_, NS)
            await env.until(PODS, lambda all_: not all_, NS)

    asyncio.run(main())


def test_a_cronjob_starts_a_job_each_time_it_comes_up(tmp_path):
    async def main():
        clock = FakeClock(datetime(2026, 1, 1, 10, 0, 30, tzinfo=UTC))
        async with cluster(tmp_path, cronjob.add, clock=clock) as env:
            wanted = {
                "apiVersion": "batch/v1",
                "kind": "CronJob",
                "metadata": {"name": "tick", "namespace": NS},
                "spec": {
                    "schedule": "* * * * *",
                    "jobTemplate": {"spec": {"template": {"spec": POD}}},
                },
            }
            await env.client.create(CRONJOBS, wanted)
            informer = env.manager.informer(CRONJOBS)
            controller = env.manager._controllers[0]
            async with asyncio.timeout(10):
                # Nothing tells from outside that the next time has been worked out.
                while not informer.list() or not controller._queue._delayed:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await clock.advance(30)
            await env.until(JOBS, lambda all_: len(all_) == 1, NS)
            found = await env.until(
                CRONJOBS, lambda all_: all_["default/tick"]["status"].get("active"), NS
            )
            assert found[0]["name"].startswith("tick-")

    asyncio.run(main())


def index_of(made: Object) -> int:
    return int(made["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])


def test_a_pod_failure_policy_ends_the_job_at_the_first_hopeless_failure(tmp_path):
    async def main():
        async with cluster(tmp_path, job.add, kubelet(lambda _pod: "Failed")) as env:
            rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}
            await env.client.create(JOBS, make_job(podFailurePolicy={"rules": [rule]}))
            kind, found = await ended(env)
            condition = find_condition(found["status"]["conditions"], "Failed")
            assert (kind, condition["reason"]) == ("Failed", "PodFailurePolicy")
            assert "failed with exit code 1 matching FailJob rule" in condition["message"]
            assert found["status"]["failed"] == 1

    asyncio.run(main())


def test_an_index_that_fails_for_good_does_not_stop_the_others(tmp_path):
    def outcome(made: Object) -> str:
        return "Failed" if index_of(made) == 1 else "Succeeded"

    async def main():
        async with cluster(tmp_path, job.add, kubelet(outcome)) as env:
            await env.client.create(
                JOBS,
                make_job(
                    completions=3,
                    parallelism=1,
                    completionMode="Indexed",
                    backoffLimitPerIndex=0,
                ),
            )
            kind, found = await ended(env)
            condition = find_condition(found["status"]["conditions"], "Failed")
            assert (kind, condition["reason"]) == ("Failed", "FailedIndexes")
            status = found["status"]
            assert (status["completedIndexes"], status["failedIndexes"]) == ("0,2", "1")
            assert (status["succeeded"], status["failed"]) == (2, 1)

    asyncio.run(main())


def test_a_success_policy_ends_the_job_and_the_pods_that_still_run(tmp_path):
    def outcome(made: Object) -> str:
        return "Succeeded" if index_of(made) == 0 else "Running"

    async def main():
        async with cluster(tmp_path, job.add, kubelet(outcome)) as env:
            await env.client.create(
                JOBS,
                make_job(
                    completions=3,
                    parallelism=3,
                    completionMode="Indexed",
                    successPolicy={"rules": [{"succeededIndexes": "0"}]},
                ),
            )
            kind, found = await ended(env)
            condition = find_condition(found["status"]["conditions"], "SuccessCriteriaMet")
            assert (kind, condition["reason"]) == ("Complete", "SuccessPolicy")
            assert found["status"]["succeeded"] == 1
            left = (await env.client.list(PODS, NS)).items
            assert [index_of(each) for each in left] == [0]

    asyncio.run(main())
