"""When nodes count as lost, which taints follow, and when pods leave."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from underway.api.objects import find_condition
from underway.capabilities.workloads.rules import nodes as rules
from underway.capabilities.workloads.rules.nodes import Eviction

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)
TEN_AGO = "2026-01-01T00:59:50Z"


def node(ready: str = "True", *, taints=(), unschedulable=False, **conditions: str) -> dict:
    listed = [{"type": "Ready", "status": ready}] if ready else []
    listed += [{"type": kind, "status": value} for kind, value in conditions.items()]
    spec = {"taints": list(taints), "unschedulable": unschedulable}
    return {"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": listed}}


def pairs(taints) -> set[tuple[str, str]]:
    return {(each["key"].rpartition("/")[2], each["effect"]) for each in taints}


def pod(*tolerations: dict, scheduled: str = "2026-01-01T00:00:00Z") -> dict:
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": scheduled}]
    return {
        "metadata": {"name": "p"},
        "spec": {"tolerations": list(tolerations), "nodeName": "n"},
        "status": {"conditions": conditions},
    }


def tolerate(key: str, seconds: int | None = None) -> dict:
    found = {"key": key, "operator": "Exists", "effect": "NoExecute"}
    return found if seconds is None else {**found, "tolerationSeconds": seconds}


LOST = {"key": rules.UNREACHABLE, "effect": "NoExecute", "timeAdded": TEN_AGO}


def test_a_silent_node_becomes_unknown_in_every_condition():
    conditions = rules.lost_conditions(
        node(MemoryPressure="False", NetworkUnavailable="False"), NOW
    )
    by_kind = {each["type"]: each for each in conditions}
    assert by_kind["Ready"]["reason"] == "NodeStatusUnknown"
    assert by_kind["DiskPressure"]["reason"] == "NodeStatusNeverUpdated"
    assert by_kind["NetworkUnavailable"]["status"] == "False"
    again = rules.lost_conditions({**node(), "status": {"conditions": conditions}}, NOW)
    assert again == conditions


def test_taints_follow_conditions_and_those_of_others_stay():
    mine = {"key": "gpu", "value": "a", "effect": "NoSchedule"}
    assert pairs(rules.taints(node(taints=[mine]), Eviction.GO, NOW)) == {("gpu", "NoSchedule")}
    assert pairs(rules.taints(node("False", taints=[mine]), Eviction.GO, NOW)) == {
        ("gpu", "NoSchedule"),
        ("not-ready", "NoSchedule"),
        ("not-ready", "NoExecute"),
    }
    unknown = node("Unknown", taints=rules.taints(node("False"), Eviction.GO, NOW))
    assert pairs(rules.taints(unknown, Eviction.GO, NOW)) == {
        ("unreachable", "NoSchedule"),
        ("unreachable", "NoExecute"),
    }
    pressed = node(DiskPressure="True", unschedulable=True)
    assert pairs(rules.taints(pressed, Eviction.GO, NOW)) == {
        ("disk-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    }
    recovered = node("True", taints=unknown["spec"]["taints"])
    assert rules.taints(recovered, Eviction.GO, NOW) == []


def test_halted_eviction_keeps_what_was_begun_and_begins_nothing():
    fresh = node("Unknown")
    assert pairs(rules.taints(fresh, Eviction.HALT, NOW)) == {("unreachable", "NoSchedule")}
    begun = node("Unknown", taints=[LOST])
    assert ("unreachable", "NoExecute") in pairs(rules.taints(begun, Eviction.HALT, NOW))
    assert ("unreachable", "NoExecute") not in pairs(rules.taints(begun, Eviction.NONE, NOW))


@given(
    st.sampled_from(["", "True", "False", "Unknown"]),
    st.sampled_from(list(Eviction)),
    st.dictionaries(
        st.sampled_from(["MemoryPressure", "PIDPressure", "NetworkUnavailable"]),
        st.sampled_from(["True", "False", "Unknown"]),
    ),
    st.booleans(),
)
def test_writing_the_taints_once_is_enough(ready, eviction, conditions, cordoned):
    before = node(ready, unschedulable=cordoned, **conditions)
    once = rules.taints(before, eviction, NOW)
    before["spec"]["taints"] = once
    assert rules.taints(before, eviction, NOW + timedelta(hours=1)) == once


def test_when_all_nodes_seem_lost_nobody_is_evicted():
    assert rules.disruption({"a": (0, 3), "b": (0, 1)})["a"][0] is Eviction.NONE
    modes = rules.disruption({"a": (0, 3), "b": (1, 0), "c": (2, 3), "d": (20, 40), "e": (9, 2)})
    assert {zone: mode for zone, (mode, _) in modes.items()} == {
        "a": Eviction.GO,
        "b": Eviction.GO,
        "c": Eviction.HALT,
        "d": Eviction.GO,
        "e": Eviction.GO,
    }
    assert modes["d"][1] == rules.LARGE_ZONE_PERIOD_S
    assert modes["e"][1] == rules.EVICTION_PERIOD_S


def test_pods_leave_when_what_they_tolerate_has_passed():
    assert rules.leaves_at(pod(), [LOST], NOW) == NOW
    assert rules.leaves_at(pod(tolerate(rules.UNREACHABLE)), [LOST], NOW) is None
    limited = pod(tolerate(rules.UNREACHABLE, 300))
    assert rules.leaves_at(limited, [LOST], NOW) == NOW + timedelta(seconds=290)
    other = {"key": "x", "effect": "NoExecute"}
    assert rules.leaves_at(limited, [LOST, other], NOW) == NOW
    both = pod(tolerate(rules.UNREACHABLE, 300), {"operator": "Exists", "tolerationSeconds": 60})
    assert rules.leaves_at(both, [LOST], NOW) == NOW + timedelta(seconds=50)
    late = pod(tolerate(rules.UNREACHABLE, 30), scheduled="2026-01-01T00:59:59Z")
    assert rules.leaves_at(late, [LOST], NOW) == NOW + timedelta(seconds=29)


def test_garbage_is_what_no_node_will_remove():
    doomed = pod()
    doomed["metadata"]["deletionTimestamp"] = TEN_AGO
    assert rules.garbage(pod(), node()) == ""
    assert "no longer exists" in rules.garbage(pod(), None)
    assert rules.garbage(doomed, node("Unknown")) == ""
    gone = node("Unknown", taints=[{"key": rules.OUT_OF_SERVICE, "effect": "NoExecute"}])
    assert "out of service" in rules.garbage(doomed, gone)
    assert rules.garbage(pod(), gone) == ""
    unbound = {"metadata": {"deletionTimestamp": TEN_AGO}, "spec": {}}
    assert rules.garbage(unbound, None)


@given(st.lists(st.tuples(st.text("ab", max_size=2), st.text("xyz")), unique_by=lambda p: p[1]))
def test_of_ended_pods_the_newest_are_kept(pods):
    gone = rules.too_many_terminated(pods, 3)
    kept = [each for each in pods if each[1] not in gone]
    assert len(kept) == min(3, len(pods))
    assert all(a[0] <= b[0] for a in pods if a[1] in gone for b in kept)
    assert rules.too_many_terminated(pods, 0) == []


def test_pods_of_a_lost_node_are_marked_unready_once():
    running = pod()
    running["status"]["conditions"].append({"type": "Ready", "status": "True"})
    condition = rules.unready(running, NOW)
    assert condition is not None
    find_condition(running["status"]["conditions"], "Ready").update(condition)
    assert rules.unready(running, NOW) is None
