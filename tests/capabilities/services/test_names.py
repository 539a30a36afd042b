"""What the names of a cluster stand for."""

import ipaddress

import pytest
from tests.capabilities.services.conftest import catalog_of, endpoint_slice, service

from underway.capabilities.services.rules.names import TTL_S, Zone
from underway.wire.dns import Question, Rcode, Soa, Srv, Type, name_from_text, name_to_text

NETWORKS = ("10.96.0.0/16", "10.244.0.0/24")


def zone_of(*objects):
    return Zone(catalog_of(*objects), "cluster.local", NETWORKS, "10.244.0.1")


ZONE = zone_of(
    service(ip="10.96.0.10", ports=[("http", 80, 8080), ("metrics", 9100, 9100)]),
    service("db", ip="None", ports=[("pg", 5432, 5432)]),
    endpoint_slice(
        "db",
        endpoints=[
            {"addresses": ["10.244.0.5"], "hostname": "db-0"},
            {"addresses": ["10.244.0.6"], "hostname": "db-1"},
            {"addresses": ["10.244.0.7"]},
            {"addresses": ["10.244.0.8"], "hostname": "db-3", "conditions": {"ready": False}},
        ],
        ports=[("pg", 5432)],
    ),
    service("empty", ip="None"),
    service("early", ip="None", publishNotReadyAddresses=True),
    endpoint_slice(
        "early", endpoints=[{"addresses": ["10.244.0.9"], "conditions": {"ready": False}}]
    ),
    service("elsewhere", ip="", type="ExternalName", externalName="db.example.com"),
)


def ask(text, kind=Type.A, zone=ZONE):
    return zone.answer(Question(name_from_text(text), kind))


def shown(records):
    found = []
    for record in records:
        assert record.ttl_s == TTL_S
        match record.data:
            case bytes() if record.type == Type.A:
                found.append(str(ipaddress.IPv4Address(record.data)))
            case Srv() as srv:
                found.append((srv.port, name_to_text(srv.target)))
            case tuple() as name:
                found.append(name_to_text(name))
            case other:
                found.append(other)
    return found


SVC = "default.svc.cluster.local"


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        (f"web.{SVC}", Type.A, ["10.96.0.10"]),
        (f"WEB.{SVC}".upper(), Type.A, ["10.96.0.10"]),
        (f"db.{SVC}", Type.A, ["10.244.0.7", "10.244.0.5", "10.244.0.6"]),
        (f"db-1.db.{SVC}", Type.A, ["10.244.0.6"]),
        (f"10-244-0-7.db.{SVC}", Type.A, ["10.244.0.7"]),
        (f"early.{SVC}", Type.A, ["10.244.0.9"]),
        (f"elsewhere.{SVC}", Type.A, ["db.example.com."]),
        (f"_http._tcp.web.{SVC}", Type.SRV, [(80, f"web.{SVC}.")]),
        (f"web.{SVC}", Type.SRV, [(80, f"web.{SVC}."), (9100, f"web.{SVC}.")]),
        (
            f"_pg._tcp.db.{SVC}",
            Type.SRV,
            [(5432, f"{label}.db.{SVC}.") for label in ("10-244-0-7", "db-0", "db-1")],
        ),
        ("10-244-0-5.default.pod.cluster.local", Type.A, ["10.244.0.5"]),
        ("10.0.96.10.in-addr.arpa", Type.PTR, [f"web.{SVC}."]),
        ("5.0.244.10.in-addr.arpa", Type.PTR, [f"db-0.db.{SVC}."]),
        ("7.0.244.10.in-addr.arpa", Type.PTR, [f"10-244-0-7.db.{SVC}."]),
        ("1.0.244.10.in-addr.arpa", Type.PTR, ["ns.dns.cluster.local."]),
        ("cluster.local", Type.NS, ["ns.dns.cluster.local."]),
        ("ns.dns.cluster.local", Type.A, ["10.244.0.1"]),
        ("dns-version.cluster.local", Type.TXT, [b"\x051.1.0"]),
    ],
)
def test_names_of_the_cluster(name, kind, expected):
    answer = ask(name, kind)
    assert answer.rcode == Rcode.NOERROR
    assert shown(answer.answers) == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"web.{SVC}", Type.AAAA),
        (f"web.{SVC}", Type.MX),
        (f"db.{SVC}", Type.AAAA),
        (f"empty.{SVC}", Type.A),
        (f"empty.{SVC}", Type.SRV),
        (f"_http._tcp.web.{SVC}", Type.A),
        (f"_tcp.web.{SVC}", Type.A),
        (SVC, Type.A),
        ("svc.cluster.local", Type.A),
        ("cluster.local", Type.A),
        ("10-244-0-5.default.pod.cluster.local", Type.AAAA),
        ("10.0.96.10.in-addr.arpa", Type.A),
    ],
)
def test_a_name_that_has_no_such_record_is_empty_and_not_missing(name, kind):
    answer = ask(name, kind)
    assert (answer.rcode, answer.answers) == (Rcode.NOERROR, ())
    assert isinstance(answer.authorities[0].data, Soa)


@pytest.mark.parametrize(
    "name",
    [
        f"nothing.{SVC}",
        "web.nowhere.svc.cluster.local",
        "nowhere.svc.cluster.local",
        f"x.web.{SVC}",
        f"db-3.db.{SVC}",
        f"db-9.db.{SVC}",
        f"_http._udp.web.{SVC}",
        f"_nothing._tcp.web.{SVC}",
        f"a._http._tcp.web.{SVC}",
        f"x.elsewhere.{SVC}",
        "web.default.cluster.local",
        "300-1-1-1.default.pod.cluster.local",
        "8-8-8-8.default.pod.cluster.local",
        "example.com.default.svc.cluster.local",
        "7.7.96.10.in-addr.arpa",
    ],
)
@pytest.mark.parametrize("kind", [Type.A, Type.AAAA, Type.SRV])
def test_a_name_that_does_not_exist_is_missing(name, kind):
    answer = ask(name, kind)
    assert (answer.rcode, answer.answers) == (Rcode.NXDOMAIN, ())
    assert isinstance(answer.authorities[0].data, Soa)


@pytest.mark.parametrize(
    "name",
    ["example.com", "local", "notcluster.local", "8.8.8.8.in-addr.arpa", "arpa", "10.in-addr.arpa"],
)
def test_other_names_are_not_answered_for(name):
    assert ask(name) is None
    assert ask(name, Type.PTR) is None


def test_the_root_is_not_answered_for():
    assert ZONE.answer(Question((), Type.NS)) is None


def test_srv_answers_bring_the_addresses_with_them():
    answer = ask(f"_pg._tcp.db.{SVC}", Type.SRV)
    assert sorted(shown(answer.additionals)) == ["10.244.0.5", "10.244.0.6", "10.244.0.7"]


def test_an_external_name_asks_for_its_target_to_be_looked_up():
    assert ask(f"elsewhere.{SVC}").alias == (b"db", b"example", b"com")
    assert ask(f"elsewhere.{SVC}", Type.CNAME).alias == ()


def test_the_question_is_answered_in_its_own_spelling():
    name = name_from_text("wEb.dEfault.svc.cluster.local")
    assert ZONE.answer(Question(name, Type.A)).answers[0].name == name


def test_labels_that_are_no_text_name_nothing():
    name = (b"\xff\xfe", b"default", b"svc", b"cluster", b"local")
    assert ZONE.answer(Question(name, Type.A)).rcode == Rcode.NXDOMAIN


def test_the_catalog_forgets_what_is_removed():
    zone_catalog = catalog_of(
        service(ip="10.96.0.10"),
        service("db", ip="None"),
        endpoint_slice("db", endpoints=["10.244.0.5"]),
    )
    zone = Zone(zone_catalog, "cluster.local", NETWORKS, "10.244.0.1")
    assert ask("5.0.244.10.in-addr.arpa", Type.PTR, zone).rcode == Rcode.NOERROR
    assert zone_catalog.remove_slice("default/db-1") == ["default/db"]
    assert ask("5.0.244.10.in-addr.arpa", Type.PTR, zone).rcode == Rcode.NXDOMAIN
    for key in ("default/web", "default/db", "default/never"):
        zone_catalog.remove_service(key)
    assert ask("10.0.96.10.in-addr.arpa", Type.PTR, zone).rcode == Rcode.NXDOMAIN
    assert ask(SVC, Type.A, zone).rcode == Rcode.NXDOMAIN
