"""Deployment arithmetic: a rollout keeps its bounds at every step and always ends."""

import copy
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.capabilities.workloads.objects import deployment, replicaset

from underway.capabilities.workloads.model import replicas_of, resolve
from underway.capabilities.workloads.rules import deployment as rules
from underway.capabilities.workloads.rules import rollout

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def apply(steps: list[rules.Scale], sets: dict[str, dict], owner: dict) -> None:
    for step in steps:
        target = sets[step.replicaset["metadata"]["name"]]
        target["spec"]["replicas"] = step.replicas
        target["status"]["replicas"] = step.replicas
        target["metadata"]["annotations"].update(rules.scale_annotations(owner))
        available = min(target["status"]["availableReplicas"], step.replicas)
        target["status"]["availableReplicas"] = available


bound = st.one_of(st.integers(0, 5), st.integers(0, 100).map(lambda n: f"{n}%"))


@settings(deadline=None)
@given(st.integers(0, 20), bound, bound, st.lists(st.integers(0, 12), max_size=3))
def test_a_rolling_update_stays_in_bounds_and_ends(replicas, surge, unavailable, old_sizes):
    owner = deployment(replicas, surge, unavailable)
    sets = {
        f"old{'x' * n}": replicaset(f"old{'x' * n}", size, size) for n, size in enumerate(old_sizes)
    }
    sets["new"] = replicaset("new", 0, 0)
    old = [each for name, each in sets.items() if name != "new"]
    start = sum(old_sizes)
    ceiling = max(start, replicas + rules.max_surge(owner))
    floor = min(start, replicas - rules.max_unavailable(owner))
    for _ in range(300):
        steps = rules.roll(owner, sets["new"], old)
        if not steps:
            target = sets["new"]
            if target["status"]["availableReplicas"] == replicas_of(target):
                break
            target["status"]["availableReplicas"] += 1  # one more pod became ready
            continue
        apply(steps, sets, owner)
        assert sum(map(replicas_of, sets.values())) <= ceiling
        available = sum(each["status"]["availableReplicas"] for each in sets.values())
        assert available >= floor
    assert replicas_of(sets["new"]) == replicas
    assert all(replicas_of(each) == 0 for each in old)


@settings(deadline=None)
@given(
    st.integers(1, 30),
    st.integers(0, 30),
    st.lists(st.integers(1, 15), min_size=2, max_size=4),
)
def test_scaling_in_the_middle_of_a_rollout_reaches_the_size_and_keeps_everyone_in_bounds(
    before, after, sizes
):
    owner = deployment(before, 2, 2)
    sets = {}
    for number, size in enumerate(sizes):
        name = f"rs{'x' * number}"
        sets[name] = replicaset(name, size, 0, **_noted(owner))
    owner["spec"]["replicas"] = after
    names = list(sets)
    steps = rules.scale(owner, sets[names[-1]], [sets[name] for name in names[:-1]])
    apply(steps, sets, owner)
    allowed = after + 2 if after else 0
    assert sum(map(replicas_of, sets.values())) == allowed
    assert all(replicas_of(each) >= 0 for each in sets.values())
    assert not rules.is_scaling(owner, list(sets.values()))


def _noted(owner: dict) -> dict[str, str]:
    notes = rules.scale_annotations(owner)
    return {key.split("/")[1].replace("-", "_"): value for key, value in notes.items()}


def test_percentages_round_surge_up_and_unavailable_down():
    assert resolve("25%", 10, up=True) == 3
    assert resolve("25%", 10, up=False) == 2
    assert resolve(3, 10, up=False) == 3


def test_with_neither_surge_nor_unavailable_one_pod_may_still_be_missing():
    assert rules.max_unavailable(deployment(3, 0, 0)) == 1


def test_unavailable_old_pods_go_first():
    owner = deployment(4, 0, 1)
    healthy, broken = replicaset("a", 2, 2), replicaset("bb", 2, 0)
    steps = rules.shrink_old(owner, replicaset("new", 0, 0), [healthy, broken])
    assert [(each.replicaset["metadata"]["name"], each.replicas) for each in steps] == [("bb", 1)]


def test_recreate_waits_for_the_last_old_pod():
    owner = deployment(2, strategy="Recreate")
    old = replicaset("old", 2, 2)
    assert rules.recreate(None, [old], []) == [rules.Scale(old, 0)]
    empty = replicaset("old", 0, 0)
    ending = {"metadata": {"name": "p"}, "status": {"phase": "Running"}}
    assert rules.recreate(None, [empty], [ending]) == []
    assert rules.recreate(None, [empty], []) is None
    new = replicaset("new", 0)
    assert rules.grow_new(owner, new, [empty]) == [rules.Scale(new, 2)]


def test_the_replicaset_of_the_same_template_is_found_whatever_its_hash_label():
    owner = deployment(1)
    made = rules.new_replicaset(owner, 1, {"uid": "x"})
    assert rules.find_new(owner, [replicaset("other", 1), made]) is made
    digest = made["metadata"]["labels"]["pod-template-hash"]
    assert made["metadata"]["name"] == f"web-{digest}"
    assert made["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": digest}


def test_a_rollback_takes_a_new_revision_and_remembers_the_old_one():
    owner = deployment(1)
    came_back = replicaset("rs", 0, revision="2")
    annotations = rules.revised(owner, came_back, 5)
    assert annotations["deployment.kubernetes.io/revision"] == "5"
    assert annotations["deployment.kubernetes.io/revision-history"] == "2"


def test_history_beyond_the_limit_is_pruned_oldest_first():
    owner = deployment(1, revisionHistoryLimit=1)
    old = [replicaset(f"rs{'x' * n}", 0, revision=str(n)) for n in (3, 1, 2)]
    assert [rules.revision_of(each) for each in rules.to_prune(owner, old)] == [1, 2]


def conditions(status: dict) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}


def test_the_status_tells_a_rollout_from_its_start_over_the_deadline_to_its_end():
    owner = deployment(2)
    new = replicaset("new", 2, 0)
    note = rollout.progressing("True", rollout.CREATED, "Created", "2026-01-01T00:00:00Z")
    seen = rollout.observe(owner, new, [], NOW, note)
    assert conditions(seen.status) == {
        "Available": ("False", "MinimumReplicasUnavailable"),
        "Progressing": ("True", "ReplicaSetUpdated"),
    }
    owner["status"] = seen.status
    late = rollout.observe(owner, new, [], NOW + timedelta(seconds=601))
    assert conditions(late.status)["Progressing"] == ("False", "ProgressDeadlineExceeded")
    owner["status"] = late.status
    done = rollout.observe(owner, replicaset("new", 2, 2), [], NOW + timedelta(seconds=700))
    assert conditions(done.status) == {
        "Available": ("True", "MinimumReplicasAvailable"),
        "Progressing": ("True", "NewReplicaSetAvailable"),
    }
    assert done.deadline_in_s is None


def test_a_status_without_news_is_written_as_it_was():
    owner = deployment(2)
    new = replicaset("new", 2, 2)
    owner["status"] = rollout.observe(owner, new, [], NOW).status
    again = rollout.observe(copy.deepcopy(owner), new, [], NOW + timedelta(hours=1)).status
    assert again == owner["status"]
