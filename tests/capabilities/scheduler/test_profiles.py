"""Profiles: the configuration of kube-scheduler, and what it changes."""

import pytest

from underway.api import selectors
from underway.base.errors import Invalid
from underway.capabilities.scheduler import profiles
from underway.capabilities.scheduler.model import pod_info
from underway.capabilities.scheduler.rules.cluster import Cluster
from underway.capabilities.scheduler.rules.decide import Chosen, decide

API = "kubescheduler.config.k8s.io/v1"


def profile(**written):
    found = profiles.configuration(
        {"apiVersion": API, "kind": "KubeSchedulerConfiguration", "profiles": [written]}
    )
    (only,) = found.profiles.values()
    return only


def node(name, cpu="4", taints=(), unschedulable=False, **labels):
    amounts = {"cpu": cpu, "memory": "8Gi", "pods": "110", "example.com/gpu": "2"}
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        "spec": {"taints": list(taints), "unschedulable": unschedulable},
        "status": {"allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def pod(name="p", cpu="1", labels=None, **spec):
    requests = {"requests": {"cpu": cpu, **spec.pop("requests", {})}}
    return {
        "metadata": {"name": name, "uid": name, "namespace": "default", "labels": labels or {}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": requests}], **spec},
    }


def cluster(*nodes, **placed):
    found = Cluster()
    for each in nodes:
        found.put_node(each)
    for where, count in placed.items():
        for number in range(count):
            name = f"{where}-{number}"
            found.place(pod_info(pod(name, labels={"app": "web"})), where)
    return found


def chosen(made, found, using, kin=None):
    verdict = decide(pod_info(made, using, kin), found)
    return verdict.node if isinstance(verdict, Chosen) else verdict.message


def test_without_profiles_there_is_the_default_one():
    found = profiles.configuration({"apiVersion": API, "kind": "KubeSchedulerConfiguration"})
    assert found == profiles.STANDARD


def test_names_and_back_off_are_read():
    written = {
        "apiVersion": API,
        "kind": "KubeSchedulerConfiguration",
        "podInitialBackoffSeconds": 2,
        "podMaxBackoffSeconds": 20,
        "profiles": [{"schedulerName": "a"}, {"schedulerName": "b"}],
    }
    found = profiles.configuration(written)
    assert set(found.profiles) == {"a", "b"}
    assert (found.backoff_s, found.max_backoff_s) == (2.0, 20.0)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"schedulerName": "a", "plugins": {"score": {"disabled": [{"name": "None"}]}}},
            "no plugin",
        ),
        ({"pluginConfig": [{"name": "Nothing"}]}, r"pluginConfig\[0\].name"),
        (
            {
                "pluginConfig": [
                    {"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 101}}
                ]
            },
            "between 0 and 100",
        ),
        (
            {
                "pluginConfig": [
                    {"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "Best"}}}
                ]
            },
            "scoringStrategy.type",
        ),
        (
            {
                "pluginConfig": [
                    {
                        "name": "PodTopologySpread",
                        "args": {"defaultConstraints": [{"maxSkew": 1, "topologyKey": "zone"}]},
                    }
                ]
            },
            "defaultingType",
        ),
    ],
)
def test_what_is_wrong_is_named(written, message):
    with pytest.raises(Invalid, match=message):
        profile(**written)


def test_two_profiles_of_one_name_are_refused():
    both = [{"schedulerName": "a"}, {"schedulerName": "a"}]
    written = {"apiVersion": API, "kind": "KubeSchedulerConfiguration", "profiles": both}
    with pytest.raises(Invalid, match="is there already"):
        profiles.configuration(written)


@pytest.mark.parametrize(
    ("plugin", "made", "where"),
    [
        ("NodeUnschedulable", pod(), node("n", unschedulable=True)),
        (
            "TaintToleration",
            pod(),
            node("n", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]),
        ),
        ("NodeAffinity", pod(nodeSelector={"disk": "ssd"}), node("n")),
        ("NodeResourcesFit", pod(cpu="100"), node("n")),
    ],
)
def test_a_filter_that_is_off_refuses_nothing(plugin, made, where):
    off = profile(plugins={"filter": {"disabled": [{"name": plugin}]}})
    assert chosen(made, cluster(where), profiles.DEFAULT).startswith("0/1 nodes are available")
    assert chosen(made, cluster(where), off) == "n"


def test_pods_are_packed_by_most_allocated_and_spread_by_least():
    most = profile(
        pluginConfig=[
            {"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated"}}}
        ],
        plugins={"score": {"disabled": [{"name": "NodeResourcesBalancedAllocation"}]}},
    )
    found = cluster(node("a"), node("b"), b=2)
    assert chosen(pod(), found, most) == "b"
    assert chosen(pod(), found, profiles.DEFAULT) == "a"


def test_a_ratio_of_use_is_worth_what_its_shape_says():
    shape = [
        {"utilization": 0, "score": 0},
        {"utilization": 50, "score": 10},
        {"utilization": 100, "score": 0},
    ]
    strategy = {
        "type": "RequestedToCapacityRatio",
        "resources": [{"name": "example.com/gpu"}],
        "requestedToCapacityRatio": {"shape": shape},
    }
    ratio = profile(
        pluginConfig=[{"name": "NodeResourcesFit", "args": {"scoringStrategy": strategy}}],
        plugins={"score": {"disabled": [{"name": "NodeResourcesBalancedAllocation"}]}},
    )
    gpu = {"requests": {"example.com/gpu": "1"}}
    found = cluster(node("a"), node("b"))
    found.place(pod_info(pod("there", **gpu)), "a")
    assert chosen(pod(**gpu), found, ratio) == "b"  # half used is best


def test_weights_decide_which_score_counts_more():
    soft = [{"key": "k", "effect": "PreferNoSchedule"}]
    found = cluster(node("tainted", taints=soft), node("busy"), busy=3)
    assert chosen(pod(), found, profiles.DEFAULT) == "busy"
    blind = profile(plugins={"score": {"disabled": [{"name": "TaintToleration"}]}})
    assert chosen(pod(), found, blind) == "tainted"
    none = profile(plugins={"score": {"disabled": [{"name": "*"}]}})
    assert chosen(pod(), found, none) == "busy"  # the first by name


def test_added_affinity_holds_for_every_pod():
    required = {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}
        ]
    }
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": required}
    added = profile(pluginConfig=[{"name": "NodeAffinity", "args": {"addedAffinity": affinity}}])
    found = cluster(node("one", pool="b"), node("two", pool="a"))
    assert chosen(pod(), found, added) == "two"
    message = chosen(pod(), cluster(node("one", pool="b")), added)
    assert "1 node(s) didn't match scheduler-enforced node affinity" in message


def test_constraints_of_the_profile_spread_pods_that_bring_none():
    constraint = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
    }
    spread = profile(
        pluginConfig=[
            {
                "name": "PodTopologySpread",
                "args": {"defaultConstraints": [constraint], "defaultingType": "List"},
            }
        ]
    )
    kin = selectors.from_object({"matchLabels": {"app": "web"}})
    made = pod(labels={"app": "web"})
    full = cluster(node("a"), node("b", taints=[{"key": "k", "effect": "NoSchedule"}]), a=1)
    message = chosen(made, full, spread, kin)
    assert "1 node(s) didn't match pod topology spread constraints" in message
    assert chosen(made, full, spread) == "a"  # nothing selects it: there is nothing to spread
    assert chosen(made, full, profiles.DEFAULT) == "a"


def test_pods_of_a_profile_without_preemption_make_nobody_go():
    gentle = profile(plugins={"postFilter": {"disabled": [{"name": "DefaultPreemption"}]}})
    found = cluster(node("a", cpu="1"), a=1)
    message = chosen(pod(priority=1000), found, gentle)
    assert message == "0/1 nodes are available: 1 Insufficient cpu."
