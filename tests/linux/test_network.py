"""The pods' network, with real links, namespaces and packets."""

import ipaddress
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from underway.base.errors import Conflict, ServiceUnavailable
from underway.linux import links, network, nft
from underway.linux.network import Attachment, PodNetwork

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("nft"), reason="needs nftables"),
]

SERVE_ONCE = """
import socket, sys
server = socket.create_server(("", 8080))
print("ready", flush=True)
peer, address = server.accept()
peer.sendall(address[0].encode())
peer.close()
"""
FETCH = """
import socket, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
sys.stdout.write(peer.recv(100).decode())
"""


@pytest.fixture
def net():
    made = PodNetwork(secrets.token_hex(3), unused_cidr())
    yield made
    made.remove()


def unused_cidr():
    """A range of its own for each test, also where several runs share the machine."""
    return f"10.243.{secrets.randbelow(256)}.0/24"


def inside(pod: Attachment, code: str, *args: str) -> subprocess.CompletedProcess[str]:
    argv = ["ip", "netns", "exec", pod.netns.name, sys.executable, "-c", code, *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


class Server:
    """Answers one connection in a pod with the caller's address."""

    def __init__(self, pod: Attachment) -> None:
        argv = ["ip", "netns", "exec", pod.netns.name, sys.executable, "-c", SERVE_ONCE]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def test_attach_gives_each_pod_its_own_address_in_the_range(net):
    first, second = net.attach("uid-1"), net.attach("uid-2")
    assert first.ip != second.ip
    assert {ipaddress.ip_address(pod.ip) in net.cidr for pod in (first, second)} == {True}
    assert net.gateway not in (first.ip, second.ip)
    assert first.netns.exists()


def test_attach_twice_gives_the_same_attachment(net):
    assert net.attach("uid-1") == net.attach("uid-1")
    assert list(net.attachments()) == ["uid-1"]


def test_another_process_finds_the_attachments_in_the_kernel(net):
    pod = net.attach("uid-1")
    again = PodNetwork(net.bridge.removeprefix("uw"), str(net.cidr))
    assert again.attachments() == {"uid-1": pod}
    assert again.attach("uid-1") == pod
    assert again.attach("uid-2").ip != pod.ip


def test_an_attachment_cut_short_is_made_anew(net):
    pod = net.attach("uid-1")
    link = next(entry["ifname"] for entry in links.show("link", "show", "master", net.bridge))
    subprocess.run(["ip", "link", "set", "dev", link, "alias", ""], check=True)
    assert net.attachments() == {}
    net.attach("uid-1")
    assert list(net.attachments()) == ["uid-1"]
    assert inside(net.attach("uid-1"), "print('alive')").stdout == "alive\n"
    assert pod.netns == net.attach("uid-1").netns


def test_a_namespace_file_without_a_namespace_is_replaced(net):
    pod = net.attach("uid-1")
    net.detach("uid-1")
    pod.netns.touch()
    assert net.attach("uid-1").netns == pod.netns
    assert inside(net.attach("uid-1"), "print('alive')").stdout == "alive\n"


def test_pods_reach_each_other_and_see_the_true_source(net):
    server, client = net.attach("server"), net.attach("client")
    with Server(server):
        assert inside(client, FETCH, server.ip, "8080").stdout == client.ip


def test_the_machine_reaches_a_pod(net):
    pod = net.attach("server")
    with Server(pod), socket.create_connection((pod.ip, 8080), timeout=5) as peer:
        assert peer.recv(100).decode() == net.gateway


def test_a_pod_cannot_reach_the_loopback_of_the_machine(net):
    pod = net.attach("uid-1")
    code = """
        import socket, struct, sys
        # A raw packet to 127.0.0.1 sent out of eth0, as a hostile pod would.
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        try:
            s.sendto(b"hello", ("127.0.0.1", int(sys.argv[1])))
        except OSError as error:
            print(error)
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        allow = "for d in all eth0; do echo 1 > /proc/sys/net/ipv4/conf/$d/route_localnet; done"
        subprocess.run(["ip", "netns", "exec", pod.netns.name, "sh", "-c", allow], check=True)
        subprocess.run(
            ["ip", "-n", pod.netns.name, "route", "del", "local", "127.0.0.0/8", "table", "local"],
            check=False,
        )
        inside(pod, textwrap.dedent(code), str(listener.getsockname()[1]))
        listener.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listener.recv(100)


def test_a_pod_may_bind_a_low_port_without_privilege(net):
    pod = net.attach("uid-1")
    read = "print(open('/proc/sys/net/ipv4/ip_unprivileged_port_start').read())"
    assert inside(pod, read).stdout.strip() == "0"


def test_detach_takes_link_and_namespace_away(net):
    pod = net.attach("uid-1")
    net.detach("uid-1")
    net.detach("uid-1")
    assert not pod.netns.exists()
    assert net.attachments() == {}
    assert links.show("link", "show", "master", net.bridge) == []


def test_an_address_is_not_reused_at_once(net):
    first = net.attach("uid-1")
    net.detach("uid-1")
    assert net.attach("uid-2").ip != first.ip


def test_a_full_range_is_said_and_frees_up(net):
    small = PodNetwork(net.bridge.removeprefix("uw"), f"{net.cidr[0]}/29")
    pods = [small.attach(f"uid-{number}") for number in range(5)]
    assert len({pod.ip for pod in pods}) == 5
    with pytest.raises(ServiceUnavailable, match="5 pods are attached"):
        small.attach("one-too-many")
    small.detach("uid-3")
    assert small.attach("another").ip == pods[3].ip


def test_threads_attaching_at_once_get_different_addresses(net):
    with ThreadPoolExecutor(4) as pool:
        pods = list(pool.map(net.attach, [f"uid-{number % 6}" for number in range(12)]))
    assert len({pod.ip for pod in pods}) == 6


def test_ensure_mends_a_bridge_that_somebody_removed(net):
    net.attach("uid-1")
    links.delete(net.bridge)
    pod = net.attach("uid-1")
    with Server(pod), socket.create_connection((pod.ip, 8080), timeout=5) as peer:
        assert peer.recv(100).decode() == net.gateway


def test_remove_leaves_nothing_behind_and_other_platforms_alone(net):
    other = PodNetwork(secrets.token_hex(3), unused_cidr())
    try:
        kept = other.attach("uid-1")
        pod = net.attach("uid-1")
        net.remove()
        assert not pod.netns.exists()
        assert not links.exists(net.bridge)
        assert net.table not in nft.tables()
        assert other.attachments() == {"uid-1": kept}
        assert other.table in nft.tables()
    finally:
        other.remove()
    assert not [name for name in nft.tables() if name == other.table]


def test_free_ranges_avoid_what_is_in_use(net):
    net.ensure()
    assert not ipaddress.ip_network(network.free_pod_cidr()).overlaps(net.cidr)
    taken = [f"10.{second}.0.0/16" for second in range(96, 127)]
    assert network.free_service_cidr(taken) == "10.127.0.0/16"
    with pytest.raises(ServiceUnavailable, match="overlaps"):
        network.free_service_cidr(["10.0.0.0/8"])


def test_a_range_another_link_has_is_refused(net):
    net.ensure()
    other = PodNetwork(secrets.token_hex(3), str(net.cidr))
    with pytest.raises(Conflict, match=f"link {net.bridge}"):
        other.attach("uid-1")
    assert not links.exists(other.bridge)
    other.remove()


def test_the_service_range_leads_to_the_bridge(net):
    net.ensure()
    assert net.route("10.125.0.0/16") == ""
    found = links.show("route", "get", "10.125.3.4")[0]
    assert (found["dev"], found["prefsrc"]) == (net.bridge, net.gateway)


def test_a_service_range_two_platforms_have_is_told(net):
    other = PodNetwork(secrets.token_hex(3), unused_cidr())
    try:
        net.route("10.127.0.0/16")
        assert other.route("10.127.0.0/16") == net.bridge
        assert len(links.show("-4", "route", "show", "10.127.0.0/16")) == 2
    finally:
        other.remove()


def test_losing_a_table_is_heard(net):
    net.ensure()
    loss = nft.TableLoss()
    try:
        assert loss.deleted() == set()
        nft.delete_tables([net.table])
        assert net.table in loss.deleted()
    finally:
        loss.close()


MACHINE = """
import json, subprocess, sys
from underway.linux.network import PodNetwork, egress_problem

def run(*argv):
    subprocess.run(argv, check=True)

# A machine of its own with a world behind it: `world` has one address and no way to the pods.
run("ip", "link", "set", "lo", "up")
none = egress_problem()
run("ip", "netns", "add", "uwtestworld")
run("ip", "link", "add", "up0", "mtu", "1400", "type", "veth", "peer", "name", "up1", "netns",
    "uwtestworld")
run("ip", "addr", "add", "192.0.2.1/24", "dev", "up0")
run("ip", "link", "set", "up0", "up")
run("ip", "-n", "uwtestworld", "addr", "add", "192.0.2.9/24", "dev", "up1")
run("ip", "-n", "uwtestworld", "link", "set", "up1", "up")
run("ip", "route", "add", "default", "via", "192.0.2.9")
closed = egress_problem()
with open("/proc/sys/net/ipv4/ip_forward", "w") as stream:
    stream.write("1")
net = PodNetwork("egress", "10.244.77.0/24")
pod = net.attach("uid-1")
server = subprocess.Popen(["ip", "netns", "exec", "uwtestworld", sys.executable, "-c",
                           sys.argv[1]], stdout=subprocess.PIPE)
server.stdout.readline()
seen = subprocess.run(["ip", "netns", "exec", pod.netns.name, sys.executable, "-c", sys.argv[2],
                       "192.0.2.9", "8080"], capture_output=True, text=True, timeout=20).stdout
mtu = subprocess.run(["ip", "-n", pod.netns.name, "-j", "link", "show", "eth0"],
                     capture_output=True, text=True).stdout
print(json.dumps({"none": none, "closed": closed, "open": egress_problem(), "seen": seen,
                  "mtu": json.loads(mtu)[0]["mtu"]}))
"""


def test_pods_leave_through_a_machine_that_forwards_and_the_doctor_knows_when_not():
    argv = ["unshare", "--net", "--mount", "sh", "-c", 'mount -t tmpfs run /run && exec "$@"', "sh"]
    argv += [sys.executable, "-c", MACHINE, SERVE_ONCE, FETCH]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "no default route" in told["none"]
    assert "forwarding (ip_forward) is 0" in told["closed"]
    assert told["open"] is None
    assert told["seen"] == "192.0.2.1"
    assert told["mtu"] == 1400
    assert not Path("/run/netns/uwtestworld").exists()


def test_platforms_that_start_together_get_ranges_of_their_own() -> None:
    names = [f"c{number}{os.getpid() % 10000:04}" for number in range(3)]
    with ThreadPoolExecutor() as pool:
        claims = list(pool.map(lambda name: network.claim(name, "10.244.0.0/24"), names))
    try:
        assert len({pods for pods, _ in claims}) == 3
        assert len({services for _, services in claims}) == 3
        again = network.claim(names[0], *claims[0])
        assert again == claims[0]
        network.PodNetwork(names[0], claims[0][0]).remove()
        pods, services = network.claim(names[0], claims[1][0], claims[0][1])
        assert services == claims[0][1]
        assert pods not in {claims[1][0], claims[2][0]}
        claims[0] = (pods, services)
    finally:
        for name, (pods, _) in zip(names, claims, strict=True):
            network.PodNetwork(name, pods).remove()
