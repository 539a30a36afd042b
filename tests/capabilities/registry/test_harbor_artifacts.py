"""Harbor's API: artifacts and their tags, immutability, retention, garbage collection, purging."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from tests.capabilities.registry.conftest import Direct, descriptor, image
from tests.capabilities.registry.harbor_calls import HarborCalls

from underway.base.home import Home
from underway.capabilities.registry.rules import cron
from underway.wire import oci

ONE = "/projects/team/repositories/app/artifacts"


class Clock:
    def __init__(self):
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def direct(tmp_path, clock):
    return Direct(Home(tmp_path), clock=clock)


@pytest.fixture
def harbor(direct):
    return HarborCalls(direct)


def tags(harbor, repository="app"):
    rows = harbor.get(f"/projects/team/repositories/{repository}/artifacts?page_size=100")
    return sorted(tag["name"] for row in rows for tag in row["tags"] or [])


def test_artifacts_are_shown_with_all_that_belongs_to_them(direct, harbor):
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "history": [{"created_by": "RUN true"}],
            "config": {"Env": ["A=b"]},
        }
    ).encode()
    layer = direct.push_blob("team/deep/app", b"layer")
    parts = {**direct.push_blob("team/deep/app", config)}
    manifest = image(parts, [layer], annotations={"a": "b"})
    digest = direct.push_manifest("team/deep/app", "v1", manifest)
    one = f"/projects/team/repositories/deep%252Fapp/artifacts/{digest}"
    found = harbor.get(one)
    assert (found["digest"], found["type"], found["manifest_media_type"]) == (
        digest,
        "IMAGE",
        oci.MANIFEST,
    )
    assert found["repository_name"] == "team/deep/app"
    assert [tag["name"] for tag in found["tags"]] == ["v1"]
    assert found["extra_attrs"]["architecture"] == "amd64"
    assert found["annotations"] == {"a": "b"}
    assert found["pull_time"].startswith("0001")
    assert harbor.get(f"{one}/additions/build_history") == [{"created_by": "RUN true"}]
    harbor.get(f"{one}/additions/nonsense", 400)
    direct.call("GET", "/v2/team/deep/app/manifests/v1")
    assert harbor.get(one)["pull_time"].startswith("2026")
    assert harbor.get("/projects/team/repositories/deep%252Fapp")["pull_count"] == 1
    logs = harbor.get("/projects/team/logs?q=operation%3Dpull")
    assert [row["resource"] for row in logs] == ["team/deep/app:v1"]


def test_artifacts_are_filtered_by_tags_and_paged(direct, harbor, clock):
    digests = []
    for number in range(5):
        clock.time += timedelta(minutes=1)
        digests.append(direct.push_image("team/app", f"v{number}", bytes([number])))
    direct.call("DELETE", "/v2/team/app/manifests/v4")
    first = harbor.get(f"{ONE}?page_size=2")
    assert [row["digest"] for row in first] == digests[:2:-1]
    assert harbor.answer.headers["x-total-count"] == "5"
    for query, expected in (
        ("tags%3Dnil", [4]),
        ("tags%3D~V1", [1]),
        ("tags%3D{v1 v2}", [2, 1]),
        ("tags%3D*", [3, 2, 1, 0]),
        ("push_time%3D[2026-01-01 00:02:00~2026-01-01 00:03:00]", [2, 1]),
    ):
        rows = harbor.get(f"{ONE}?q={query}&sort=-push_time")
        assert [row["digest"] for row in rows] == [digests[number] for number in expected], query
    assert len(harbor.get("/projects/team/artifacts")) == 5


def test_tags_are_made_listed_and_deleted(direct, harbor):
    digest = direct.push_image("team/app", "v1", b"layer")
    harbor.make(f"{ONE}/v1/tags", {"name": "stable"})
    harbor("POST", f"{ONE}/v1/tags", {"name": "stable"}, 409)
    harbor("POST", f"{ONE}/v1/tags", {"name": "no tag"}, 400)
    assert [row["name"] for row in harbor.get(f"{ONE}/{digest}/tags")] == ["stable", "v1"]
    harbor("DELETE", f"{ONE}/{digest}/tags/v1")
    harbor("DELETE", f"{ONE}/{digest}/tags/v1", expect=404)
    assert direct.call("GET", "/v2/team/app/manifests/stable").status == 200
    harbor("DELETE", f"{ONE}/stable")
    assert direct.call("GET", f"/v2/team/app/manifests/{digest}").status == 404


def test_artifacts_are_copied_with_all_they_list(direct, harbor):
    child = direct.push_image("team/app", "v1", b"layer")
    entry = {
        "mediaType": oci.MANIFEST,
        "digest": child,
        "size": 1,
        "platform": {"os": "linux", "architecture": "arm64"},
    }
    index = direct.push_manifest(
        "team/app", "all", {"schemaVersion": 2, "manifests": [entry]}, oci.INDEX
    )
    (reference,) = harbor.get(f"{ONE}/all")["references"]
    assert (reference["child_digest"], reference["platform"]["architecture"]) == (child, "arm64")
    harbor("POST", "/projects/team/repositories/copy/artifacts?from=team/app:all", None, 201)
    assert direct.call("GET", f"/v2/team/copy/manifests/{index}").status == 200
    assert direct.call("GET", f"/v2/team/copy/blobs/{oci.digest_of(b'layer')}").body == b"layer"
    harbor("POST", "/projects/team/repositories/copy/artifacts?from=team/app:all", None, 409)
    harbor("POST", "/projects/team/repositories/copy/artifacts?from=nonsense", None, 400)
    harbor("POST", "/projects/team/repositories/copy/artifacts?from=team/app:none", None, 404)


def test_signatures_are_accessories_and_go_with_their_artifact(direct, harbor):
    digest = direct.push_image("team/app", "v1", b"layer")
    subject = {"mediaType": oci.MANIFEST, "digest": digest, "size": 1}
    kind = "application/vnd.cncf.notary.signature"
    direct.push_image("team/app", "sig", b"signature", artifactType=kind, subject=subject)
    old = direct.push_image("team/app", f"sha256-{digest[7:]}.sig", b"cosign")
    assert [row["digest"] for row in harbor.get(ONE)] == [digest]
    found = harbor.get(f"{ONE}/v1?with_accessory=true")["accessories"]
    assert {each["type"] for each in found} == {"signature.notation", "signature.cosign"}
    assert len(harbor.get(f"{ONE}/v1/accessories")) == 2
    harbor("DELETE", f"{ONE}/v1")
    assert direct.call("GET", f"/v2/team/app/manifests/{old}").status == 404


def selector(pattern, decoration="matches", **more):
    return {"kind": "doublestar", "decoration": decoration, "pattern": pattern, **more}


def test_immutable_tags_can_be_neither_moved_nor_deleted(direct, harbor):
    first = direct.push_image("team/app", "v1.0", b"one")
    rule = {
        "tag_selectors": [selector("v*")],
        "scope_selectors": {"repository": [selector("**", "repoMatches")]},
    }
    id = harbor.make("/projects/team/immutabletagrules", rule)
    harbor("POST", "/projects/team/immutabletagrules", rule, 409)
    assert direct.push_image("team/app", "v1.0", b"one") == first
    config = descriptor("x", b"{}")
    other = json.dumps(image(config, [])).encode()
    refused = direct.call("PUT", "/v2/team/app/manifests/v1.0", other, content_type=oci.MANIFEST)
    assert (refused.status, json.loads(refused.body)["errors"][0]["code"]) == (412, "PRECONDITION")
    for path in ("v1.0", first):
        assert direct.call("DELETE", f"/v2/team/app/manifests/{path}").status == 412
    assert harbor.error("DELETE", f"{ONE}/{first}/tags/v1.0", expect=412) == "PRECONDITION"
    assert harbor.error("DELETE", f"{ONE}/v1.0", expect=412) == "PRECONDITION"
    assert harbor.error("DELETE", "/projects/team/repositories/app", expect=412) == "PRECONDITION"
    assert harbor.get(f"{ONE}/v1.0?with_immutable_status=true")["tags"][0]["immutable"] is True
    direct.push_image("team/app", "latest", b"one")
    direct.push_image("team/app", "latest", b"two")
    harbor("PUT", f"/projects/team/immutabletagrules/{id}", {**rule, "disabled": True})
    assert direct.call("DELETE", "/v2/team/app/manifests/v1.0").status == 202
    harbor("DELETE", f"/projects/team/immutabletagrules/{id}")
    assert harbor.get("/projects/team/immutabletagrules") == []


def policy(project, template, number=None, tag="**", **more):
    rule = {
        "action": "retain",
        "template": template,
        "params": {template: number} if number is not None else {},
        "tag_selectors": [selector(tag)],
        "scope_selectors": {"repository": [selector("app", "repoMatches")]},
    }
    return {
        "algorithm": "or",
        "rules": [{**rule, **more}],
        "scope": {"level": "project", "ref": project},
        "trigger": {"kind": "Schedule", "settings": {"cron": ""}},
    }


@pytest.mark.parametrize(
    ("template", "number", "tag", "expected"),
    [
        ("latestPushedK", 2, "**", ["v3", "v4"]),
        ("latestPulledN", 1, "**", ["v1"]),
        ("nDaysSinceLastPush", 2, "**", ["v3", "v4"]),
        ("nDaysSinceLastPull", 1, "**", ["v1"]),
        ("always", None, "v{0,2}", ["v0", "v2"]),
        ("always", None, "**", ["v0", "v1", "v2", "v3", "v4"]),
    ],
)
def test_retention_keeps_what_its_rules_say(direct, harbor, clock, template, number, tag, expected):
    for each in range(5):
        direct.push_image("team/app", f"v{each}", bytes([each]))
        direct.push_image("team/other", f"v{each}", bytes([each]))
        clock.time += timedelta(days=1)
    direct.call("GET", "/v2/team/app/manifests/v1")
    direct.hub.events.flush()
    project = harbor.get("/projects/team")["project_id"]
    id = harbor.make("/retentions", policy(project, template, number, tag))
    assert harbor.get("/projects/team")["metadata"]["retention_id"] == id
    trial = harbor.make(f"/retentions/{id}/executions", {"dry_run": True})
    assert direct.hub.jobs.work_off() == 1
    assert len(tags(harbor)) == 5
    real = harbor.make(f"/retentions/{id}/executions", {})
    direct.hub.jobs.work_off()
    assert tags(harbor) == expected
    assert len(tags(harbor, "other")) == 5
    runs = harbor.get(f"/retentions/{id}/executions")
    assert [(str(run["id"]), run["dry_run"], run["status"]) for run in runs] == [
        (real, False, "Success"),
        (trial, True, "Success"),
    ]
    for run in (trial, real):
        (task,) = harbor.get(f"/retentions/{id}/executions/{run}/tasks")
        assert (task["repository"], task["total"], task["retained"]) == ("app", 5, len(expected))
    log = direct.call(
        "GET", f"/api/v2.0/retentions/{id}/executions/{real}/tasks/{task['id']}"
    ).body.decode()
    assert log.count("RETAIN") == len(expected)


def test_retention_spares_immutable_tags_and_goes_by_its_schedule(direct, harbor, clock):
    for each in range(3):
        direct.push_image("team/app", f"v{each}", bytes([each]))
        clock.time += timedelta(days=1)
    rule = {
        "tag_selectors": [selector("v0")],
        "scope_selectors": {"repository": [selector("**", "repoMatches")]},
    }
    harbor.make("/projects/team/immutabletagrules", rule)
    project = harbor.get("/projects/team")["project_id"]
    wanted = policy(project, "latestPushedK", 1)
    wanted["trigger"]["settings"]["cron"] = "0 0 3 * * *"
    id = harbor.make("/retentions", wanted)
    direct.hub.jobs.work_off()
    assert len(tags(harbor)) == 3
    clock.time += timedelta(hours=4)
    direct.hub.jobs.work_off()
    assert tags(harbor) == ["v0", "v2"]
    assert harbor.get(f"/retentions/{id}/executions")[0]["trigger"] == "SCHEDULE"
    harbor("POST", "/retentions", wanted, 409)
    harbor("POST", "/retentions", policy(project, "nonsense", 1), 400)
    harbor("DELETE", f"/retentions/{id}")
    assert "retention_id" not in harbor.get("/projects/team")["metadata"]


def test_garbage_collection_as_a_job(direct, harbor, clock):
    direct.push_image("team/app", "v1", b"layer")
    direct.push_blob("team/app", b"unused" * 4000)
    clock.time += timedelta(hours=3)
    run = {"schedule": {"type": "Manual"}, "parameters": {"dry_run": True}}
    harbor.make("/system/gc/schedule", run)
    direct.hub.jobs.work_off()
    harbor.make("/system/gc/schedule", {**run, "parameters": {"delete_untagged": False}})
    direct.hub.jobs.work_off()
    real, trial = harbor.get("/system/gc")
    assert (real["job_status"], trial["job_status"]) == ("Success", "Success")
    log = direct.call("GET", f"/api/v2.0/system/gc/{trial['id']}/log").body.decode()
    assert "would free 1 blobs of 24000 bytes" in log
    log = direct.call("GET", f"/api/v2.0/system/gc/{real['id']}/log").body.decode()
    assert "freed 1 blobs of 24000 bytes" in log
    harbor.make(
        "/system/gc/schedule",
        {"schedule": {"type": "Custom", "cron": "0 0 0 * * *"}, "parameters": {}},
    )
    assert harbor.get("/system/gc/schedule")["schedule"]["cron"] == "0 0 0 * * *"
    clock.time += timedelta(days=1)
    direct.hub.jobs.work_off()
    assert len(harbor.get("/system/gc")) == 3
    harbor("PUT", "/system/gc/schedule", {"schedule": {"type": "None"}})
    assert harbor.get("/system/gc/schedule") == {}
    harbor("PUT", "/system/gc/schedule", {"schedule": {"type": "Custom", "cron": "nonsense"}}, 400)


def test_old_audit_records_are_purged(direct, harbor, clock):
    direct.push_image("team/app", "v1", b"layer")
    clock.time += timedelta(hours=48)
    direct.push_image("team/app", "v2", b"layer 2")
    body = {
        "schedule": {"type": "Manual"},
        "parameters": {"audit_retention_hour": 24, "include_operations": "create,pull"},
    }
    harbor.make("/system/purgeaudit/schedule", body)
    direct.hub.jobs.work_off()
    assert [row["resource"] for row in harbor.get("/audit-logs")] == ["team/app:v2"]
    assert harbor.get("/system/purgeaudit")[0]["job_status"] == "Success"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 0 3 * * *", "2026-01-01T03:00:00"),
        ("@hourly", "2026-01-01T01:00:00"),
        ("*/20 * * * * *", "2026-01-01T00:00:20"),
        ("0 30 4 1,15 * *", "2026-01-01T04:30:00"),
        ("0 0 0 * * MON", "2026-01-05T00:00:00"),
        ("0 0 0 29 2 *", "2028-02-29T00:00:00"),
    ],
)
def test_schedules(clock, text, expected):
    due = cron.next_s(text, clock.now().timestamp())
    assert datetime.fromtimestamp(due, UTC).isoformat().startswith(expected)


def test_system_information(direct, harbor):
    assert harbor.get("/ping") is None
    assert harbor.answer.body == b"Pong"
    assert harbor.get("/health")["status"] == "healthy"
    assert "registry_url" in harbor.get("/systeminfo")
    assert "registry_url" not in HarborCalls(direct, "").get("/systeminfo")
    assert harbor.get("/systeminfo/volumes")["storage"][0]["free"] > 0
    harbor(
        "PUT",
        "/configurations",
        {"storage_per_project": 5000, "project_creation_restriction": "adminonly"},
    )
    assert harbor.get("/configurations")["storage_per_project"] == {"value": 5000, "editable": True}
    harbor.make("/projects", {"project_name": "limited"})
    assert harbor.get("/projects/limited/summary")["quota"]["hard"]["storage"] == 5000
    harbor.make("/users", {"username": "somebody", "password": "Passw0rd-x"})
    login = "Basic " + base64.b64encode(b"somebody:Passw0rd-x").decode()
    HarborCalls(direct, login)("POST", "/projects", {"project_name": "mine"}, 403)
    harbor("PUT", "/configurations", {"nonsense": 1}, 400)
    harbor("PUT", "/system/CVEAllowlist", {"items": [{"cve_id": "CVE-1"}]})
    assert harbor.get("/system/CVEAllowlist")["items"] == [{"cve_id": "CVE-1"}]
    for path in (
        "/jobservice/pools",
        "/jobservice/queues",
        "/jobservice/pools/all/workers",
        "/schedules",
        "/permissions",
        "/statistics",
    ):
        harbor.get(path)
