"""Harbor's API and others: webhooks, scanners, other registries to copy from and to, caches."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner
from tests.capabilities.registry.conftest import environment
from tests.capabilities.registry.harbor_calls import HarborCalls

from underway.base.errors import ServiceUnavailable
from underway.capabilities.registry import cli
from underway.capabilities.registry.backend.replication import target_of
from underway.transport.registry import RegistryClient, credentials
from underway.wire import oci


@pytest.fixture
def harbor(direct):
    return HarborCalls(direct)


class Listener:
    """An HTTP server that keeps what it gets and answers what it is told."""

    def __init__(self):
        self.got, self.answers = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                data = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.got.append((self.command, self.path, dict(self.headers.items()), data))
                status, headers, body = outer.answer(self.command, self.path, data)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self.thread.start()

    def answer(self, method, path, data):
        return self.answers.pop(0) if self.answers else (200, {}, b"")

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def listener():
    made = Listener()
    yield made
    made.stop()


# -- webhooks -------------------------------------------------------------------------------------


def hook(listener, *events, **target):
    target = {"type": "http", "address": listener.url, "auth_header": "s3cret", **target}
    return {"name": "hook", "targets": [target], "event_types": list(events), "enabled": True}


def test_a_webhook_tells_of_pushes_pulls_and_deletions(direct, harbor, listener):
    harbor.make("/projects", {"project_name": "team"})
    id = harbor.make(
        "/projects/team/webhook/policies",
        hook(listener, "PUSH_ARTIFACT", "PULL_ARTIFACT", "DELETE_ARTIFACT"),
    )
    digest = direct.push_image("team/app", "v1", b"layer")
    direct.call("GET", "/v2/team/app/manifests/v1")
    direct.call("DELETE", "/v2/team/app/manifests/v1")
    direct.push_image("other/app", "v1", b"layer")
    direct.hub.jobs.work_off()
    told = [json.loads(data) for _, _, _, data in listener.got]
    assert sorted(each["type"] for each in told) == [
        "DELETE_ARTIFACT",
        "PULL_ARTIFACT",
        "PUSH_ARTIFACT",
    ]
    (pushed,) = [each for each in told if each["type"] == "PUSH_ARTIFACT"]
    assert pushed["operator"] == "admin"
    (resource,) = pushed["event_data"]["resources"]
    assert (resource["digest"], resource["tag"]) == (digest, "v1")
    assert resource["resource_url"].endswith("/team/app:v1")
    assert pushed["event_data"]["repository"]["repo_full_name"] == "team/app"
    assert {headers["authorization"] for _, _, headers, _ in listener.got} == {"s3cret"}
    runs = harbor.get(f"/projects/team/webhook/policies/{id}/executions")
    assert {run["status"] for run in runs} == {"Success"}
    path = f"/projects/team/webhook/policies/{id}/executions/{runs[0]['id']}/tasks"
    (task,) = harbor.get(path)
    harbor.get(f"{path}/{task['id']}/log")
    assert b"answered 200" in harbor.answer.body
    harbor.get("/projects/team/webhook/lasttrigger")
    assert "PUSH_ARTIFACT" in harbor.get("/projects/team/webhook/events")["event_type"]


@pytest.mark.parametrize(
    ("target", "check"),
    [
        ({"type": "slack"}, lambda told: "team/app:v1" in told["text"] and told["blocks"]),
        (
            {"payload_format": "CloudEvents"},
            lambda told: (
                told["specversion"] == "1.0"
                and told["type"] == "harbor.artifact.pushed"
                and told["data"]["resources"]
            ),
        ),
    ],
)
def test_other_forms_of_payloads(direct, harbor, listener, target, check):
    harbor.make("/projects", {"project_name": "team"})
    harbor.make("/projects/team/webhook/policies", hook(listener, "PUSH_ARTIFACT", **target))
    direct.push_image("team/app", "v1", b"layer")
    direct.hub.jobs.work_off()
    (got,) = listener.got
    assert check(json.loads(got[3]))


def test_a_webhook_that_fails_is_tried_again_and_a_disabled_one_tells_nothing(
    direct, harbor, listener
):
    harbor.make("/projects", {"project_name": "team"})
    id = harbor.make("/projects/team/webhook/policies", hook(listener, "PUSH_ARTIFACT"))
    listener.answers = [(500, {}, b""), (503, {}, b"")]
    direct.push_image("team/app", "v1", b"layer")
    path = f"/projects/team/webhook/policies/{id}"
    for attempt in (1, 2, 3):
        direct.hub.jobs.work_off()
        assert len(listener.got) == attempt
        direct.hub.database.write(lambda cursor: cursor.run("UPDATE tasks SET due_s = 0"))
        status = "Success" if attempt == 3 else "Running"
        assert harbor.get(f"{path}/executions")[0]["status"] == status
    harbor("PUT", path, {"enabled": False})
    direct.push_image("team/app", "v2", b"layer 2")
    direct.hub.jobs.work_off()
    assert len(listener.got) == 3
    for bad in (
        {"event_types": ["NONSENSE"]},
        {"targets": []},
        {"targets": [{"type": "http", "address": "file:///etc"}]},
    ):
        harbor("PUT", path, bad, 400)


# -- scanners -------------------------------------------------------------------------------------

REPORT = {
    "severity": "High",
    "vulnerabilities": [
        {
            "id": "CVE-2024-1",
            "package": "openssl",
            "version": "1",
            "fix_version": "2",
            "severity": "High",
            "description": "bad",
            "links": ["https://x"],
            "preferred_cvss": {"score_v3": 7.5},
        },
        {"id": "CVE-2024-2", "package": "zlib", "version": "1", "severity": "Low", "links": []},
    ],
}


class Scanner(Listener):
    """Speaks the scanner adapter's API: a report on the second time of asking."""

    asked = 0
    report = REPORT

    def answer(self, method, path, data):
        if path == "/api/v1/metadata":
            return 200, {}, json.dumps({"scanner": {"name": "test"}, "capabilities": []}).encode()
        if path == "/api/v1/scan":
            self.request = json.loads(data)
            return 202, {"content-type": "application/json"}, b'{"id": "scan-1"}'
        self.asked += 1
        if self.asked % 2:
            return 302, {"refresh-after": "0.01", "location": path}, b""
        return (200, {}, json.dumps(self.report).encode()) if self.report else (500, {}, b"")


@pytest.fixture
def scanner(harbor):
    made = Scanner()
    made.id = harbor.make(
        "/scanners", {"name": "test", "url": made.url, "auth": "Bearer", "access_credential": "key"}
    )
    yield made
    made.stop()


def test_a_scanner_is_asked_and_its_report_shown(direct, harbor, scanner):
    digest = direct.push_image("team/app", "v1", b"layer")
    one = "/projects/team/repositories/app/artifacts/v1"
    assert harbor.get(f"/scanners/{scanner.id}/metadata")["scanner"]["name"] == "test"
    assert harbor.get("/projects/team/scanner")["is_default"] is True
    harbor("POST", f"{one}/scan", None, 202)
    harbor("POST", f"{one}/scan", None, 409)
    direct.hub.jobs.work_off()
    assert scanner.request["artifact"]["digest"] == digest
    assert scanner.got[-1][2]["authorization"] == "Bearer key"
    token = scanner.request["registry"]["authorization"]
    assert direct.call("GET", "/v2/team/app/manifests/v1", authorization=token).status == 200
    assert direct.call("POST", "/v2/team/app/blobs/uploads/", authorization=token).status == 401
    (overview,) = harbor.get(f"{one}?with_scan_overview=true")["scan_overview"].values()
    assert (overview["scan_status"], overview["severity"]) == ("Success", "High")
    assert overview["summary"] == {"total": 2, "fixable": 1, "summary": {"High": 1, "Low": 1}}
    (report,) = harbor.get(f"{one}/additions/vulnerabilities").values()
    assert len(report["vulnerabilities"]) == 2
    harbor.get(f"{one}/scan/{overview['report_id']}/log")
    found = harbor.get("/security/summary?with_dangerous_cve=true&with_dangerous_artifact=true")
    assert (found["total_vuls"], found["high_cnt"], found["fixable_cnt"], found["scanned_cnt"]) == (
        2,
        1,
        1,
        1,
    )
    assert found["dangerous_cves"][0]["cve_id"] == "CVE-2024-1"
    rows = harbor.get("/security/vul?q=severity%3DHigh")
    assert [(row["cve_id"], row["repository_name"], row["tags"]) for row in rows] == [
        ("CVE-2024-1", "team/app", ["v1"])
    ]


def test_what_is_pushed_is_scanned_where_the_project_wants_that_and_all_at_once(
    direct, harbor, scanner, listener
):
    harbor.make("/projects", {"project_name": "team", "metadata": {"auto_scan": "true"}})
    harbor.make("/projects/team/webhook/policies", hook(listener, "SCANNING_COMPLETED"))
    direct.push_image("team/app", "v1", b"layer")
    direct.push_image("other/app", "v1", b"layer")
    direct.hub.jobs.work_off()
    assert [path for _, path, _, _ in scanner.got].count("/api/v1/scan") == 1
    assert json.loads(listener.got[0][3])["type"] == "SCANNING_COMPLETED"
    harbor.make("/system/scanAll/schedule", {"schedule": {"type": "Manual"}})
    direct.hub.jobs.work_off()
    metrics = harbor.get("/scans/all/metrics")
    assert (metrics["total"], metrics["completed"], metrics["ongoing"]) == (2, 2, False)


def test_a_scanner_that_fails_is_told_of(direct, harbor, scanner):
    direct.push_image("team/app", "v1", b"layer")
    scanner.report = None
    one = "/projects/team/repositories/app/artifacts/v1"
    harbor("POST", f"{one}/scan", {"scan_type": "vulnerability"}, 202)
    direct.hub.jobs.work_off()
    (overview,) = harbor.get(f"{one}?with_scan_overview=true")["scan_overview"].values()
    assert overview["scan_status"] == "Error"
    harbor("DELETE", f"/scanners/{scanner.id}")
    harbor("POST", f"{one}/scan", None, 400)


# -- other registries -----------------------------------------------------------------------------


@pytest.fixture
def other(served, harbor):
    """The registry of another process, named here."""
    username, password = credentials(served.home.registry_auth, served.host)
    ca = (served.home.pki / "ca.crt").read_text()
    body = {
        "name": "other",
        "type": "docker-registry",
        "url": f"https://{served.host}",
        "ca_certificate": ca,
        "credential": {"type": "basic", "access_key": username, "access_secret": password},
    }
    served.id = int(harbor.make("/registries", body))
    return served


def replicate(direct, harbor, id):
    run = harbor.make("/replication/executions", {"policy_id": int(id)})
    direct.hub.jobs.work_off()
    return harbor.get(f"/replication/executions/{run}")


def test_registries_are_named_and_have_to_answer(harbor, other):
    found = harbor.get(f"/registries/{other.id}")
    assert (found["status"], found["credential"]["access_secret"]) == ("healthy", "*****")
    harbor("POST", "/registries/ping", {"id": other.id})
    harbor(
        "PUT",
        f"/registries/{other.id}",
        {"credential": {"access_key": "x", "access_secret": "wrong"}},
        400,
    )
    harbor("PUT", f"/registries/{other.id}", {"description": "theirs"})
    harbor(
        "POST", "/registries", {"name": "gone", "type": "harbor", "url": "http://127.0.0.1:9"}, 400
    )
    harbor("POST", "/registries", {"name": "bad", "type": "nonsense", "url": "https://x"}, 400)
    assert "harbor" in harbor.get("/replication/adapters")


def test_artifacts_are_pushed_to_another_registry(direct, harbor, other):
    direct.push_image("push/app", "v1", b"layer one" * 5000)
    direct.push_image("push/app", "dev", b"layer two")
    direct.push_image("else/app", "v1", b"layer three")
    filters = [{"type": "name", "value": "push/**"}, {"type": "tag", "value": "v*"}]
    id = harbor.make(
        "/replication/policies",
        {
            "name": "out",
            "dest_registry": {"id": other.id},
            "filters": filters,
            "dest_namespace": "mirror",
            "trigger": {"type": "manual"},
        },
    )
    found = replicate(direct, harbor, id)
    assert (found["status"], found["total"]) == ("Succeed", 2)
    with other.client() as client:
        assert (
            client.manifest("mirror/app", "v1").data
            == direct.call("GET", "/v2/push/app/manifests/v1").body
        )
        assert not client.manifest_exists("mirror/app", "dev")
    tasks = harbor.get(f"/replication/executions/{found['id']}/tasks?sort=id")
    assert tasks[1]["dst_resource"] == "mirror/app:v1"
    harbor.get(f"/replication/executions/{found['id']}/tasks/{tasks[1]['id']}/log")
    assert b"pushed mirror/app:v1" in harbor.answer.body
    harbor("DELETE", f"/registries/{other.id}", expect=412)
    with environment(UNDERWAY_HOME=str(direct.home.root)):
        run = CliRunner().invoke
        (row,) = json.loads(run(cli.registry, ["replication", "list", "-o", "json"]).output)
        assert (row["name"], row["direction"], row["lastStatus"]) == ("out", "push", "Success")
        started = json.loads(
            run(cli.registry, ["replication", "start", "out", "-o", "json"]).output
        )
        assert (
            "Stopped"
            in run(cli.registry, ["replication", "stop", str(started["execution"])]).output
        )
        shown = json.loads(run(cli.registry, ["replication", "show", "out", "-o", "json"]).output)
        assert [each["status"] for each in shown["executions"]] == ["Stopped", "Success"]


def test_pushes_and_deletions_are_followed_by_events(direct, harbor, other):
    policy = {
        "name": "events",
        "dest_registry": {"id": other.id},
        "filters": [{"type": "name", "value": "live/**"}],
        "trigger": {"type": "event_based"},
        "replicate_deletion": True,
        "dest_namespace_replace_count": 1,
    }
    harbor.make("/replication/policies", policy)
    direct.push_image("live/app", "v1", b"live layer")
    direct.hub.jobs.work_off()
    with other.client() as client:
        assert client.manifest_exists("live/app", "v1")
        direct.call("DELETE", "/v2/live/app/manifests/v1")
        direct.hub.jobs.work_off()
        assert not client.manifest_exists("live/app", "v1")
    harbor.make(
        "/replication/policies",
        {
            **policy,
            "name": "x",
            "trigger": {"type": "scheduled", "trigger_settings": {"cron": "0 0 0 * * *"}},
        },
    )
    harbor(
        "POST",
        "/replication/policies",
        {**policy, "name": "y", "trigger": {"type": "nonsense"}},
        400,
    )


def test_artifacts_are_pulled_from_another_registry_and_what_differs_kept_if_asked(
    direct, harbor, other
):
    data = os.urandom(30_000)
    digest = oci.digest_of(data)
    with other.client() as client:
        client.push_blob("far/app", digest, data, len(data))
        config = oci.digest_of(b"{}")
        client.push_blob("far/app", config, b"{}", 2)
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "config": {"mediaType": oci.CONFIG, "digest": config, "size": 2},
                "layers": [{"mediaType": oci.LAYER, "digest": digest, "size": len(data)}],
            }
        ).encode()
        client.push_manifest("far/app", "v1", manifest, oci.MANIFEST)
    policy = {
        "name": "in",
        "src_registry": {"id": other.id},
        "filters": [{"type": "name", "value": "far/*"}],
        "trigger": {"type": "manual"},
        "override": False,
        "dest_namespace": "near",
    }
    id = harbor.make("/replication/policies", policy)
    assert replicate(direct, harbor, id)["status"] == "Succeed"
    assert direct.call("GET", "/v2/near/app/manifests/v1").body == manifest
    assert direct.call("GET", f"/v2/near/app/blobs/{digest}").body == data
    mine = direct.push_image("near/app", "v1", b"mine")
    replicate(direct, harbor, id)
    assert harbor.get("/projects/near/repositories/app/artifacts/v1")["digest"] == mine
    harbor("PUT", f"/replication/policies/{id}", {**policy, "override": True})
    replicate(direct, harbor, id)
    assert direct.call("GET", "/v2/near/app/manifests/v1").body == manifest


def test_a_replication_that_was_broken_off_goes_on(direct, harbor, other):
    direct.push_image("resume/app", "v1", b"resume layer")
    id = harbor.make(
        "/replication/policies",
        {
            "name": "resume",
            "dest_registry": {"id": other.id},
            "filters": [{"type": "name", "value": "resume/**"}],
        },
    )
    run = harbor.make("/replication/executions", {"policy_id": int(id)})
    # As a process that was killed in the middle leaves it.
    direct.hub.database.write(
        lambda cursor: cursor.run("UPDATE tasks SET status = 'Running', worker = 'dead'")
    )
    assert direct.hub.jobs.work_off() == 0
    direct.hub.jobs.reclaim()
    direct.hub.jobs.work_off()
    assert harbor.get(f"/replication/executions/{run}")["status"] == "Succeed"
    with other.client() as client:
        assert client.manifest_exists("resume/app", "v1")
    stopped = harbor.make("/replication/executions", {"policy_id": int(id)})
    harbor("PUT", f"/replication/executions/{stopped}")
    assert harbor.get(f"/replication/executions/{stopped}")["status"] == "Stopped"
    harbor("DELETE", f"/replication/policies/{id}")


@pytest.mark.parametrize(
    ("count", "expected"),
    [(-1, "new/app"), (0, "new/a/b/app"), (1, "new/b/app"), (2, "new/app"), (9, "new/app")],
)
def test_names_on_the_other_side(count, expected):
    assert (
        target_of({"dest_namespace": "new", "dest_namespace_replace_count": count}, "a/b/app")
        == expected
    )
    assert target_of({}, "a/b/app") == "a/b/app"


# -- caches ---------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port):
    for _ in range(500):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        threading.Event().wait(0.02)
    raise AssertionError(f"nobody listens on {port}")


@contextlib.contextmanager
def upstream(root):
    """Debian's docker-registry, with nothing to log in to."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    port = free_port()
    config = root / "upstream.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}/upstream}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    process = subprocess.Popen(
        [program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def push(url, repository, tag, layer):
    with RegistryClient(url) as client:
        config, digest = oci.digest_of(b"{}"), oci.digest_of(layer)
        client.push_blob(repository, config, b"{}", 2)
        client.push_blob(repository, digest, layer, len(layer))
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": oci.MANIFEST,
                "config": {"mediaType": oci.CONFIG, "digest": config, "size": 2},
                "layers": [{"mediaType": oci.LAYER, "digest": digest, "size": len(layer)}],
            }
        ).encode()
        client.push_manifest(repository, tag, manifest, oci.MANIFEST)
    return manifest


@pytest.mark.peer
def test_a_cache_of_docker_registry_is_never_old_survives_its_absence_and_makes_room(
    direct, harbor, tmp_path
):
    with upstream(tmp_path) as url:
        first = push(url, "library/app", "v1", b"first layer" * 3000)
        id = int(harbor.make("/registries", {"name": "up", "type": "docker-registry", "url": url}))
        project = harbor.make("/projects", {"project_name": "cache", "registry_id": id})
        got = direct.call("GET", "/v2/cache/library/app/manifests/v1")
        assert got.body == first
        blob = oci.digest_of(b"first layer" * 3000)
        assert (
            direct.call("GET", f"/v2/cache/library/app/blobs/{blob}").body == b"first layer" * 3000
        )
        second = push(url, "library/app", "v1", b"second layer")
        assert direct.call("GET", "/v2/cache/library/app/manifests/v1").body == second
        assert direct.call("GET", "/v2/cache/library/app/manifests/none").status == 404
        assert (
            direct.call("GET", f"/v2/cache/library/app/blobs/{oci.digest_of(b'none')}").status
            == 404
        )
        assert direct.call("POST", "/v2/cache/library/app/blobs/uploads/").status == 405
        # What was not pulled for longest makes room for what is asked for now.
        used = harbor.get(f"/quotas/{project}")["used"]["storage"]
        harbor("PUT", f"/quotas/{project}", {"hard": {"storage": used + 100}})
        third = push(url, "library/new", "v1", b"third layer")
        assert direct.call("GET", "/v2/cache/library/new/manifests/v1").body == third
        assert (
            direct.call("GET", "/v2/cache/library/new/blobs/" + oci.digest_of(b"third layer")).body
            == b"third layer"
        )
        assert harbor.get(f"/quotas/{project}")["used"]["storage"] <= used + 100
    assert direct.call("GET", "/v2/cache/library/new/manifests/v1").body == third
    assert direct.call("GET", "/v2/cache/library/new/manifests/absent").status >= 500
    with pytest.raises(ServiceUnavailable):
        direct.hub.replication.remote(id).ping()


@pytest.mark.peer
def test_docker_registry_as_source_and_target_of_replication(direct, harbor, tmp_path):
    with upstream(tmp_path) as url:
        manifest = push(url, "theirs/app", "v1", b"their layer")
        id = int(harbor.make("/registries", {"name": "up", "type": "docker-registry", "url": url}))
        pull = harbor.make("/replication/policies", {"name": "in", "src_registry": {"id": id}})
        assert replicate(direct, harbor, pull)["status"] == "Succeed"
        assert direct.call("GET", "/v2/theirs/app/manifests/v1").body == manifest
        direct.push_image("ours/app", "v1", b"our layer")
        out = harbor.make(
            "/replication/policies",
            {
                "name": "out",
                "dest_registry": {"id": id},
                "speed": 1000,
                "filters": [{"type": "name", "value": "ours/**"}],
                "replicate_deletion": True,
            },
        )
        assert replicate(direct, harbor, out)["status"] == "Succeed"
        with direct.hub.replication.remote(id) as remote:
            assert remote.tags("ours/app") == ["v1"]
