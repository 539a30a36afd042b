"""Endpoints written by hand, shown as EndpointSlices."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from tests.cluster import cluster

from underway.api.objects import Object
from underway.api.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES
from underway.capabilities.workloads.controller import endpoints as endpoints_controller
from underway.capabilities.workloads.controller import mirroring
from underway.capabilities.workloads.rules import mirroring as rules

NS = "default"


def make(*subsets: dict, **metadata: object) -> Object:
    header = {"name": "db", "namespace": NS, "uid": "u", **metadata}
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": header,
        "subsets": list(subsets),
    }


def subset(*ips: str, port: int = 5432, unready: tuple[str, ...] = ()) -> dict:
    return {
        "addresses": [{"ip": ip} for ip in ips],
        "notReadyAddresses": [{"ip": ip} for ip in unready],
        "ports": [{"port": port}],
    }


def service(**spec: object) -> Object:
    ports = [{"port": 5432}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "db", "namespace": NS},
        "spec": {"ports": ports, **spec},
    }


def shown(slices) -> set[tuple[str, int, str, bool]]:
    return {
        (each["addressType"], each["ports"][0]["port"], address, entry["conditions"]["ready"])
        for each in slices
        for entry in each["endpoints"]
        for address in entry["addresses"]
    }


def test_families_and_ports_get_slices_of_their_own():
    found = rules.plan(make(subset("192.0.2.1", "2001:db8::1", unready=("192.0.2.2",))), [])
    assert len(found.create) == 2
    assert shown(found.create) == {
        ("IPv4", 5432, "192.0.2.1", True),
        ("IPv4", 5432, "192.0.2.2", False),
        ("IPv6", 5432, "2001:db8::1", True),
    }


def test_only_what_nobody_else_shows_is_mirrored():
    assert rules.mirrors(service(), make())
    assert not rules.mirrors(service(selector={"app": "db"}), make())
    assert not rules.mirrors(None, make())
    assert not rules.mirrors(service(), make(labels={rules.SKIP: "true"}))
    assert not rules.mirrors(service(), make(annotations={rules.LEADER: "{}"}))


addresses = st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"]), unique=True)
several = st.lists(
    st.tuples(addresses, st.integers(1, 3)), max_size=3, unique_by=lambda each: each[1]
)


@given(several, several)
def test_after_any_change_the_slices_show_it_with_nothing_left_to_do(before, after):
    slices: dict[str, Object] = {}
    for content in (before, after):
        wanted = make(*(subset(*ips, port=port) for ips, port in content))
        plan = rules.plan(wanted, list(slices.values()))
        for number, each in enumerate(plan.create):
            each["metadata"]["name"] = f"{len(slices)}-{number}-{id(content)}"
            slices[each["metadata"]["name"]] = each
        for each in plan.update:
            slices[each["metadata"]["name"]] = each
        for each in plan.delete:
            del slices[each["metadata"]["name"]]
        assert {entry[1:3] for entry in shown(slices.values())} == {
            (port, ip) for ips, port in content for ip in ips
        }
        again = rules.plan(wanted, list(slices.values()))
        assert (again.create, again.update, again.delete) == ((), (), ())


def test_a_service_without_selector_is_served_from_endpoints_written_by_hand(tmp_path):
    async def main():
        async with cluster(tmp_path, mirroring.add, endpoints_controller.add) as env:
            await env.client.create(SERVICES, service())
            written = make(subset("192.0.2.1"))
            del written["metadata"]["uid"]
            await env.client.create(ENDPOINTS, written)

            def of_db(all_):
                label = "kubernetes.io/service-name"
                return shown(
                    each
                    for each in all_.values()
                    if each["metadata"].get("labels", {}).get(label) == "db"
                )

            await env.until(
                ENDPOINTSLICES,
                lambda all_: of_db(all_) == {("IPv4", 5432, "192.0.2.1", True)},
                NS,
            )
            changed = {"subsets": [subset("192.0.2.9")]}
            await env.client.patch(ENDPOINTS, "db", changed, NS)
            await env.until(
                ENDPOINTSLICES,
                lambda all_: of_db(all_) == {("IPv4", 5432, "192.0.2.9", True)},
                NS,
            )
            await env.client.delete(ENDPOINTS, "db", NS)
            await env.until(ENDPOINTSLICES, lambda all_: not of_db(all_), NS)

    asyncio.run(main())
