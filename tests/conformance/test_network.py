"""Services and EndpointSlices as the API and its controllers keep them ([sig-network])."""

from __future__ import annotations

import pytest

from tests.conformance.world import World, pod
from underway.api.objects import name_of


def service(name: str = "web", ports: object = None, **spec: object) -> dict:
    ports = ports or [{"name": "http", "port": 80, "targetPort": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": ports, **spec},
    }


def shown(world: World, wanted: set[tuple[str, int]], name: str = "web") -> list[dict]:
    """Wait until the service's slices show exactly these addresses with these ports."""

    def exactly(slices: list[dict]):
        found = {
            (address, port["port"])
            for each in slices
            for port in each.get("ports") or ()
            for endpoint in each.get("endpoints") or ()
            for address in endpoint["addresses"]
        }
        return found == wanted and (slices or [None])

    return world.until_all("EndpointSlice", exactly, f"kubernetes.io/service-name={name}")


def serving(world: World, name: str, **ports: int) -> str:
    """A running pod of the service with these ports; its address."""
    made = pod(name, {"app": "web"}, terminationGracePeriodSeconds=0)
    made["spec"]["containers"][0]["ports"] = [
        {"name": port, "containerPort": number} for port, number in ports.items()
    ]
    world.create(made)
    found = world.until("pods", name, lambda each: (each.get("status") or {}).get("podIP"))
    return found["status"]["podIP"]


@pytest.mark.parametrize("ports", [("http",), ("first", "second")], ids=["one port", "two ports"])
def test_slices_and_endpoints_follow_the_pods(world: World, ports: tuple[str, ...]) -> None:
    named = [{"name": each, "port": 80 + i, "targetPort": each} for i, each in enumerate(ports)]
    world.create(service(ports=named, selector={"app": "web"}))
    shown(world, set())
    first = serving(world, "a", **{ports[0]: 8080})
    shown(world, {(first, 8080)})
    second = serving(world, "b", **{ports[-1]: 9090})
    slices = shown(world, {(first, 8080), (second, 9090)})
    for each in slices:
        assert each["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == (
            "endpointslice-controller.k8s.io"
        )
        for endpoint in each["endpoints"]:
            assert endpoint["targetRef"]["kind"] == "Pod"
            assert endpoint["conditions"]["ready"] is True

    def both(found: dict) -> bool:
        return {one["ip"] for each in found.get("subsets") or () for one in each["addresses"]} == {
            first,
            second,
        }

    world.until("Endpoints", "web", both)
    world.delete("pods", "a")
    shown(world, {(second, 9090)})
    world.delete("pods", "b")
    shown(world, set())
    world.delete("services", "web")
    world.until_all("EndpointSlice", lambda slices: not slices)
    world.until_all("Endpoints", lambda found: not found)


def test_endpoints_written_by_hand_are_mirrored(world: World) -> None:
    world.create(service())
    subset = {"addresses": [{"ip": "10.1.2.3"}], "ports": [{"name": "http", "port": 80}]}
    made = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web"},
        "subsets": [subset],
    }
    made = world.create(made)
    (mirror,) = shown(world, {("10.1.2.3", 80)})
    assert mirror["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == (
        "endpointslicemirroring-controller.k8s.io"
    )
    world.change(made, subsets=[{**subset, "addresses": [{"ip": "10.2.3.4"}]}])
    shown(world, {("10.2.3.4", 80)})
    world.delete("Endpoints", "web")
    world.until_all("EndpointSlice", lambda slices: not slices)


def test_the_api_servers_service_leads_to_it(world: World) -> None:
    default = World(world.cluster, "default")
    found = default.get("services", "kubernetes")
    assert {each["port"] for each in found["spec"]["ports"]} == {443}
    assert "kubernetes" in {
        name_of(each)
        for each in world.list("services", everywhere=True)
        if each["metadata"]["namespace"] == "default"
    }
    slices = default.list("EndpointSlice", "kubernetes.io/service-name=kubernetes")
    addresses = {
        one for each in slices for point in each["endpoints"] for one in point["addresses"]
    }
    assert addresses


def cluster_ip(spec: dict) -> bool:
    return spec.get("clusterIP", "").startswith("10.") and spec["clusterIPs"] == [spec["clusterIP"]]


def node_port(spec: dict) -> bool:
    return cluster_ip(spec) and 30000 <= spec["ports"][0]["nodePort"] <= 32767


def external(spec: dict) -> bool:
    return not spec.get("clusterIP") and "nodePort" not in (spec.get("ports") or [{}])[0]


TYPES = {
    "ClusterIP": ({}, cluster_ip),
    "NodePort": ({}, node_port),
    "ExternalName": ({"externalName": "foo.example.com"}, external),
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ClusterIP", "ExternalName"),
        ("NodePort", "ExternalName"),
        ("ExternalName", "ClusterIP"),
        ("ExternalName", "NodePort"),
    ],
)
def test_a_service_changes_its_type(world: World, before: str, after: str) -> None:
    fields, as_it_should = TYPES[before]
    made = world.create(service(type=before, **fields))
    assert as_it_should(made["spec"])
    fields, as_it_should = TYPES[after]
    body = {"type": after, "externalName": None, **fields}
    if after == "ExternalName":
        body.update(clusterIP=None, clusterIPs=None, ports=[{"name": "http", "port": 80, "nodePort": None}])  # fmt: skip
    changed = world.patch("services", "web", {"spec": body})
    assert changed["spec"]["type"] == after
    assert as_it_should(changed["spec"]), changed["spec"]
