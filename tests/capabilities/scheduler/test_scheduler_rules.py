"""Where pods can run, and where they run best."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.capabilities.scheduler.objects import HOST, cluster, node, pod

from underway.capabilities.scheduler.model import PodInfo
from underway.capabilities.scheduler.rules import fit
from underway.capabilities.scheduler.rules.cluster import Cluster, Ranking
from underway.capabilities.scheduler.rules.decide import Chosen, Unschedulable, compared, decide

NO_VICTIMS = "No preemption victims found for incoming pod"
NOT_HELPFUL = "Preemption is not helpful for scheduling"


def message(asked: PodInfo, *nodes: dict, **placed: list[PodInfo]) -> str:
    verdict = decide(asked, cluster(*nodes, **placed))
    assert isinstance(verdict, Unschedulable)
    return verdict.message


def refused(count: int, reasons: str, preemption: str) -> str:
    available = f"0/{count} nodes are available: "
    return f"{available}{reasons}. preemption: {available}{preemption}."


def test_a_pod_too_large_is_told_what_is_missing():
    assert message(pod(cpu="8"), node()) == refused(1, "1 Insufficient cpu", f"1 {NOT_HELPFUL}")
    assert message(
        pod(cpu="8", memory="7Gi"), node(), node("n2", cpu="16"), n2=[pod("other", memory="4Gi")]
    ) == refused(2, "1 Insufficient cpu, 1 Insufficient memory", f"1 {NO_VICTIMS}, 1 {NOT_HELPFUL}")


def test_reasons_that_are_not_about_resources():
    assert message(pod()) == "no nodes available to schedule pods"
    helpless = f"1 {NOT_HELPFUL}"
    assert message(pod(), node(unschedulable=True)) == refused(
        1, "1 node(s) were unschedulable", helpless
    )
    tainted = node(taints=[{"key": "gpu", "value": "a", "effect": "NoSchedule"}])
    assert message(pod(), tainted) == refused(
        1, "1 node(s) had untolerated taint {gpu: a}", helpless
    )
    assert message(pod(nodeSelector={"disk": "ssd"}), node()) == refused(
        1, "1 node(s) didn't match Pod's node affinity/selector", helpless
    )
    assert message(pod(), node(pods="1"), n1=[pod("other")]) == refused(
        1, "1 Too many pods", f"1 {NO_VICTIMS}"
    )
    ports = [{"containerPort": 80, "hostPort": 80}]
    assert message(pod(ports=ports), node(), n1=[pod("other", ports=ports)]) == refused(
        1, "1 node(s) didn't have free ports for the requested pod ports", f"1 {NO_VICTIMS}"
    )


def test_host_ports_meet_on_any_address_and_part_on_different_ones():
    def at(address: str) -> list[dict]:
        return [{"containerPort": 80, "hostPort": 80, "hostIP": address}]

    taken = {"n1": [pod("other", ports=at("10.0.0.1"))]}
    assert decide(pod(ports=at("10.0.0.2")), cluster(node(), **taken)) == Chosen("n1")
    assert isinstance(
        decide(pod(ports=at("0.0.0.0")), cluster(node(), **taken)), Unschedulable
    )  # any address


def test_tolerations_open_tainted_and_cordoned_nodes():
    tainted = node(unschedulable=True, taints=[{"key": "a", "effect": "NoExecute"}])
    assert decide(pod(tolerations=[{"operator": "Exists"}]), cluster(tainted)) == Chosen("n1")


def test_a_node_that_is_not_ready_takes_no_pods():
    assert "node.kubernetes.io/not-ready" in message(pod(), node(ready=False))


def test_the_emptier_node_is_chosen():
    world = cluster(node("a"), node("b"), a=[pod("other", "2", "4Gi")])
    assert decide(pod(), world) == Chosen("b")


def test_preferred_affinity_decides_between_equals():
    term = {"matchExpressions": [{"key": HOST, "operator": "In", "values": ["b"]}]}
    preferred = [{"weight": 50, "preference": term}]
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    assert decide(pod(affinity=affinity), cluster(node("a"), node("b"))) == Chosen("b")


def test_soft_taints_are_avoided_where_possible():
    soft = node("a", taints=[{"key": "old", "effect": "PreferNoSchedule"}])
    assert decide(pod(), cluster(soft, node("b"))) == Chosen("b")
    assert decide(pod(), cluster(soft)) == Chosen("a")


def test_a_node_that_has_the_image_is_preferred_when_others_of_its_kind_have_it_too():
    having = [node(name, images=[("docker.io/library/web", 900 << 20)]) for name in ("c", "d")]
    assert decide(pod(), cluster(node("a"), node("b"), *having)) == Chosen("c")


def test_a_small_part_of_a_large_cluster_is_enough_to_compare():
    assert [compared(nodes) for nodes in (1, 100, 1000, 5000, 10_000)] == [1, 100, 420, 500, 500]


def test_a_pod_that_fits_nowhere_else_waits_for_the_node_cleared_for_it():
    world = cluster(node(cpu="1"))
    important = pod("important", "800m", priority=10)
    world.nominate(important, "n1")
    assert isinstance(decide(pod("small", "500m"), world), Unschedulable)
    assert decide(pod("tiny", "100m"), world) == Chosen("n1")
    assert decide(pod("urgent", "500m", priority=11), world) == Chosen("n1")
    assert decide(important, world) == Chosen("n1")


amounts = st.tuples(st.integers(100, 3000), st.integers(64, 4096))


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 16)), min_size=1, max_size=4),
    st.lists(amounts, max_size=25),
)
def test_no_node_is_ever_given_more_than_it_has_and_no_pod_waits_that_would_fit(sizes, asked):
    world = cluster(*(node(f"n{n}", str(cpu), f"{gib}Gi") for n, (cpu, gib) in enumerate(sizes)))
    for number, (millis, mebibytes) in enumerate(asked):
        wanted = pod(f"p{number}", f"{millis}m", f"{mebibytes}Mi")
        fits = [
            info.name
            for info in world.nodes.values()
            if all(
                amount + info.requested.get(name, 0) <= info.allocatable[name]
                for name, amount in wanted.shape.requests.items()
            )
        ]
        verdict = decide(wanted, world)
        assert isinstance(verdict, Chosen) == bool(fits)
        if isinstance(verdict, Chosen):
            assert verdict.node in fits
            world.place(wanted, verdict.node)


class Change:
    """Random changes of a cluster."""

    def __init__(self) -> None:
        self.world = Cluster()
        self.shapes = [pod("a"), pod("b", "1"), pod("c", "2", nodeSelector={HOST: "n1"})]

    def apply(self, what: int, which: int, size: int) -> None:
        name = f"n{which}"
        if what == 0:
            self.world.put_node(node(name, str(size), ready=size > 1))
        elif what == 1:
            self.world.drop_node(name)
        elif what == 2:
            self.world.place(pod(f"p{which}-{size}", f"{size}00m"), name)
        elif what == 3:
            self.world.remove(f"uid-default-p{which}-{size}")
        elif what == 4:
            self.world.nominate(pod(f"x{size}", "1", priority=size - 2), name)
        else:
            self.world.withdraw(f"uid-default-x{size}")


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 4), st.booleans()),
        max_size=40,
    )
)
def test_what_is_kept_up_step_by_step_equals_what_is_worked_out_afresh(changes):
    change = Change()
    for what, which, size, ask in changes:
        change.apply(what, which, size)
        if not ask:
            continue
        for asked in change.shapes:
            kept = change.world.ranking(asked.shape)
            fresh = Ranking(asked.shape)
            fresh.refresh(change.world)
            assert kept.fitting == fresh.fitting
            assert kept.refused == fresh.refused
            assert kept.reasons == fresh.reasons
            best = sorted(fresh.fitting.items(), key=lambda each: (-each[1], each[0]))
            assert kept.top(3) == fresh.top(3) == best[:3]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.booleans()), max_size=30))
def test_what_a_node_holds_is_the_sum_of_its_pods(moves):
    world = cluster(node("n0"), node("n1"), node("n2"), node("n3"))
    for which, size, come in moves:
        each = pod(f"p{size}", f"{size}00m", ports=[{"containerPort": 1, "hostPort": size}])
        if come:
            world.place(each, f"n{which}")
        else:
            world.remove(each.uid)
    for info in world.nodes.values():
        assert info.requested.get("cpu", 0) == sum(p.shape.cpu for p in info.pods.values())
        assert set(info.ports) == {port for p in info.pods.values() for port in p.shape.ports}
        if not info.pods:
            assert fit.refusal(pod().shape, info) is None
