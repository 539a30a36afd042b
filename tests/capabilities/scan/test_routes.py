"""Clair's and Harbor's interfaces, over a real server."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.capabilities.scan.images import DEBIAN, digest, layer, status

from underway.base.clock import FakeClock
from underway.base.errors import Unauthorized
from underway.base.home import Home
from underway.capabilities.scan.backend import tokens
from underway.capabilities.scan.backend.importing import import_from
from underway.capabilities.scan.backend.notifier import notify
from underway.capabilities.scan.backend.scanner import Scanner
from underway.capabilities.scan.routes import REPORT_TYPE, Service
from underway.wire.http import Request, Response

NOW = datetime(2026, 1, 10, tzinfo=UTC)
BLOB = gzip.compress(
    layer({"etc/os-release": DEBIAN, "var/lib/dpkg/status": status(curl="1")}), mtime=0
)
MANIFEST = f"sha256:{'a' * 64}"


class Blobs(http.server.BaseHTTPRequestHandler):
    posted: list[dict] = []

    def do_GET(self) -> None:
        found = self.path == "/layer" and self.headers.get("X-Let-Me") == "in"
        self.send_response(200 if found else 404)
        self.end_headers()
        if found:
            self.wfile.write(BLOB)

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        Blobs.posted.append(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def blobs() -> Iterator[str]:
    Blobs.posted = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blobs) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Clair:
    def __init__(self, home: Path) -> None:
        self.home = Home(home)
        self.service = Service(self.home, FakeClock(NOW))
        self.scanner = Scanner(self.home, FakeClock(NOW))
        self.token = tokens.issue(tokens.key(self.home), NOW, 60)

    def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Response:
        path, _, query = path.partition("?")
        data = b"" if body is None else json.dumps(body).encode()
        given = {
            "authorization": f"Bearer {self.token}",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        return asyncio.run(self.service.handle(Request(method, path, query, given, data)))

    def know(self, fixed: str) -> list[str]:
        document = {
            "id": "CVE-1", "modified": "2026-01-09T00:00:00Z",
            "affected": [{"package": {"ecosystem": "Debian:12", "name": "curl"},
                          "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": fixed}]}]}],
        }  # fmt: skip
        file = self.home.root / "feed.json"
        file.write_text(json.dumps(document))
        return import_from(
            str(file), "feed", self.scanner.advisories, FakeClock(NOW), lambda _: None
        )[1]


@pytest.fixture
def clair(tmp_path: Path) -> Clair:
    return Clair(tmp_path)


def manifest(uri: str, /, **changes: object) -> dict:
    found = {"hash": digest(BLOB), "uri": uri, "headers": {"X-Let-Me": ["in"]}}
    return {"hash": MANIFEST, "layers": [{**found, **changes}]}


INDEX, MATCH = "/indexer/api/v1/index_report", "/matcher/api/v1/vulnerability_report"


def test_index_then_match_then_forget(clair, blobs):
    clair.know("2")
    made = clair("POST", INDEX, manifest(f"{blobs}/layer"))
    assert (made.status, made.headers["location"]) == (201, f"{INDEX}/{MANIFEST}")
    report = json.loads(made.body)
    assert (report["state"], report["success"]) == ("IndexFinished", True)
    (package,) = report["packages"].values()
    assert (package["name"], package["version"]) == ("curl", "1")
    assert report["environments"][package["id"]][0]["introduced_in"] == digest(BLOB)
    found = json.loads(clair("GET", f"{MATCH}/{MANIFEST}").body)
    (vulnerability,) = found["vulnerabilities"].values()
    assert (vulnerability["name"], vulnerability["fixed_in_version"]) == ("CVE-1", "2")
    assert found["package_vulnerabilities"] == {package["id"]: [vulnerability["id"]]}
    assert clair("DELETE", f"{INDEX}/{MANIFEST}").status == 204
    assert clair("GET", f"{INDEX}/{MANIFEST}").status == 404


def test_the_state_and_reports_have_tags(clair, blobs):
    state = clair("GET", "/indexer/api/v1/index_state")
    again = clair("GET", "/indexer/api/v1/index_state", if_none_match=state.headers["etag"])
    assert (state.status, again.status) == (200, 304)
    clair("POST", INDEX, manifest(f"{blobs}/layer"))
    report = clair("GET", f"{INDEX}/{MANIFEST}")
    assert clair("GET", f"{INDEX}/{MANIFEST}", if_none_match=report.headers["etag"]).status == 304


@pytest.mark.parametrize("change", [
    {"headers": {}}, {"hash": f"sha256:{'b' * 64}"}, {"uri": "http://127.0.0.1:9/layer"},
])  # fmt: skip
def test_layers_that_cannot_be_fetched_or_are_others_are_412(clair, blobs, change):
    answer = clair("POST", INDEX, manifest(f"{blobs}/layer", **change))
    assert answer.status == 412
    assert clair("GET", f"{INDEX}/{MANIFEST}").status == 404


@pytest.mark.parametrize("body", [
    None, [], {}, {"hash": "x", "layers": []}, {"hash": MANIFEST, "layers": []},
    {"hash": MANIFEST, "layers": [{"hash": MANIFEST, "uri": "file:///etc/passwd"}]},
    {"hash": MANIFEST, "layers": [{"hash": MANIFEST, "uri": "http://x", "headers": {"a": "b"}}]},
])  # fmt: skip
def test_what_is_no_manifest_is_refused(clair, body):
    assert clair("POST", INDEX, body).status == 400


def test_new_advisories_notify(clair, blobs):
    clair("POST", INDEX, manifest(f"{blobs}/layer"))
    target = {"target": f"{blobs}/told", "callback": "https://scanner.example.org/"}
    (clair.home.scan / "notifier.json").write_text(json.dumps(target))
    id_, count = notify(clair.home, clair.scanner, clair.know("2"))
    assert count == 1
    assert Blobs.posted == [{
        "notification_id": id_,
        "callback": f"https://scanner.example.org/notifier/api/v1/notification/{id_}",
    }]  # fmt: skip
    page = json.loads(clair("GET", f"/notifier/api/v1/notification/{id_}?page_size=1").body)
    assert page["notifications"][0]["vulnerability"]["name"] == "CVE-1"
    assert "next" not in page["page"]
    assert clair("DELETE", f"/notifier/api/v1/notification/{id_}").status == 204
    assert clair("GET", f"/notifier/api/v1/notification/{id_}").status == 404
    assert notify(clair.home, clair.scanner, clair.know("2")) == ("", 0)


def test_harbor_learns_what_the_scanner_does(clair):
    answer = clair("GET", "/api/v1/metadata")
    capability = json.loads(answer.body)["capabilities"][0]
    assert capability["produces_mime_types"] == [REPORT_TYPE]
    assert answer.headers["content-type"].startswith(
        "application/vnd.scanner.adapter.metadata+json"
    )


def test_a_scan_of_what_is_no_image_is_refused(clair):
    request = {"registry": {"url": "http://x"}, "artifact": {"repository": "a", "digest": "b"}}
    assert clair("POST", "/api/v1/scan", request).status == 400
    assert clair("GET", "/api/v1/scan/unknown/report").status == 404


@pytest.mark.parametrize("header", ["", "Bearer", "Basic x", "Bearer a.b.c", "Bearer x"])
def test_nobody_comes_in_without_a_token(clair, header):
    assert clair("GET", "/api/v1/metadata", authorization=header).status == 401


def test_tokens_end_and_cannot_be_changed(clair):
    secret = tokens.key(clair.home)
    token = tokens.issue(secret, NOW, 10)
    tokens.check(secret, f"Bearer {token}", NOW)
    with pytest.raises(Unauthorized, match="expired"):
        tokens.check(secret, f"Bearer {token}", NOW + timedelta(minutes=5))
    with pytest.raises(Unauthorized, match="signature"):
        tokens.check(b"another", f"Bearer {token}", NOW)
    head, claims, _ = token.split(".")
    none = tokens._encode(b'{"alg":"none"}')
    with pytest.raises(Unauthorized, match="HS256"):
        tokens.check(secret, f"Bearer {none}.{claims}.", NOW)
    assert head != none
