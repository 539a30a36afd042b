"""Where pods can run, and where they run best."""

from hypothesis import given
from hypothesis import strategies as st

from underway.capabilities.scheduler import rules
from underway.capabilities.scheduler.model import NodeInfo, usage_of
from underway.capabilities.scheduler.rules import Chosen, Unschedulable


def node(name: str = "n1", cpu: str = "4", memory: str = "8Gi", pods: str = "110", **spec) -> dict:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": pods},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def pod(cpu: str = "100m", memory: str = "64Mi", **spec) -> dict:
    container = {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}
    container["ports"] = spec.pop("ports", [])
    return {"metadata": {"name": "p"}, "spec": {"containers": [container], **spec}}


def message(asked: dict, *nodes: NodeInfo) -> str:
    verdict = rules.schedule(asked, nodes)
    assert isinstance(verdict, Unschedulable)
    return verdict.message


def test_a_pod_too_large_is_told_what_is_missing():
    assert message(pod("8"), NodeInfo(node())) == "0/1 nodes are available: 1 Insufficient cpu."
    assert message(pod("8", "9Gi"), NodeInfo(node()), NodeInfo(node("n2", cpu="16"))) == (
        "0/2 nodes are available: 1 Insufficient cpu, 2 Insufficient memory."
    )


def test_reasons_that_are_not_about_resources():
    assert message(pod()) == "no nodes available to schedule pods"
    cordoned = NodeInfo(node(unschedulable=True))
    assert message(pod(), cordoned) == "0/1 nodes are available: 1 node(s) were unschedulable."
    tainted = NodeInfo(node(taints=[{"key": "gpu", "value": "a", "effect": "NoSchedule"}]))
    assert message(pod(), tainted) == (
        "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: a}."
    )
    assert message(pod(nodeSelector={"disk": "ssd"}), NodeInfo(node())) == (
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    )
    full = NodeInfo(node(pods="1"), {"u": usage_of(pod())})
    assert message(pod(), full) == "0/1 nodes are available: 1 Too many pods."
    asks = pod(ports=[{"containerPort": 80, "hostPort": 80}])
    taken = NodeInfo(node(), {"u": usage_of(asks)})
    assert message(asks, taken) == (
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    )


def test_tolerations_open_tainted_and_cordoned_nodes():
    tolerations = [{"operator": "Exists"}]
    tainted = NodeInfo(node(unschedulable=True, taints=[{"key": "a", "effect": "NoExecute"}]))
    assert rules.schedule(pod(tolerations=tolerations), [tainted]) == Chosen("n1")


def test_a_node_that_is_not_ready_takes_no_pods():
    info = NodeInfo(node())
    info.node["status"]["conditions"][0]["status"] = "Unknown"
    assert "node.kubernetes.io/not-ready" in message(pod(), info)


def test_the_emptier_node_is_chosen():
    busy = NodeInfo(node("a"), {"u": usage_of(pod("2", "4Gi"))})
    assert rules.schedule(pod(), [busy, NodeInfo(node("b"))]) == Chosen("b")


def test_preferred_affinity_decides_between_equals():
    term = {
        "matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]
    }
    preferred = [{"weight": 50, "preference": term}]
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    nodes = [NodeInfo(node("a")), NodeInfo(node("b"))]
    assert rules.schedule(pod(affinity=affinity), nodes) == Chosen("b")


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 16)), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(100, 3000), st.integers(64, 4096)), max_size=25),
)
def test_no_node_is_ever_given_more_than_it_has_and_no_pod_waits_that_would_fit(sizes, asked):
    nodes = {
        f"n{n}": NodeInfo(node(f"n{n}", str(cpu), f"{memory}Gi"))
        for n, (cpu, memory) in enumerate(sizes)
    }
    for number, (millis, mebibytes) in enumerate(asked):
        wanted = pod(f"{millis}m", f"{mebibytes}Mi")
        usage = usage_of(wanted)
        verdict = rules.schedule(wanted, list(nodes.values()))
        fits = [
            info.name
            for info in nodes.values()
            if all(
                amount + info.requested().get(name, 0) <= info.allocatable()[name]
                for name, amount in usage.requests.items()
            )
        ]
        assert isinstance(verdict, Chosen) == bool(fits)
        if isinstance(verdict, Chosen):
            assert verdict.node in fits
            info = nodes[verdict.node]
            nodes[verdict.node] = NodeInfo(info.node, {**info.pods, str(number): usage})
