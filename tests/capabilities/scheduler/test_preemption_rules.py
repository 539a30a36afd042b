"""Who makes way for whom."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.capabilities.scheduler.objects import HOST, cluster, node, pod

from underway.api.selectors import from_labels
from underway.capabilities.scheduler.model import PodInfo
from underway.capabilities.scheduler.rules.cluster import Cluster
from underway.capabilities.scheduler.rules.decide import Chosen, Unschedulable, decide
from underway.capabilities.scheduler.rules.preemption import Budget

HIGH = 1000


def plan(asked: PodInfo, world: Cluster, *budgets: Budget) -> tuple[str, list[str]] | str:
    verdict = decide(asked, world, budgets)
    assert isinstance(verdict, Unschedulable)
    if verdict.preemption is None:
        return verdict.message.partition("preemption: ")[2]
    return verdict.preemption.node, [victim.name for victim in verdict.preemption.victims]


def urgent(cpu: str = "1", **spec: object) -> PodInfo:
    return pod("urgent", cpu, priority=HIGH, **spec)


def test_only_as_many_as_needed_go_and_the_least_important_first():
    lower = [pod("a", "1", priority=1), pod("b", "1", priority=2), pod("c", "1", priority=3)]
    world = cluster(node(cpu="3"), n1=lower)
    assert plan(urgent("1"), world) == ("n1", ["a"])
    assert plan(urgent("2"), world) == ("n1", ["a", "b"])


def test_the_node_where_the_least_important_pods_go_is_chosen():
    world = cluster(
        node("n1", "1"),
        node("n2", "1"),
        node("n3", "1"),
        n1=[pod("a", "1", priority=5)],
        n2=[pod("b", "500m", priority=2), pod("c", "500m", priority=2)],
        n3=[pod("d", "1", priority=2)],
    )
    assert plan(urgent(), world) == ("n3", ["d"])


def test_of_equal_victims_the_one_that_began_last_goes():
    world = cluster(
        node("n1", "1"),
        node("n2", "1"),
        n1=[pod("old", "1", created="2026-01-01T00:00:00Z")],
        n2=[pod("new", "1", created="2026-01-02T00:00:00Z")],
    )
    assert plan(urgent(), world) == ("n2", ["new"])


def test_pods_a_budget_protects_go_last_and_their_nodes_are_avoided():
    budget = Budget("default", from_labels({"app": "db"}), 0)
    db = pod("db", "1", labels={"app": "db"})
    world = cluster(node("n1", "2"), n1=[db, pod("web", "1", priority=5)])
    assert plan(urgent(), world, budget) == ("n1", ["web"])
    world = cluster(node("n1", "1"), node("n2", "1"), n1=[db], n2=[pod("x", "1", priority=9)])
    assert plan(urgent(), world, budget) == ("n2", ["x"])
    # Budgets are kept where possible; importance goes first where it is not.
    assert plan(urgent(), cluster(node("n1", "1"), n1=[db]), budget) == ("n1", ["db"])


def test_equals_do_not_push_each_other_out():
    world = cluster(node(cpu="1"), n1=[pod("peer", "1", priority=HIGH)])
    assert plan(urgent(), world) == (
        "0/1 nodes are available: 1 No preemption victims found for incoming pod."
    )


def test_a_pod_whose_class_never_preempts_waits():
    world = cluster(node(cpu="1"), n1=[pod("small", "1")])
    assert plan(urgent(preemptionPolicy="Never"), world) == (
        "not eligible due to preemptionPolicy=Never."
    )


def test_nobody_goes_where_that_would_not_help():
    world = cluster(node(cpu="1"), n1=[pod("small", "1")])
    helpless = "0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    assert plan(urgent(nodeSelector={HOST: "other"}), world) == helpless
    assert plan(urgent("5"), world) == helpless


def test_while_victims_are_leaving_nobody_else_has_to():
    leaving = pod("leaving", "1")
    leaving.deleting = True
    world = cluster(node("n1", "1"), node("n2", "1"), n1=[leaving], n2=[pod("stays", "1")])
    asked = urgent()
    world.nominate(asked, "n1")
    assert plan(asked, world) == ("not eligible due to a terminating pod on the nominated node.")


def test_a_pod_that_keeps_others_away_makes_way():
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    term = {"labelSelector": {"matchLabels": {"app": "urgent"}}, "topologyKey": HOST}
    affinity = {"podAntiAffinity": {required: [term]}}
    world = cluster(node(), n1=[pod("guard", affinity=affinity), pod("other")])
    assert plan(urgent("100m", labels={"app": "urgent"}), world) == ("n1", ["guard"])


@settings(max_examples=80)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 6)), max_size=12),
    st.integers(1, 4),
    st.integers(0, 6),
)
def test_victims_are_less_important_and_none_goes_in_vain(sizes, placed, cpu, priority):
    world = cluster(*(node(f"n{n}", str(size)) for n, size in enumerate(sizes)))
    for number, (which, size, importance) in enumerate(placed):
        info = world.nodes.get(f"n{which}")
        each = pod(f"p{number}", str(size), priority=importance)
        if info and info.requested.get("cpu", 0) + each.shape.cpu <= info.allocatable["cpu"]:
            world.place(each, info.name)
    asked = pod("asked", str(cpu), priority=priority)
    verdict = decide(asked, world)
    could = any(
        sum(p.shape.cpu for p in info.pods.values() if p.priority >= priority) + asked.shape.cpu
        <= info.allocatable["cpu"]
        for info in world.nodes.values()
    )
    if isinstance(verdict, Chosen):
        return
    assert (verdict.preemption is not None) == could
    if verdict.preemption is None:
        return
    victims = verdict.preemption.victims
    assert victims
    assert all(victim.priority < priority for victim in victims)
    for victim in victims:
        world.remove(victim.uid)
    world.nominate(asked, verdict.preemption.node)
    assert decide(asked, world) == Chosen(verdict.preemption.node)
    for victim in victims:
        world.place(victim, verdict.preemption.node)
        assert isinstance(decide(asked, world), Unschedulable)
        world.remove(victim.uid)
        world.nominate(asked, verdict.preemption.node)
