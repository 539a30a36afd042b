"""Services and endpoints as a ruleset, and the way from one ruleset to another."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.capabilities.services.conftest import endpoint_slice, ruleset_of, service

from underway.capabilities.services.model import service_of
from underway.capabilities.services.rules import packets
from underway.capabilities.services.rules.catalog import Backend
from underway.capabilities.services.rules.packets import Frame, Ruleset

FRAME = Frame(
    "underway_test", "uwtest", "10.244.0.1", "10.127.0.0/16", "node",
    {Backend("10.244.0.1", 6443): Backend("127.0.0.1", 6443)},
)  # fmt: skip
PLAIN = Frame("underway_test", "uwtest", "10.244.0.1", "10.127.0.0/16", "node")


def targets(ruleset, element):
    chain = ruleset.addressed.get(element)
    return set(ruleset.targets[chain]) if chain else None


WEB = "10.127.0.10 . tcp . 80"


def test_a_port_leads_to_the_endpoints_port_of_the_same_name():
    made = ruleset_of(
        PLAIN,
        service(ports=[("http", 80, 0), ("admin", 81, 0)]),
        endpoint_slice(endpoints=["10.244.0.5"], ports=[("admin", 9000), ("http", 8080)]),
    )
    assert made.chains["svc/default/web/tcp/80"] == ("meta l4proto tcp dnat ip to 10.244.0.5:8080",)
    assert made.chains["svc/default/web/tcp/81"] == ("meta l4proto tcp dnat ip to 10.244.0.5:9000",)


def test_slices_of_one_service_add_up_and_repeat_nothing():
    made = ruleset_of(
        PLAIN,
        service(),
        endpoint_slice(endpoints=["10.244.0.5", "10.244.0.6"]),
        endpoint_slice(endpoints=["10.244.0.6", "10.244.0.7"], suffix="2"),
        endpoint_slice("other", endpoints=["10.244.0.99"]),
    )
    assert targets(made, WEB) == {"10.244.0.5", "10.244.0.6", "10.244.0.7"}
    assert "mod 3" in made.chains["svc/default/web/tcp/80"][0]


def conditions(ip, **values):
    return {"addresses": [ip], "conditions": values}


READY = conditions("10.244.0.5", ready=True)
UNREADY = conditions("10.244.0.6", ready=False, serving=False, terminating=False)
LEAVING = conditions("10.244.0.7", ready=False, serving=True, terminating=True)
DEAD = conditions("10.244.0.8", ready=False, serving=False, terminating=True)


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ([READY, UNREADY, LEAVING, DEAD], {"10.244.0.5"}),
        ([UNREADY, LEAVING, DEAD], {"10.244.0.7"}),
        ([UNREADY, DEAD], None),
        ([{"addresses": ["10.244.0.9"]}], {"10.244.0.9"}),
        ([conditions("10.244.0.9")], {"10.244.0.9"}),
        ([conditions("fd00::1", ready=True)], None),
        ([{"addresses": ["127.0.0.1"]}], None),
        ([{"addresses": ["169.254.169.254"]}], None),
        ([{"addresses": ["0.0.0.0"]}], None),
    ],
)
def test_ready_endpoints_are_led_to_and_else_those_that_still_serve(endpoints, expected):
    assert (
        targets(ruleset_of(PLAIN, service(), endpoint_slice(endpoints=endpoints)), WEB) == expected
    )


def test_a_service_may_have_endpoints_that_are_not_ready_led_to():
    made = ruleset_of(
        PLAIN, service(publishNotReadyAddresses=True), endpoint_slice(endpoints=[UNREADY])
    )
    assert targets(made, WEB) == {"10.244.0.6"}


def test_policy_local_leads_to_this_nodes_endpoints_only():
    near = {"addresses": ["10.244.0.5"], "nodeName": "node"}
    far = {"addresses": ["10.244.0.6"], "nodeName": "another"}
    pieces = endpoint_slice(endpoints=[near, far])
    inside = ruleset_of(
        PLAIN,
        service(internalTrafficPolicy="Local", type="NodePort", ports=[("http", 80, 0, 31000)]),
        pieces,
    )
    assert targets(inside, WEB) == {"10.244.0.5"}
    assert inside.targets[inside.node_ports["tcp . 31000"]] == {"10.244.0.5", "10.244.0.6"}
    outside = ruleset_of(
        PLAIN,
        service(externalTrafficPolicy="Local", type="NodePort", ports=[("http", 80, 0, 31000)]),
        endpoint_slice(endpoints=[far]),
    )
    assert targets(outside, WEB) == {"10.244.0.6"}
    assert outside.refused_node_ports == {"tcp . 31000"}


def test_headless_and_external_services_have_no_rules():
    made = ruleset_of(
        PLAIN,
        service(ip="None"),
        service("b", ip="", type="ExternalName", externalName="example.com"),
        service("c", ip="fd00::1"),
        endpoint_slice(endpoints=["10.244.0.5"]),
    )
    assert made == Ruleset()


def test_names_that_are_no_names_cannot_get_into_a_script():
    made = ruleset_of(
        PLAIN,
        service("x; flush ruleset"),
        service("a" * 300 + " }"),
        endpoint_slice("x; flush ruleset", endpoints=["10.244.0.5"]),
    )
    assert made == Ruleset()


def test_external_addresses_and_the_load_balancers_lead_to_the_endpoints():
    balanced = service(type="LoadBalancer", externalIPs=["192.0.2.7", "fd00::7", "junk"])
    balanced["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}, {"hostname": "x"}]}}
    made = ruleset_of(PLAIN, balanced, endpoint_slice(endpoints=["10.244.0.5"]))
    assert set(made.addressed) == {WEB, "192.0.2.7 . tcp . 80", "192.0.2.8 . tcp . 80"}


def test_the_api_servers_endpoint_is_led_on_to_where_it_listens():
    made = ruleset_of(
        FRAME,
        service(ports=[("https", 443, 0)]),
        endpoint_slice(endpoints=["10.244.0.1"], ports=[("https", 6443)]),
    )
    assert made.chains["svc/default/web/tcp/443"] == ("meta l4proto tcp dnat ip to 127.0.0.1:6443",)
    assert made.addressed["10.244.0.1 . tcp . 6443"] == "local/10.244.0.1/6443"


def test_two_services_that_claim_one_node_port_do_not_both_get_it():
    ports = [("http", 80, 0, 31000)]
    made = ruleset_of(
        PLAIN,
        service("a", ip="10.127.0.1", type="NodePort", ports=ports),
        service("b", ip="10.127.0.2", type="NodePort", ports=ports),
        endpoint_slice("a", endpoints=["10.244.0.5"]),
        endpoint_slice("b", endpoints=["10.244.0.6"]),
    )
    assert made.node_ports == {"tcp . 31000": "svc/default/a/tcp/80"}


def test_flows_to_endpoints_that_left_are_stale_and_others_are_not():
    def made(*endpoints):
        return ruleset_of(
            PLAIN,
            service(protocol="UDP", type="NodePort", ports=[("dns", 53, 0, 31053)]),
            endpoint_slice(endpoints=endpoints, ports=[("dns", 53)], protocol="UDP"),
        )

    stale = packets.stale_udp(made("10.244.0.5", "10.244.0.6"), made("10.244.0.6"))
    assert stale.covers(("10.127.0.10", 53), "10.244.0.5")
    assert stale.covers(("192.0.2.1", 31053), "10.244.0.5")
    assert not stale.covers(("10.127.0.10", 53), "10.244.0.6")
    assert not stale.covers(("10.127.0.99", 53), "10.244.0.5")
    assert not packets.stale_udp(made("10.244.0.5"), made("10.244.0.5", "10.244.0.6"))


def test_nothing_changed_is_an_empty_script():
    made = ruleset_of(FRAME, service(), endpoint_slice(endpoints=["10.244.0.5"]))
    assert packets.change(made, made, FRAME) == ""


def test_a_change_of_one_service_does_not_mention_another():
    other = (service("other", ip="10.127.0.11"), endpoint_slice("other", endpoints=["10.244.0.9"]))
    old = ruleset_of(FRAME, service(), endpoint_slice(endpoints=["10.244.0.5"]), *other)
    new = ruleset_of(FRAME, service(), endpoint_slice(endpoints=["10.244.0.6"]), *other)
    assert "other" not in packets.change(old, new, FRAME)


def test_services_are_read_as_the_api_writes_them():
    raw = (
        b'{"metadata":{"name":"a","namespace":"b","labels":null},"spec":{"clusterIP":"10.0.0.1",'
        b'"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":60}},'
        b'"ports":null,"selector":{"x":"y"}},"status":{"loadBalancer":{}}}'
    )
    read = service_of(raw)
    assert (read.key, read.affinity_s, read.ports) == ("b/a", 60, ())


CLUSTERS = st.lists(
    st.tuples(
        st.integers(0, 3),  # which service
        st.sampled_from(["TCP", "UDP"]),
        st.sampled_from(["None", "ClientIP"]),
        st.integers(30, 90),  # affinity time-out
        st.sets(st.integers(2, 6), max_size=4),  # endpoints
        st.booleans(),  # node port
    ),
    max_size=4,
    unique_by=lambda each: each[0],
)


def cluster(described):
    objects = []
    for number, protocol, affinity, timeout_s, endpoints, node_port in described:
        objects += [
            service(
                f"s{number}",
                ip=f"10.127.0.{number + 1}",
                protocol=protocol,
                ports=[("p", 80, 0, 31000 + number if node_port else 0)],
                sessionAffinity=affinity,
                sessionAffinityConfig={"clientIP": {"timeoutSeconds": timeout_s}},
            ),
            endpoint_slice(
                f"s{number}",
                endpoints=[f"10.244.0.{last}" for last in endpoints],
                ports=[("p", 8080)],
                protocol=protocol,
            ),
        ]
    return ruleset_of(FRAME, *objects)


KERNEL = """
import json, subprocess, sys
# A kernel of its own: each line in is a list of scripts, each line out what the table then holds.
for line in sys.stdin:
    for script in json.loads(line):
        done = subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True)
        if done.returncode:
            print(json.dumps({"error": done.stderr, "script": script}), flush=True)
            break
    else:
        told = subprocess.run(["nft", "-j", "list", "table", "ip", "underway_test"],
                              capture_output=True, text=True, check=True).stdout
        print(json.dumps({"holds": json.loads(told)["nftables"]}), flush=True)
"""


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a network namespace")
def test_a_change_leaves_the_kernel_as_if_everything_had_been_written_anew():
    argv = ["unshare", "--net", sys.executable, "-c", KERNEL]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as kernel:

        def holds(*scripts):
            kernel.stdin.write(json.dumps(scripts) + "\n")
            kernel.stdin.flush()
            told = json.loads(kernel.stdout.readline())
            assert "error" not in told, told
            return sorted(json.dumps(plain(each), sort_keys=True) for each in told["holds"])

        @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(CLUSTERS, CLUSTERS)
        def check(before, after):
            old, new = cluster(before), cluster(after)
            step = packets.change(old, new, FRAME)
            stepwise = holds(packets.whole(old, FRAME), step)
            assert stepwise == holds(packets.whole(new, FRAME))

        try:
            check()
        finally:
            kernel.stdin.close()


def plain(value):
    """Without handles, which number what was made when; elements in order."""
    if isinstance(value, dict):
        return {
            name: sorted_elements(plain(each)) if name == "elem" else plain(each)
            for name, each in value.items()
            if name != "handle"
        }
    return [plain(each) for each in value] if isinstance(value, list) else value


def sorted_elements(elements):
    return sorted(elements, key=lambda each: json.dumps(each, sort_keys=True))
