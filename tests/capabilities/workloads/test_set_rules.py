"""StatefulSets go in order, DaemonSets go everywhere."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from tests.capabilities.workloads.objects import pod

from underway.api.objects import name_of
from underway.capabilities.workloads.rules import daemonset, statefulset

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


def make_set(replicas: int, **spec: object) -> dict:
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "default", "uid": "u", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "db"}}, **spec},
    }


def member(number: int, revision: str = "v2", **options: object) -> dict:
    return pod(f"db-{number}", labels={statefulset.REVISION: revision}, **options)


def test_pods_are_made_one_after_the_other():
    owner = make_set(3)
    assert statefulset.plan(owner, [], "v2", NOW).create == (0,)
    starting = member(0, ready=False)
    assert statefulset.plan(owner, [starting], "v2", NOW) == statefulset.Plan()
    assert statefulset.plan(owner, [member(0)], "v2", NOW).create == (1,)


def test_pods_are_removed_from_the_highest_number_down():
    pods = [member(0), member(1), member(2)]
    plan = statefulset.plan(make_set(1), pods, "v2", NOW)
    assert [name_of(each) for each in plan.delete] == ["db-2"]


def test_in_parallel_all_are_made_and_removed_at_once():
    owner = make_set(3, podManagementPolicy="Parallel")
    assert statefulset.plan(owner, [], "v2", NOW).create == (0, 1, 2)


def test_an_update_goes_from_the_highest_number_down_to_the_partition():
    owner = make_set(3, updateStrategy={"rollingUpdate": {"partition": 1}})
    pods = [member(n, "v1") for n in range(3)]
    assert [name_of(p) for p in statefulset.plan(owner, pods, "v2", NOW).delete] == ["db-2"]
    pods[2] = member(2)
    assert [name_of(p) for p in statefulset.plan(owner, pods, "v2", NOW).delete] == ["db-1"]
    pods[1] = member(1)
    assert statefulset.plan(owner, pods, "v2", NOW) == statefulset.Plan()


def test_a_broken_old_pod_does_not_hold_up_the_update_that_mends_it():
    pods = [member(0, "v1", ready=False), member(1, "v1")]
    plan = statefulset.plan(make_set(2), pods, "v2", NOW)
    assert [name_of(each) for each in plan.delete] == ["db-0"]


@given(st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_repeating_the_plan_ends_with_exactly_the_wanted_pods(start, wanted, parallel):
    owner = make_set(wanted, podManagementPolicy="Parallel" if parallel else "OrderedReady")
    pods = {n: member(n, "v1") for n in range(start)}
    for _ in range(40):
        plan = statefulset.plan(owner, list(pods.values()), "v2", NOW)
        if plan == statefulset.Plan():
            break
        for each in plan.delete:
            del pods[statefulset.ordinal_of(owner, each)]
        for number in plan.create:
            pods[number] = member(number)
    assert sorted(pods) == list(range(wanted))
    assert all(each["metadata"]["labels"][statefulset.REVISION] == "v2" for each in pods.values())


def node(name: str, **spec: object) -> dict:
    return {"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": spec}


def make_daemons(**spec: object) -> dict:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent", "namespace": "default", "uid": "u", "generation": 1},
        "spec": {"template": {"spec": {}}, **spec},
    }


def test_each_node_that_can_have_one_gets_one_pod():
    tainted = node("n2", taints=[{"key": "gpu", "effect": "NoSchedule"}])
    cordoned = node("n3", unschedulable=True)
    nodes = [node("n1"), tainted, cordoned]
    plan = daemonset.plan(make_daemons(), nodes, [], "v2", NOW)
    assert plan.create == ("n1", "n3")
    made = daemonset.new_pod(make_daemons(), "n1", "v2")
    assert daemonset.target_of(made) == "n1"


def test_doubles_and_pods_of_nodes_that_went_are_deleted():
    pods = [pod("a", node="n1"), pod("b", node="n1"), pod("c", node="gone")]
    plan = daemonset.plan(make_daemons(), [node("n1")], pods, "v2", NOW)
    assert [name_of(each) for each in plan.delete] == ["b", "c"]


def test_an_update_replaces_no_more_than_may_be_unavailable():
    nodes = [node(f"n{n}") for n in range(4)]
    pods = [pod(f"p{n}", node=f"n{n}", labels={daemonset.REVISION: "v1"}) for n in range(4)]
    owner = make_daemons(updateStrategy={"rollingUpdate": {"maxUnavailable": 2}})
    assert len(daemonset.plan(owner, nodes, pods, "v2", NOW).delete) == 2


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.sets(st.integers(0, 4)))
def test_a_surging_update_never_leaves_a_node_unserved(random, surge, broken):
    nodes = [node(f"n{n}") for n in range(5)]
    owner = make_daemons(updateStrategy={"rollingUpdate": {"maxSurge": surge, "maxUnavailable": 0}})

    def daemon(name: str, where: str, revision: str, *, ready: bool) -> dict:
        return pod(name, node=where, labels={daemonset.REVISION: revision}, ready=ready)

    pods = {f"old{n}": daemon(f"old{n}", f"n{n}", "v1", ready=n not in broken) for n in range(5)}
    for step in range(60):
        plan = daemonset.plan(owner, nodes, list(pods.values()), "v2", NOW)
        starting = [name for name, each in pods.items() if name.startswith("new")]
        if not plan.create and not plan.delete and len(starting) == len(pods) == 5:
            break
        serving = {daemonset.target_of(p) for p in pods.values() if daemonset.is_ready(p)}
        for each in plan.delete:
            del pods[name_of(each)]
        still = {daemonset.target_of(p) for p in pods.values() if daemonset.is_ready(p)}
        assert still == serving
        for where in plan.create:
            name = f"new{step}{where}"
            pods[name] = daemon(name, where, "v2", ready=False)
        both = [
            where
            for where in {daemonset.target_of(p) for p in pods.values()}
            if where[1:] not in {str(n) for n in broken}
            and sum(daemonset.target_of(p) == where for p in pods.values()) > 1
        ]
        assert len(both) <= surge
        for name in starting:
            if name in pods and random.random() < 0.5:
                where = daemonset.target_of(pods[name])
                pods[name] = daemon(name, where, "v2", ready=True)
    assert len(pods) == 5
    assert all(each["metadata"]["labels"][daemonset.REVISION] == "v2" for each in pods.values())
