"""The audit log tells who changed what, and never what was written."""

import json

from tests.server.running import configmap, pod, request, serve

from underway.api.resources import (
    CONFIGMAPS,
    PODS,
    SECRETS,
    VALIDATINGADMISSIONPOLICIES,
    VALIDATINGADMISSIONPOLICYBINDINGS,
)
from underway.base.clock import SystemClock
from underway.base.home import Home
from underway.server.audit import AuditLog, Seen
from underway.server.identity import Attributes, User
from underway.wire.http import Response


def lines(root):
    return [json.loads(line) for line in (Home(root).logs / "audit.log").read_text().splitlines()]


def of(events, resource):
    return [e for e in events if e["objectRef"]["resource"] == resource]


def test_writes_are_recorded_and_reads_are_not(tmp_path):
    async def scenario(server, client):
        await client.create(CONFIGMAPS, configmap("a", key="value"), "default")
        await client.get(CONFIGMAPS, "a", "default")
        await client.delete(CONFIGMAPS, "a", "default")
        nobody = server.as_user("nobody")
        path = "/api/v1/namespaces/default/configmaps/a"
        assert (await nobody(request("DELETE", path, user_agent="curl/8"))).status == 403

    serve(tmp_path, scenario)
    made, gone, refused = of(lines(tmp_path), "configmaps")
    assert (made["verb"], made["responseStatus"]["code"]) == ("create", 201)
    assert made["user"]["username"] == "admin"
    assert (made["level"], made["stage"]) == ("Metadata", "ResponseComplete")
    assert made["objectRef"] == {
        "resource": "configmaps",
        "namespace": "default",
        "apiVersion": "v1",
    }
    assert (gone["verb"], gone["objectRef"]["name"]) == ("delete", "a")
    assert refused["responseStatus"]["code"] == 403
    assert refused["annotations"] == {"authorization.k8s.io/decision": "forbid"}
    assert refused["userAgent"] == "curl/8"


def test_reaching_into_a_pod_is_recorded_with_both_users(tmp_path):
    async def forward(_place, _request, _path):
        return Response()

    async def scenario(server, client):
        await client.create(PODS, pod("web"), "default")
        status = {"status": {"podIP": "10.244.0.5"}}
        await client.patch(PODS, "web", status, "default", subresource="status")
        admin = server.as_user("admin", ["system:masters"])
        path = "/api/v1/namespaces/default/pods/web:80/proxy/"
        sent = request("GET", path, impersonate_user="jane", impersonate_group="system:masters")
        assert (await admin(sent)).status == 200

    serve(tmp_path, scenario, forward=forward)
    (event,) = (e for e in lines(tmp_path) if e["objectRef"].get("subresource") == "proxy")
    assert event["user"]["username"] == "admin"
    assert event["impersonatedUser"]["username"] == "jane"


def test_no_secret_is_in_it(tmp_path):
    async def scenario(server, client):
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s"},
            "stringData": {"password": "hunter2"},
        }
        await client.create(SECRETS, secret, "default")
        admin = server.as_user("admin", ["system:masters"])
        body = b'{"metadata":{"name":"t"},"data":{"password":"hunter2!"}}'
        path = "/api/v1/namespaces/default/secrets"
        sent = request("POST", path, body=body, content_type="application/json")
        sent.headers["authorization"] = "Bearer hunter2"
        assert (await admin(sent)).status >= 400

    serve(tmp_path, scenario)
    text = (Home(tmp_path).logs / "audit.log").read_text()
    assert len(of([json.loads(line) for line in text.splitlines()], "secrets")) == 2
    assert "hunter2" not in text


def filled(log, times):
    seen = Seen(SystemClock().now(), User("a"), User("a"), Attributes("create", "", "v1", "pods"))
    for _ in range(times):
        log.record(request("POST", "/api/v1/namespaces/default/pods"), seen, 201)


def test_the_log_takes_no_more_room_than_it_may(tmp_path):
    path = tmp_path / "audit.log"
    log = AuditLog(path, SystemClock(), size_limit_bytes=2000, kept_files=2)
    filled(log, 40)
    log.close()
    files = sorted(each.name for each in tmp_path.iterdir())
    assert files == ["audit.log", "audit.log.1", "audit.log.2"]
    assert all(each.stat().st_size <= 2000 for each in tmp_path.iterdir())
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_written_holds_up_nobody(tmp_path):
    (tmp_path / "file").write_text("")
    log = AuditLog(tmp_path / "file" / "audit.log", SystemClock())
    filled(log, 2)
    log.close()


def test_what_policies_note_is_in_the_log(tmp_path):
    group = "admissionregistration.k8s.io/v1"
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"]}
    policy = {
        "apiVersion": group,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "p"},
        "spec": {
            "matchConstraints": {"resourceRules": [{**rule, "resources": ["configmaps"]}]},
            "validations": [{"expression": "false", "message": "never"}],
            "auditAnnotations": [{"key": "who", "valueExpression": "request.userInfo.username"}],
        },
    }
    binding = {
        "apiVersion": group,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "b"},
        "spec": {"policyName": "p", "validationActions": ["Audit"]},
    }

    async def scenario(_server, client):
        await client.create(VALIDATINGADMISSIONPOLICIES, policy)
        await client.create(VALIDATINGADMISSIONPOLICYBINDINGS, binding)
        await client.create(CONFIGMAPS, configmap("a"), "default")

    serve(tmp_path, scenario)
    (made,) = of(lines(tmp_path), "configmaps")
    assert made["annotations"]["p/who"] == "admin"
    failures = made["annotations"]["validation.policy.admission.k8s.io/validation_failure"]
    assert json.loads(failures) == [
        {"message": "never", "policy": "p", "binding": "b", "validationActions": ["Audit"]}
    ]
