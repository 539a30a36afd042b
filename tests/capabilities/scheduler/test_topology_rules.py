"""Company and distance: pod affinity, topology spread, volumes."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.capabilities.scheduler.objects import HOST, ZONE, cluster, node, pod

from underway.capabilities.scheduler.model import PodInfo
from underway.capabilities.scheduler.rules.cluster import Cluster
from underway.capabilities.scheduler.rules.decide import Chosen, Unschedulable, decide

WEB, DB = {"app": "web"}, {"app": "db"}


def term(labels: dict, key: str = HOST, **more: object) -> dict:
    return {"labelSelector": {"matchLabels": labels}, "topologyKey": key, **more}


def near(labels: dict, key: str = HOST, **more: object) -> dict:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    return {"podAffinity": {required: [term(labels, key, **more)]}}


def apart(labels: dict, key: str = HOST, **more: object) -> dict:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    return {"podAntiAffinity": {required: [term(labels, key, **more)]}}


def preferred(side: str, labels: dict, key: str = HOST, weight: int = 100) -> dict:
    preferring = "preferredDuringSchedulingIgnoredDuringExecution"
    return {side: {preferring: [{"weight": weight, "podAffinityTerm": term(labels, key)}]}}


def spread(skew: int = 1, key: str = ZONE, **more: object) -> list[dict]:
    constraint = {
        "maxSkew": skew,
        "topologyKey": key,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": WEB},
    }
    return [{**constraint, **more}]


def why(asked: PodInfo, world: Cluster) -> str:
    verdict = decide(asked, world)
    assert isinstance(verdict, Unschedulable)
    return verdict.message.split(" preemption:")[0]


def zones() -> list[dict]:
    return [node("a1", zone="a"), node("a2", zone="a"), node("b1", zone="b")]


def test_affinity_follows_pods_to_their_node_or_zone():
    world = cluster(*zones(), a1=[pod("db", labels=DB)])
    assert decide(pod(affinity=near(DB)), world) == Chosen("a1")
    assert decide(pod(affinity=near(DB, ZONE)), world) == Chosen("a2")
    assert why(pod(affinity=near(DB)), cluster(*zones())) == (
        "0/3 nodes are available: 3 node(s) didn't match pod affinity rules."
    )


def test_the_first_of_a_group_that_wants_to_be_together_may_start_anywhere():
    first = pod("first", labels=WEB, affinity=near(WEB))
    world = cluster(*zones())
    verdict = decide(first, world)
    assert isinstance(verdict, Chosen)
    world.place(first, verdict.node)
    assert decide(pod("second", labels=WEB, affinity=near(WEB)), world) == verdict


def test_anti_affinity_keeps_apart_in_both_directions():
    world = cluster(*zones(), a1=[pod("one", labels=WEB, affinity=apart(WEB, ZONE))])
    assert decide(pod(labels=WEB), world) == Chosen("b1")
    assert decide(pod(labels=DB), world) == Chosen("a2")
    assert decide(pod(affinity=apart(WEB, ZONE)), world) == Chosen("b1")
    world.place(pod("two", labels=WEB, affinity=apart(WEB, ZONE)), "b1")
    assert why(pod(labels=WEB), world) == (
        "0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules."
    )
    assert why(pod(affinity=apart(WEB, ZONE)), world) == (
        "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules."
    )


def test_terms_mean_their_own_namespace_unless_they_say_otherwise():
    world = cluster(*zones(), a1=[pod("db", labels=DB, namespace="data")])
    assert isinstance(decide(pod(affinity=near(DB)), world), Unschedulable)
    assert decide(pod(affinity=near(DB, namespaces=["data"])), world) == Chosen("a1")
    assert decide(pod(affinity=near(DB, namespaceSelector={})), world) == Chosen("a1")
    chosen = {"matchLabels": {"team": "x"}}
    assert isinstance(
        decide(pod(affinity=near(DB, namespaceSelector=chosen)), world), Unschedulable
    )
    world.put_namespace({"metadata": {"name": "data", "labels": {"team": "x"}}})
    assert decide(pod(affinity=near(DB, namespaceSelector=chosen)), world) == Chosen("a1")


def test_match_label_keys_tell_revisions_apart():
    def of(revision: str, name: str) -> PodInfo:
        wanted = apart(WEB, matchLabelKeys=["rev"])
        return pod(name, labels={**WEB, "rev": revision}, affinity=wanted)

    world = cluster(node("n1"), n1=[of("1", "old")])
    assert decide(of("2", "new"), world) == Chosen("n1")
    assert isinstance(decide(of("1", "same"), world), Unschedulable)


def test_preferences_draw_and_repel_but_do_not_decide_alone():
    world = cluster(*zones(), a2=[pod("db", labels=DB)])
    assert decide(pod(affinity=preferred("podAffinity", DB)), world) == Chosen("a2")
    assert decide(pod(affinity=preferred("podAntiAffinity", DB, ZONE)), world) == Chosen("b1")
    lone = cluster(node("n1"), n1=[pod("db", labels=DB)])
    assert decide(pod(affinity=preferred("podAntiAffinity", DB)), lone) == Chosen("n1")


def test_what_placed_pods_prefer_counts_for_those_that_come():
    seeks = pod("db", "10m", labels=DB, affinity=preferred("podAffinity", WEB))
    world = cluster(node("a"), node("b"), b=[seeks])
    assert decide(pod(labels=WEB), world) == Chosen("b")


def test_a_spread_constraint_refuses_the_fuller_domain():
    placed = [pod("one", labels=WEB)]
    world = cluster(*zones(), a1=placed)
    assert decide(pod(labels=WEB, topologySpreadConstraints=spread()), world) == Chosen("b1")
    picky = pod(
        labels=WEB,
        topologySpreadConstraints=spread(nodeAffinityPolicy="Ignore"),
        nodeSelector={ZONE: "a"},
    )
    assert why(picky, world) == (
        "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector,"
        " 2 node(s) didn't match pod topology spread constraints."
    )
    # Domains where the pod could never run do not count, unless it says so.
    honest = pod(labels=WEB, topologySpreadConstraints=spread(), nodeSelector={ZONE: "a"})
    assert decide(honest, world) == Chosen("a2")


def test_a_node_without_the_label_takes_no_pod_that_spreads_by_it():
    world = cluster(node("bare"))
    assert why(pod(labels=WEB, topologySpreadConstraints=spread()), world) == (
        "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints"
        " (missing required label)."
    )


def test_min_domains_counts_the_domains_still_to_come():
    world = cluster(*zones(), a1=[pod("1", labels=WEB)], b1=[pod("2", labels=WEB)])
    assert isinstance(
        decide(pod(labels=WEB, topologySpreadConstraints=spread(minDomains=3)), world),
        Unschedulable,
    )
    assert isinstance(
        decide(pod(labels=WEB, topologySpreadConstraints=spread(minDomains=2)), world), Chosen
    )


def test_pods_on_their_way_out_do_not_count_for_the_spread():
    leaving = pod("leaving", labels=WEB)
    leaving.deleting = True
    world = cluster(*zones(), a1=[pod("1", labels=WEB)], b1=[leaving])
    assert decide(pod(labels=WEB, topologySpreadConstraints=spread()), world) == Chosen("b1")


def test_a_soft_constraint_prefers_the_emptier_domain_and_refuses_none():
    soft = spread(whenUnsatisfiable="ScheduleAnyway")
    world = cluster(*zones(), a1=[pod("1", "10m", labels=WEB)])
    assert decide(pod(labels=WEB, topologySpreadConstraints=soft), world) == Chosen("b1")
    assert decide(
        pod(labels=WEB, topologySpreadConstraints=soft, nodeSelector={ZONE: "a"}), world
    ) == Chosen("a2")


def test_a_volume_holds_its_pod_to_the_nodes_that_reach_it():
    reach = {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": HOST, "operator": "In", "values": ["a2"]}]}
        ]
    }
    assert decide(pod(), cluster(*zones()), volumes=[reach]) == Chosen("a2")
    verdict = decide(pod(), cluster(node("n1")), volumes=[reach])
    assert "node(s) had volume node affinity conflict" in verdict.message


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(0, 14),
)
def test_a_hard_spread_is_never_exceeded(node_zones, skew, pods):
    world = cluster(*(node(f"n{n}", zone=f"z{zone}") for n, zone in enumerate(node_zones)))
    for number in range(pods):
        asked = pod(f"p{number}", labels=WEB, topologySpreadConstraints=spread(skew))
        verdict = decide(asked, world)
        assert isinstance(verdict, Chosen)
        world.place(asked, verdict.node)
        counts = Counter(dict.fromkeys(node_zones, 0))
        for info in world.nodes.values():
            counts[int(info.labels[ZONE][1:])] += len(info.pods)
        assert max(counts.values()) - min(counts.values()) <= skew


@settings(max_examples=40)
@given(st.integers(1, 5), st.lists(st.sampled_from(["web", "db", "other"]), max_size=12))
def test_pods_that_keep_apart_never_share_a_node(nodes, apps):
    world = cluster(*(node(f"n{n}") for n in range(nodes)))
    for number, app in enumerate(apps):
        affinity = apart(WEB) if app == "web" else None
        asked = pod(f"p{number}", labels={"app": app}, affinity=affinity)
        verdict = decide(asked, world)
        webs = [p for info in world.nodes.values() for p in info.pods.values() if p.labels == WEB]
        assert isinstance(verdict, Chosen) == (app != "web" or len(webs) < nodes)
        if isinstance(verdict, Chosen):
            world.place(asked, verdict.node)
    for info in world.nodes.values():
        assert sum(p.labels == WEB for p in info.pods.values()) <= 1
