"""Which addresses stand behind a Service."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.capabilities.workloads.objects import pod

from underway.capabilities.workloads.rules import endpoints as rules


def service(**spec: object) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "uid": "svc", "labels": {"team": "a"}},
        "spec": {
            "selector": {"app": "web"},
            "clusterIP": "10.96.0.7",
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}],
            **spec,
        },
    }


def web_pod(name: str, number: int = 8080, **options: object) -> dict:
    made = pod(name, **options)
    port = {"name": "web", "containerPort": number}
    made["spec"]["containers"] = [{"name": "c", "ports": [port]}]
    return made


def test_named_ports_are_resolved_and_pods_of_unlike_ports_get_slices_of_their_own():
    pods = [web_pod("a", 8080), web_pod("b", 9090), web_pod("c", 8080)]
    plan = rules.plan_slices(service(), pods, [])
    assert sorted((each["ports"][0]["port"], len(each["endpoints"])) for each in plan.create) == [
        (8080, 2),
        (9090, 1),
    ]
    assert plan.create[0]["metadata"]["labels"] == {
        "team": "a",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }


def test_conditions_tell_ready_serving_and_terminating_apart():
    ending = web_pod("a", deletionTimestamp="2026-01-01T00:00:00Z")
    assert rules.endpoint(service(), ending)["conditions"] == {
        "ready": False,
        "serving": True,
        "terminating": True,
    }
    unready = web_pod("b", ready=False)
    assert rules.endpoint(service(), unready)["conditions"]["ready"] is False
    published = service(publishNotReadyAddresses=True)
    assert rules.endpoint(published, unready)["conditions"]["ready"] is True


def test_a_service_without_pods_keeps_one_empty_slice():
    plan = rules.plan_slices(service(), [], [])
    assert [each["endpoints"] for each in plan.create] == [[]]


names = st.frozensets(st.integers(0, 400).map(lambda n: f"p{n}"), max_size=350)


@settings(deadline=None, max_examples=40)
@given(st.lists(names, min_size=1, max_size=4))
def test_slices_show_exactly_the_pods_and_a_second_look_changes_nothing(rounds):
    slices: dict[str, dict] = {}
    number = 0
    for wanted in rounds:
        pods = [web_pod(name) for name in sorted(wanted)]
        plan = rules.plan_slices(service(), pods, list(slices.values()))
        for each in plan.create:
            number += 1
            name = f"web-{number}"
            slices[name] = {**each, "metadata": {**each["metadata"], "name": name}}
        for each in plan.update:
            slices[each["metadata"]["name"]] = each
        for each in plan.delete:
            del slices[each["metadata"]["name"]]
        shown = [e["targetRef"]["name"] for each in slices.values() for e in each["endpoints"]]
        assert sorted(shown) == sorted(wanted)
        assert all(len(each["endpoints"]) <= rules.SLICE_LIMIT for each in slices.values())
        assert slices
        assert rules.plan_slices(service(), pods, list(slices.values())) == rules.SlicePlan()


def test_the_older_endpoints_object_parts_ready_from_unready():
    pods = [web_pod("a"), web_pod("b", ready=False)]
    pods[1]["status"]["podIP"] = "10.0.0.2"
    subsets = rules.legacy_endpoints(service(), pods)["subsets"]
    assert [each["ip"] for each in subsets[0]["addresses"]] == ["10.0.0.1"]
    assert [each["ip"] for each in subsets[0]["notReadyAddresses"]] == ["10.0.0.2"]
    assert subsets[0]["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
