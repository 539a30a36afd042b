"""Grafeas: REST by hand, gRPC by its own client, who may, filters and paging."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.base.clock import SystemClock
from underway.base.errors import AlreadyExists, BadRequest, Conflict, NotFound, ServiceUnavailable
from underway.base.home import Home, Settings
from underway.capabilities.provenance.backend.grafeas import GrafeasStore
from underway.capabilities.provenance.routes import grpc
from underway.capabilities.provenance.routes.access import Access
from underway.capabilities.provenance.routes.grafeas import GrafeasApi
from underway.capabilities.provenance.rules import filters, notes
from underway.client import kubeconfig
from underway.dist import assembly
from underway.testing import Cluster
from underway.transport import front
from underway.wire.http import Peer, Request

BUILD = {"build": {"builderVersion": "1"}}
CVE = {"vulnerability": {"severity": "HIGH"}}


def about(image: str, note: str = "cve", **said: object) -> dict:
    return {"resourceUri": image, "noteName": f"projects/p/notes/{note}",
            "vulnerability": {"severity": "HIGH", **said}}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GrafeasStore]:
    made = GrafeasStore(tmp_path / "grafeas.db")
    yield made
    made.close()


def test_every_kind_of_note_is_kept(store: GrafeasStore) -> None:
    for kind, member in notes.KINDS.items():
        store.create_notes("p", {kind.lower(): {member: {}}})
        assert store.get_note("p", kind.lower())["kind"] == kind
    assert len(notes.KINDS) == 13
    assert len(store.list("notes", "p", page_size=1000)[0]) == 13


@pytest.mark.parametrize("value", [
    {}, {"build": {}, "image": {}}, {"build": {}, "kind": "IMAGE"}, {"build": {}, "colour": "red"},
    {"build": []}, [],
])  # fmt: skip
def test_malformed_notes_are_refused(store: GrafeasStore, value: object) -> None:
    with pytest.raises(BadRequest):
        store.create_notes("p", {"n": value})


def test_a_batch_is_created_whole_or_not_at_all(store: GrafeasStore) -> None:
    store.create_notes("p", {"b": BUILD})
    with pytest.raises(AlreadyExists):
        store.create_notes("p", {"a": BUILD, "b": BUILD})
    with pytest.raises(NotFound):
        store.get_note("p", "a")


def test_an_occurrence_needs_its_note_of_the_same_kind(store: GrafeasStore) -> None:
    with pytest.raises(NotFound):
        store.create_occurrences("p", [about("https://a")])
    store.create_notes("p", {"cve": BUILD})
    with pytest.raises(BadRequest, match="of kind BUILD"):
        store.create_occurrences("p", [about("https://a")])


def test_pages_hold_together_under_a_filter_and_deletions(store: GrafeasStore) -> None:
    store.create_notes("p", {"cve": CVE})
    made = store.create_occurrences("p", [about(f"https://{i % 2}") for i in range(50)])
    text = 'kind = "VULNERABILITY" AND resourceUrl = "https://1"'
    first, token = store.list("occurrences", "p", text, 10)
    store.delete_occurrence("p", first[-1]["name"].rpartition("/")[2])
    rest, last = store.list("occurrences", "p", text, 1000, token)
    assert [each["name"] for each in first + rest] == [each["name"] for each in made[1::2]]
    assert not last
    with pytest.raises(BadRequest):
        store.list("occurrences", "p", page_token="b3Vycw==")
    assert len(store.list("occurrences", "p")[0]) == 20


def test_a_mask_changes_only_what_it_names(store: GrafeasStore) -> None:
    store.create_notes("p", {"cve": {**CVE, "shortDescription": "a", "longDescription": "b"}})
    new = {"shortDescription": "c", "vulnerability": {"severity": "LOW", "cvssScore": 3}}
    changed = store.update_note("p", "cve", new, ["vulnerability.cvss_score", "long_description"])
    assert changed["shortDescription"] == "a"
    assert "longDescription" not in changed
    assert changed["vulnerability"] == {"severity": "HIGH", "cvssScore": 3}
    with pytest.raises(BadRequest, match="cannot be changed"):
        store.update_note("p", "cve", new, ["name"])


def test_a_note_with_occurrences_stays(store: GrafeasStore) -> None:
    store.create_notes("p", {"cve": CVE})
    store.create_occurrences("q", [about("https://a")])
    with pytest.raises(Conflict):
        store.delete_note("p", "cve")


def test_a_broken_file_is_told_as_unavailable(tmp_path: Path) -> None:
    (tmp_path / "grafeas.db").write_bytes(b"no database" * 100)
    with pytest.raises(ServiceUnavailable):
        GrafeasStore(tmp_path / "grafeas.db")


def test_the_summary_counts_by_severity(store: GrafeasStore) -> None:
    store.create_notes("p", {"cve": CVE})
    issue = {"packageIssue": [{"fixAvailable": True}]}
    store.create_occurrences("p", [about("https://a"), about("https://a", **issue)])
    assert notes.vulnerability_summary(store.each("occurrences", "p"))["counts"] == [
        {"resourceUri": "https://a", "severity": "HIGH", "fixableCount": "1", "totalCount": "2"}
    ]


OBJECT = {"kind": "VULNERABILITY", "resourceUri": "https://a/b@sha256:1",
          "vulnerability": {"severity": "HIGH", "cvssScore": 7.5, "fixAvailable": True,
                            "packageIssue": [{"affectedPackage": "zlib"}]}}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [
    ("", True),
    ('kind="VULNERABILITY"', True),
    ('kind == "BUILD" || vulnerability.severity >= "MEDIUM"', True),
    ('vulnerability.severity > HIGH', False),
    ('NOT kind="BUILD" AND resource_uri = \'https://a/b@sha256:1\'', True),
    ('!(kind == "VULNERABILITY")', False),
    ('vulnerability.cvss_score > 7', True),
    ('vulnerability.fix_available = true', True),
    ('vulnerability.package_issue.affected_package = "zlib"', True),
    ('resourceUri : "a/b"', True),
    ('build : *', False),
    ('kind = "BUILD" AND kind = "BUILD" OR kind = "VULNERABILITY"', True),
])  # fmt: skip
def test_filters(text: str, expected: bool) -> None:
    assert filters.parse(text).matches(OBJECT) is expected


@pytest.mark.parametrize("text", ["kind", "kind =", '"a" = b', "(kind=a", "kind=a)", "a ~ b",
                                  "(" * 40 + "a=b" + ")" * 40, "NOT " * 60 + "a=b", "a=b " * 2000,
                                  "kind=a kind=b"])  # fmt: skip
def test_malformed_filters_are_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        filters.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    with contextlib.suppress(BadRequest):
        filters.parse(text).matches(OBJECT)


@given(st.lists(st.tuples(st.sampled_from(["kind", "resourceUri"]), st.sampled_from("ab"),
                          st.sampled_from(["AND", "OR"])), min_size=1, max_size=4))  # fmt: skip
def test_looking_up_by_index_finds_the_same(terms: list[tuple[str, str, str]]) -> None:
    text = "".join(f' {joint} {field} = "{value}"' for field, value, joint in terms)
    chosen = filters.parse(text.removeprefix(" AND ").removeprefix(" OR "))
    for kind in "ab":
        for uri in "ab":
            obj = {"kind": kind, "resourceUri": uri}
            if chosen.matches(obj):
                assert all(obj[field] == value for field, value in chosen.equal.items())


async def call(api: GrafeasApi, method: str, path: str, body: object = None, **more: str) -> tuple:
    peer = Peer("", "admin", ("system:masters",)) if "token" not in more else Peer()
    headers = {"authorization": f"Bearer {more['token']}"} if more.get("token") else {}
    path, _, query = path.partition("?")
    data = json.dumps(body).encode() if body is not None else b""
    response = await api.handle(Request(method, path, query, headers, data, peer))
    return response.status, response.json()


def test_rest_is_open_to_those_whom_rbac_lets() -> None:
    with Cluster(nodes=0, capabilities=()) as cluster:
        home = cluster.home
        cluster.client.apply("""
{apiVersion: v1, kind: ServiceAccount, metadata: {name: scanner}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: noter},
 rules: [{apiGroups: [grafeas.underway.dev], resources: [notes], verbs: [create, get, list]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: noter},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: noter},
 subjects: [{kind: ServiceAccount, name: scanner, namespace: default}]}
""")  # fmt: skip

        async def scenario() -> None:
            client = kubeconfig.load(cluster.kubeconfig)
            asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
            path = "/api/v1/namespaces/default/serviceaccounts/scanner/token"
            token = json.loads(await (await client.request("POST", path, body=asked)).read())
            token = token["status"]["token"]
            api = GrafeasApi(home, Access(lambda: client, SystemClock()))
            assert (await call(api, "GET", "/v1/projects/p/notes", token=""))[0] == 401
            assert (await call(api, "GET", "/v1/projects/p/notes", token="x.y.z"))[0] == 401
            status, found = await call(
                api, "POST", "/v1/projects/p/notes?noteId=b", BUILD, token=token
            )
            assert (status, found["name"]) == (200, "projects/p/notes/b")
            status, found = await call(api, "DELETE", "/v1/projects/p/notes/b", token=token)
            assert status == 403
            assert "may not delete notes.grafeas.underway.dev" in found["message"]
            status, found = await call(api, "POST", "/v1/projects/p/notes?noteId=b", BUILD)
            assert (status, found["code"]) == (409, 6)
            assert (await call(api, "GET", "/v1/projects/p/notes/none"))[1]["code"] == 5
            batch = {"notes": {"cve": CVE}}
            assert (await call(api, "POST", "/v1/projects/p/notes:batchCreate", batch))[0] == 200
            many = {"occurrences": [about("https://a"), about("https://b")]}
            status, made = await call(api, "POST", "/v1/projects/p/occurrences:batchCreate", many)
            name = made["occurrences"][0]["name"]
            patch = {"remediation": "update"}
            status, found = await call(api, "PATCH", f"/v1/{name}?updateMask=remediation", patch)
            assert found["remediation"] == "update"
            assert (await call(api, "GET", f"/v1/{name}/notes"))[1]["kind"] == "VULNERABILITY"
            status, found = await call(
                api, "GET", "/v1/projects/p/notes/cve/occurrences?pageSize=1"
            )
            assert len(found["occurrences"]) == 1
            assert found["nextPageToken"]
            status, found = await call(
                api, "GET", "/v1beta1/projects/p/occurrences:vulnerabilitySummary"
            )
            assert [each["totalCount"] for each in found["counts"]] == ["1", "1"]
            assert (await call(api, "GET", "/v1beta1/projects"))[1]["projects"] == [
                {"name": "projects/p"}
            ]
            assert (await call(api, "DELETE", "/v1beta1/projects/p"))[0] == 200
            assert (await call(api, "GET", "/v1beta1/projects/p"))[0] == 404
            await client.aclose()

        asyncio.run(scenario())


@pytest.mark.peer
def test_the_grafeas_client_speaks_grpc(peers: Path) -> None:
    with Cluster(nodes=0, capabilities=()) as cluster:
        home = Home(cluster.home.root)
        cluster.client.apply("""
{apiVersion: v1, kind: ServiceAccount, metadata: {name: scanner}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: noter},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin},
 subjects: [{kind: ServiceAccount, name: scanner, namespace: default}]}
""")  # fmt: skip

        async def scenario() -> str:
            client = kubeconfig.load(cluster.kubeconfig)
            asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
            path = "/api/v1/namespaces/default/serviceaccounts/scanner/token"
            token = json.loads(await (await client.request("POST", path, body=asked)).read())
            api = GrafeasApi(home, Access(lambda: client, SystemClock()))
            tls = assembly.server_tls(home)
            async with await front.serve(api.handle, host="127.0.0.1", port=0, tls=tls) as rest:
                home.save_settings(Settings(grafeas_port=rest.port))
                program = Path(__file__).with_name("grafeas_gateway.py")
                gateway = await asyncio.create_subprocess_exec(
                    peers / "python", program, home.root, stdout=subprocess.PIPE
                )
                try:
                    assert gateway.stdout is not None
                    port = (await asyncio.wait_for(gateway.stdout.readline(), 60)).decode().strip()
                    peer = await asyncio.create_subprocess_exec(
                        peers / "python",
                        Path(__file__).with_name("grafeas_peer.py"),
                        port,
                        home.pki / "ca.crt",
                        token["status"]["token"],
                        stdout=subprocess.PIPE,
                    )
                    out, _ = await asyncio.wait_for(peer.communicate(), 60)
                finally:
                    gateway.terminate()
                    await gateway.wait()
            await client.aclose()
            return out.decode()

        said = json.loads(asyncio.run(scenario()))
        assert said["kinds"] == sorted(notes.KINDS)
        assert said["pages"] == [2, 1]
        assert said["updated"] == "update zlib"
        assert said["missing"] == "NotFound"
        assert said["unauthenticated"] == "Unauthenticated"
        assert said["provenance"] == "https://slsa.dev/provenance/v1"


def test_every_call_of_the_service_has_a_way() -> None:
    assert len(grpc._METHODS) == 14
