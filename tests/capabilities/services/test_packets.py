"""Services in the kernel: real rules, namespaces and packets."""

import os
import socket
import subprocess
import sys
import threading

import pytest
from tests.capabilities.services.conftest import (
    SERVE_UDP,
    endpoint_slice,
    platform_of,
    service,
)

from underway.linux import links, nft

pytestmark = [pytest.mark.privileged]


def names(answers):
    return {answer.split()[0] for answer in answers}


def test_a_cluster_ip_leads_from_pods_and_from_the_machine_to_every_endpoint(platform):
    servers = [platform.pod(f"server-{number}") for number in range(3)]
    for number, pod in enumerate(servers):
        platform.serve(pod, f"s{number}")
    client = platform.pod("client")
    platform.apply(service(), endpoint_slice(endpoints=[pod.ip for pod in servers]))
    answers = platform.fetch(client, "10.127.0.10", 80, 40)
    assert names(answers) == {"s0", "s1", "s2"}
    assert {answer.split()[1] for answer in answers} == {client.ip}  # the source is kept
    assert names(platform.fetch(None, "10.127.0.10", 80, 40)) == {"s0", "s1", "s2"}


def test_a_pod_reaches_itself_through_its_service(platform):
    pod = platform.pod("server")
    platform.serve(pod, "me")
    platform.apply(service(), endpoint_slice(endpoints=[pod.ip]))
    assert platform.fetch(pod, "10.127.0.10", 80) == f"me {platform.net.gateway}"


def test_a_node_port_answers_on_every_address_of_the_machine(platform):
    pod, client = platform.pod("server"), platform.pod("client")
    platform.serve(pod, "s")
    platform.apply(
        service(type="NodePort", ports=[("http", 80, 8080, 31234)]),
        endpoint_slice(endpoints=[pod.ip]),
    )
    assert platform.fetch(None, "127.0.0.1", 31234) == f"s {platform.net.gateway}"
    assert platform.fetch(None, platform.net.gateway, 31234).startswith("s ")
    assert platform.fetch(client, platform.net.gateway, 31234) == f"s {client.ip}"
    assert platform.fetch(pod, platform.net.gateway, 31234).startswith("s ")
    device = links.default_device()
    if device:
        (link,) = links.show("-4", "address", "show", "dev", device)
        own = link["addr_info"][0]["local"]
        assert platform.fetch(None, own, 31234).startswith("s ")
        assert platform.fetch(client, own, 31234) == f"s {client.ip}"


def test_a_service_without_endpoints_refuses_at_once(platform):
    client = platform.pod("client")
    platform.apply(
        service(type="NodePort", ports=[("http", 80, 8080, 31234)], externalIPs=["192.0.2.200"])
    )
    for pod in (client, None):
        assert platform.fetch(pod, "10.127.0.10", 80) == "ConnectionRefusedError"
        assert platform.fetch(pod, platform.net.gateway, 31234) == "ConnectionRefusedError"
        if links.default_device():
            assert platform.fetch(pod, "192.0.2.200", 80) == "ConnectionRefusedError"
    assert platform.fetch(None, "127.0.0.1", 31234) == "ConnectionRefusedError"
    # Nor does an address or a port that no Service has hang.
    assert platform.fetch(client, "10.127.0.10", 81) == "ConnectionRefusedError"
    assert platform.fetch(client, "10.127.77.77", 80) == "ConnectionRefusedError"
    assert platform.fetch(None, "10.127.77.77", 80) == "ConnectionRefusedError"


def test_changes_of_endpoints_take_effect_without_touching_other_services(platform):
    first, second, client = (platform.pod(uid) for uid in ("first", "second", "client"))
    platform.serve(first, "first")
    platform.serve(second, "second")
    other = (service("other", ip="10.127.0.11"), endpoint_slice("other", endpoints=[second.ip]))
    platform.apply(service(), endpoint_slice(endpoints=[first.ip]), *other)
    assert platform.fetch(client, "10.127.0.10", 80).startswith("first ")
    platform.apply(service(), endpoint_slice(endpoints=[second.ip]), *other)
    assert names(platform.fetch(client, "10.127.0.10", 80, 5)) == {"second"}
    platform.apply(service(), *other)
    assert platform.fetch(client, "10.127.0.10", 80) == "ConnectionRefusedError"
    platform.apply(service(ip="10.127.0.12"), endpoint_slice(endpoints=[first.ip]), *other)
    assert platform.fetch(client, "10.127.0.12", 80).startswith("first ")
    assert platform.fetch(client, "10.127.0.10", 80) == "ConnectionRefusedError"
    assert platform.fetch(client, "10.127.0.11", 80).startswith("second ")


def test_client_ip_affinity_keeps_a_client_with_its_endpoint(platform):
    servers = [platform.pod(f"server-{number}") for number in range(3)]
    for number, pod in enumerate(servers):
        platform.serve(pod, f"s{number}")
    client = platform.pod("client")
    sticky = service(sessionAffinity="ClientIP")
    platform.apply(sticky, endpoint_slice(endpoints=[pod.ip for pod in servers]))
    (chosen,) = names(platform.fetch(client, "10.127.0.10", 80, 12))
    # Another endpoint going away changes nothing for this client; its own going away does.
    others = [pod.ip for number, pod in enumerate(servers) if f"s{number}" != chosen]
    own = servers[int(chosen[1])].ip
    platform.apply(sticky, endpoint_slice(endpoints=[own, others[0]]))
    assert names(platform.fetch(client, "10.127.0.10", 80, 12)) == {chosen}
    platform.apply(sticky, endpoint_slice(endpoints=others))
    (moved,) = names(platform.fetch(client, "10.127.0.10", 80, 12))
    assert moved != chosen


UDP_CLIENT = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(5)
client.connect((sys.argv[1], int(sys.argv[2])))
for line in sys.stdin:
    try:
        client.send(b"x")
        print(client.recv(100).decode(), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


def test_udp_flows_follow_their_service_to_new_endpoints(platform):
    first, second, client = (platform.pod(uid) for uid in ("first", "second", "client"))
    platform.serve(first, "first", 5353, SERVE_UDP)
    platform.serve(second, "second", 5353, SERVE_UDP)

    def leading_to(pod):
        platform.apply(
            service(protocol="UDP", ports=[("dns", 53, 5353)]),
            endpoint_slice(endpoints=[pod.ip], ports=[("dns", 5353)], protocol="UDP"),
        )

    leading_to(first)
    argv = ["ip", "netns", "exec", client.netns.name, sys.executable, "-c", UDP_CLIENT]
    with subprocess.Popen(
        [*argv, "10.127.0.10", "53"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask():
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline().split()

        assert ask() == ["first", client.ip]
        leading_to(second)
        assert ask() == ["second", client.ip]  # the same socket, the same ports
        process.stdin.close()


def test_pods_and_the_machine_reach_a_server_on_the_loopback_of_the_machine(platform):
    client = platform.pod("client")
    port = 6443
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        platform_of("10.126.0.0/16", api_port=port) as other,
        socket.create_server(("127.0.0.1", port)) as listener,
    ):
        pod = other.pod("client")
        other.apply(
            service("kubernetes", ip="10.126.0.1", ports=[("https", 443, port)]),
            endpoint_slice("kubernetes", endpoints=[other.net.gateway], ports=[("https", port)]),
        )

        def answer():
            for _ in range(4):
                peer, address = listener.accept()
                peer.sendall(f"api {address[0]}".encode())
                peer.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert other.fetch(pod, "10.126.0.1", 443) == f"api {pod.ip}"
        assert other.fetch(pod, other.net.gateway, port) == f"api {pod.ip}"
        assert other.fetch(None, "10.126.0.1", 443).startswith("api ")
        assert other.fetch(None, "127.0.0.1", port) == "api 127.0.0.1"
        thread.join(10)
        # The other platform's pods have no way there.
        assert platform.fetch(client, "127.0.0.1", port) == "ConnectionRefusedError"


def test_two_platforms_side_by_side_each_lead_to_their_own(platform):
    with platform_of("10.126.0.0/16") as other:
        for each, name, ip in ((platform, "one", "10.127.0.10"), (other, "two", "10.126.0.10")):
            pod = each.pod("server")
            each.serve(pod, name)
            each.apply(service(ip=ip), endpoint_slice(endpoints=[pod.ip]))
        assert platform.fetch(platform.pod("client"), "10.127.0.10", 80).startswith("one ")
        assert other.fetch(other.pod("client"), "10.126.0.10", 80).startswith("two ")
        assert platform.fetch(None, "10.126.0.10", 80).startswith("two ")
    assert platform.fetch(None, "10.127.0.10", 80).startswith("one ")
    assert other.frame.table not in nft.tables()


def test_rules_lost_to_a_flush_are_written_again(platform):
    pod, client = platform.pod("server"), platform.pod("client")
    platform.serve(pod, "s")
    objects = (service(), endpoint_slice(endpoints=[pod.ip]))
    platform.apply(*objects)
    assert platform.rules.restore() is False
    nft.delete_tables([platform.frame.table, platform.net.table])
    assert platform.rules.restore() is True
    platform.apply(*objects)
    assert platform.fetch(client, "10.127.0.10", 80).startswith("s ")
    assert platform.net.table in nft.tables()


def test_all_this_holds_where_bridges_keep_their_frames_from_netfilter():
    if os.environ.get("UNDERWAY_TEST_WITHIN"):
        pytest.skip("this is the run inside")
    script = """
        set -e
        mount -t tmpfs run /run
        ip link set lo up
        switch=/proc/sys/net/bridge/bridge-nf-call-iptables
        if [ -e $switch ]; then echo 0 > $switch; fi
        exec "$@"
    """
    argv = ["unshare", "--net", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "pytest"]
    argv += ["-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "UNDERWAY_TEST_WITHIN": "1"}
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_change_over_rules_somebody_broke_writes_them_whole(platform):
    pod = platform.pod("server")
    platform.serve(pod, "s")
    platform.apply(service(), endpoint_slice(endpoints=["10.0.0.1", "10.0.0.2"]))
    nft.apply(f"flush map ip {platform.frame.table} addressed\n")
    platform.apply(service(ip="10.127.0.11"), endpoint_slice(endpoints=[pod.ip]))
    assert platform.fetch(None, "10.127.0.11", 80).startswith("s ")
