"""Harbor's API: projects, members and the role matrix, users, robots, quotas, labels, audit log."""

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from urllib.parse import quote

import pytest
from tests.capabilities.registry.conftest import image
from tests.capabilities.registry.harbor_calls import HarborCalls

from underway.capabilities.registry.routes.harbor import all_routes
from underway.wire import oci

PASSWORD = "Passw0rd-of-test"


def basic(username, password=PASSWORD):
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@pytest.fixture
def harbor(direct):
    return HarborCalls(direct)


@pytest.fixture
def team(harbor):
    """A private project with one user of each role; gives calls by role."""
    harbor.make("/projects", {"project_name": "team"})
    found = {}
    for role, id in (
        ("admin", 1),
        ("developer", 2),
        ("guest", 3),
        ("maintainer", 4),
        ("limited", 5),
    ):
        harbor.make(
            "/users",
            {
                "username": role + "1",
                "password": PASSWORD,
                "email": f"{role}@x.io",
                "realname": role,
            },
        )
        member = {"role_id": id, "member_user": {"username": role + "1"}}
        harbor.make("/projects/team/members", member)
        found[role] = basic(role + "1")
    harbor.make("/users", {"username": "outsider", "password": PASSWORD})
    return {**found, "outsider": basic("outsider"), "stranger": ""}


def test_projects_are_made_changed_listed_and_deleted(direct, harbor):
    id = harbor.make(
        "/projects", {"project_name": "team", "metadata": {"public": "true"}, "storage_limit": 1000}
    )
    assert (
        harbor.make("/projects", {"project_name": "other"}, x_resource_name_in_location="true")
        == "other"
    )
    found = harbor.get(f"/projects/{id}")
    assert (found["name"], found["metadata"]["public"], found["owner_name"]) == (
        "team",
        "true",
        "admin",
    )
    assert harbor.get("/projects/team") == found
    harbor("PUT", "/projects/team", {"metadata": {"public": "false", "auto_scan": "true"}})
    assert harbor.get("/projects/team")["metadata"] == {"public": "false", "auto_scan": "true"}
    assert [each["name"] for each in harbor.get("/projects?sort=-name")] == ["team", "other"]
    assert [each["name"] for each in harbor.get("/projects?q=name%3D~EA")] == ["team"]
    assert [each["name"] for each in harbor.get("/projects?public=true")] == []
    harbor("HEAD", "/projects?project_name=team")
    harbor("HEAD", "/projects?project_name=none", expect=404)
    assert harbor.error("POST", "/projects", {"project_name": "team"}, 409) == "CONFLICT"
    assert harbor.error("POST", "/projects", {"project_name": "No/Name"}) == "BAD_REQUEST"
    direct.push_image("team/app", "v1", b"layer")
    assert harbor.get("/projects/team/summary")["repo_count"] == 1
    assert harbor.get("/projects/team/_deletable")["deletable"] is False
    assert harbor.error("DELETE", "/projects/team", expect=412) == "PRECONDITION"
    harbor("DELETE", "/projects/team/repositories/app")
    harbor("DELETE", "/projects/team")
    harbor.get("/projects/team", 404)
    operations = [
        (each["operation"], each["resource"]) for each in harbor.get("/audit-logs?page_size=100")
    ]
    assert operations[:2] == [("delete", "team"), ("delete", "team/app")]
    assert ("create", "team/app:v1") in operations


def test_metadata_entries(harbor):
    harbor.make("/projects", {"project_name": "team"})
    harbor("POST", "/projects/team/metadatas", {"auto_scan": "true"})
    assert harbor.get("/projects/team/metadatas/auto_scan") == {"auto_scan": "true"}
    harbor("PUT", "/projects/team/metadatas/public", {"public": "true"})
    assert harbor.get("/projects/team/metadatas") == {"public": "true", "auto_scan": "true"}
    harbor("DELETE", "/projects/team/metadatas/auto_scan")
    harbor.get("/projects/team/metadatas/auto_scan", 404)
    harbor("POST", "/projects/team/metadatas", {"nonsense": "x"}, 400)


def test_pages_have_links_and_totals(harbor):
    for number in range(7):
        harbor.make("/projects", {"project_name": f"p{number}"})
    first = harbor.get("/projects?page_size=3&sort=name")
    assert [each["name"] for each in first] == ["p0", "p1", "p2"]
    assert harbor.answer.headers["x-total-count"] == "7"
    link = harbor.answer.headers["link"]
    assert 'rel="next"' in link
    assert 'rel="prev"' not in link
    harbor.get("/projects?page=3&page_size=3")
    assert 'rel="next"' not in harbor.answer.headers["link"]
    for bad in (
        "page=0",
        "page_size=101",
        "page=x",
        "sort=nonsense",
        "q=name",
        "q=nonsense%3D1",
        "q=name%3D[a",
    ):
        harbor.get(f"/projects?{bad}", 400)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("name={p1 p3}", ["p1", "p3"]),
        ("project_id=[2~3]", ["p1", "p2"]),
        ("name=(p1 p2)", []),
        ("name=~P,public=true", ["p2"]),
        ('name="p1"', ["p1"]),
        ("name=~%", []),
    ],
)
def test_filters(harbor, query, expected):
    for number in range(4):
        harbor.make(
            "/projects",
            {"project_name": f"p{number}", "metadata": {"public": str(number == 2).lower()}},
        )
    found = harbor.get(f"/projects?sort=name&q={quote(query)}")
    assert [each["name"] for each in found] == expected


ROLES = ("admin", "maintainer", "developer", "guest", "limited", "outsider", "stranger")
MATRIX = {
    ("GET", "/projects/team"): "ammdgl",
    ("PUT", "/projects/team"): "a",
    ("GET", "/projects/team/members"): "amdg",
    ("POST", "/projects/team/members"): "a",
    ("GET", "/projects/team/logs"): "amdg",
    ("GET", "/projects/team/repositories"): "amdgl",
    ("PUT", "/projects/team/repositories/app"): "amd",
    ("GET", "/projects/team/repositories/app/artifacts"): "amdgl",
    ("POST", "/projects/team/repositories/app/artifacts/v1/tags"): "amd",
    ("POST", "/projects/team/repositories/app/artifacts/v1/scan"): "am",
    ("POST", "/projects/team/immutabletagrules"): "am",
    ("GET", "/projects/team/robots"): "amdg",
    ("GET", "/projects/team/webhook/policies"): "am",
    ("POST", "/projects/team/webhook/policies"): "a",
    ("DELETE", "/projects/team/repositories/absent"): "am",
    ("GET", "/registries"): "",
    ("GET", "/quotas"): "",
    ("GET", "/users"): "",
    ("GET", "/system/gc"): "",
    ("GET", "/configurations"): "",
}


def test_the_role_matrix(direct, team):
    direct.push_image("team/app", "v1", b"layer")
    for role, ((method, path), allowed) in product(ROLES, MATRIX.items()):
        answer = direct.call(method, f"/api/v2.0{path}", b"{}", authorization=team[role])
        refused = {"stranger": 401}.get(role, 403)
        if role[0] in allowed and role not in ("outsider", "stranger"):
            assert answer.status not in (401, 403), (role, method, path, answer.body)
        else:
            assert answer.status == refused, (role, method, path, answer.status)


def test_roles_hold_for_pulling_and_pushing(direct, team):
    for role in ROLES:
        direct.push_image("team/app", "v1", b"layer")
        check_role(direct, team, role)


def check_role(direct, team, role):
    pulled = direct.call("GET", "/v2/team/app/manifests/v1", authorization=team[role]).status
    assert (pulled == 200) == (role not in ("outsider", "stranger"))
    pushed = direct.call("POST", "/v2/team/app/blobs/uploads/", authorization=team[role]).status
    assert (pushed == 202) == (role in ("admin", "maintainer", "developer"))
    deleted = direct.call("DELETE", "/v2/team/app/manifests/v1", authorization=team[role]).status
    assert (deleted == 202) == (role in ("admin", "maintainer"))


def test_who_may_not_read_learns_nothing_of_what_exists(direct, team):
    direct.push_image("team/app", "v1", b"layer")
    for role in ("outsider", "stranger"):
        check_nothing_is_seen(direct, team, role)


def check_nothing_is_seen(direct, team, role):
    for path in (
        "{}",
        "{}/repositories",
        "{}/repositories/app",
        "{}/repositories/app/artifacts/v1",
        "{}/summary",
        "{}/members/1",
    ):
        answers = [
            direct.call("GET", f"/api/v2.0/projects/{path.format(name)}", authorization=team[role])
            for name in ("team", "absent", "1", "999")
        ]
        assert len({(each.status, each.body) for each in answers}) == 1
    seen = HarborCalls(direct, team[role])
    assert seen.get("/projects") == []
    assert seen.get("/repositories") == []
    assert seen.get("/search?q=app") == {"project": [], "repository": []}
    assert seen.get("/statistics")["total_repo_count"] == 0


def test_a_public_project_is_seen_by_all_and_pushed_to_by_members(direct, team, harbor):
    direct.push_image("team/app", "v1", b"layer")
    harbor("PUT", "/projects/team", {"metadata": {"public": "true"}})
    seen = HarborCalls(direct, "")
    assert [each["name"] for each in seen.get("/projects")] == ["team"]
    assert seen.get("/projects/team/repositories/app/artifacts/v1")["tags"][0]["name"] == "v1"
    seen.get("/projects/team/members", 401)
    assert direct.call("POST", "/v2/team/app/blobs/uploads/", authorization="").status == 401


def test_members_change_their_roles_at_once(direct, team, harbor):
    members = harbor.get("/projects/team/members?entityname=guest")
    assert [(each["entity_name"], each["role_name"]) for each in members] == [("guest1", "guest")]
    one = f"/projects/team/members/{members[0]['id']}"
    harbor("PUT", one, {"role_id": 2})
    assert (
        direct.call("POST", "/v2/team/app/blobs/uploads/", authorization=team["guest"]).status
        == 202
    )
    harbor("DELETE", one)
    assert (
        direct.call("POST", "/v2/team/app/blobs/uploads/", authorization=team["guest"]).status
        == 403
    )
    harbor("PUT", one, {"role_id": 9}, 404)
    harbor(
        "POST", "/projects/team/members", {"role_id": 2, "member_user": {"username": "nobody"}}, 404
    )


def test_users_see_and_change_themselves_alone(direct, team, harbor):
    me = HarborCalls(direct, team["developer"])
    found = me.get("/users/current")
    assert (found["username"], found["sysadmin_flag"]) == ("developer1", False)
    me("PUT", f"/users/{found['user_id']}", {"realname": "Somebody", "email": "a@b.c"})
    assert me.get(f"/users/{found['user_id']}")["realname"] == "Somebody"
    me.get(f"/users/{found['user_id'] + 1}", 403)
    change = {"old_password": "wrong", "new_password": "An0ther-password"}
    me("PUT", f"/users/{found['user_id']}/password", change, 403)
    me("PUT", f"/users/{found['user_id']}/password", {**change, "old_password": PASSWORD})
    me.get("/users/current", 401)
    again = HarborCalls(direct, basic("developer1", "An0ther-password"))
    again.get("/users/current")
    harbor("PUT", f"/users/{found['user_id']}/sysadmin", {"sysadmin_flag": True})
    assert again.get("/users?q=username%3D~dev")[0]["username"] == "developer1"
    harbor("DELETE", f"/users/{found['user_id']}")
    again.get("/users/current", 401)
    harbor("POST", "/users", {"username": "x", "password": "simple"}, 400)
    harbor("POST", "/users", {"username": "robot$x", "password": PASSWORD}, 400)


def robot(kind, namespace, *rights):
    access = [dict(zip(("resource", "action"), right.split(":"), strict=True)) for right in rights]
    return {"kind": kind, "namespace": namespace, "access": access}


def test_robots_of_projects_and_of_the_registry(direct, team, harbor):
    direct.push_image("team/app", "v1", b"layer")
    direct.push_image("other/app", "v1", b"layer")
    body = {
        "name": "ci",
        "level": "project",
        "duration": -1,
        "permissions": [robot("project", "team", "repository:pull")],
    }
    made = harbor("POST", "/robots", body, 201)
    assert made["name"] == "robot$team+ci"
    mine = basic(made["name"], made["secret"])
    pull = [
        direct.call("GET", f"/v2/{name}/app/manifests/v1", authorization=mine).status
        for name in ("team", "other")
    ]
    assert pull == [200, 403]
    assert HarborCalls(direct, mine).get("/projects/team/repositories", 403)
    everywhere = {
        "name": "all",
        "level": "system",
        "duration": 30,
        "permissions": [
            robot("project", "*", "repository:pull", "repository:list"),
            robot("system", "/", "project:create", "catalog:read"),
        ],
    }
    made = harbor("POST", "/robots", everywhere, 201)
    all_ = basic(made["name"], made["secret"])
    assert made["name"] == "robot$all"
    pull = [
        direct.call("GET", f"/v2/{name}/app/manifests/v1", authorization=all_).status
        for name in ("team", "other")
    ]
    assert pull == [200, 200]
    assert direct.call("GET", "/v2/_catalog", authorization=all_).status == 200
    HarborCalls(direct, all_).make("/projects", {"project_name": "made"})
    HarborCalls(direct, all_).get("/projects/team/members", 403)
    # Who administers a project makes robots for that, and for no other.
    lead = HarborCalls(direct, team["admin"])
    lead("POST", "/robots", {**body, "name": "own"}, 201)
    lead(
        "POST",
        "/robots",
        {**body, "permissions": [robot("project", "other", "repository:pull")]},
        403,
    )
    lead("POST", "/robots", everywhere, 403)
    id = harbor.get("/robots?q=name%3Dall")[0]["id"]
    renewed = harbor("PATCH", f"/robots/{id}", {"secret": ""})["secret"]
    assert direct.call("GET", "/v2/", authorization=all_).status == 401
    assert direct.call("GET", "/v2/", authorization=basic("robot$all", renewed)).status == 200
    harbor("PUT", f"/robots/{id}", {**everywhere, "disable": True})
    assert direct.call("GET", "/v2/", authorization=basic("robot$all", renewed)).status == 401
    harbor("DELETE", f"/robots/{id}")
    harbor.get(f"/robots/{id}", 404)


def test_quotas_count_shared_layers_once_and_refuse_what_is_too_much(direct, harbor):
    id = harbor.make("/projects", {"project_name": "team"})
    direct.push_image("team/a", "v1", b"x" * 1000)
    used = harbor.get(f"/quotas/{id}")["used"]["storage"]
    manifest = direct.call("GET", "/v2/team/a/manifests/v1").body
    assert used == 1000 + 2 + len(manifest)
    direct.push_image("team/b", "v1", b"x" * 1000)
    direct.push_image("team/a", "v2", b"x" * 1000)
    assert harbor.get(f"/quotas/{id}")["used"]["storage"] == used
    harbor("PUT", f"/quotas/{id}", {"hard": {"storage": used + 500}})
    refused = direct.call(
        "POST", f"/v2/team/a/blobs/uploads/?digest={oci.digest_of(b'y' * 501)}", b"y" * 501
    )
    assert (refused.status, json.loads(refused.body)["errors"][0]["code"]) == (403, "DENIED")
    direct.call("DELETE", f"/v2/team/a/manifests/{oci.digest_of(manifest)}")
    assert harbor.get(f"/quotas/{id}")["used"]["storage"] == used
    direct.call("DELETE", f"/v2/team/b/manifests/{oci.digest_of(manifest)}")
    assert harbor.get(f"/quotas/{id}")["used"]["storage"] == 0
    assert (
        harbor.get(f"/quotas?reference=project&reference_id={id}")[0]["hard"]["storage"]
        == used + 500
    )


def test_concurrent_pushes_never_exceed_a_quota(direct, harbor):
    limit = 5 * 1400
    id = harbor.make("/projects", {"project_name": "team", "storage_limit": limit})

    def push(number):
        config = direct.call(
            "POST", f"/v2/team/r{number}/blobs/uploads/?digest={oci.digest_of(b'{}')}", b"{}"
        ).status
        data = bytes([number]) * 1000
        blob = direct.call(
            "POST", f"/v2/team/r{number}/blobs/uploads/?digest={oci.digest_of(data)}", data
        ).status
        content = image(
            {"digest": oci.digest_of(b"{}"), "size": 2},
            [{"digest": oci.digest_of(data), "size": 1000}],
        )
        made = direct.call(
            "PUT",
            f"/v2/team/r{number}/manifests/v1",
            json.dumps(content).encode(),
            content_type=oci.MANIFEST,
        )
        return config, blob, made.status

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(push, range(24)))
    accepted = sum(made == 201 for _, _, made in results)
    used = harbor.get(f"/quotas/{id}")["used"]["storage"]
    assert used <= limit
    assert 3 <= accepted <= 6
    assert len(harbor.get("/projects/team/repositories")) == accepted


def test_labels(direct, harbor, team):
    direct.push_image("team/app", "v1", b"layer")
    project = harbor.get("/projects/team")["project_id"]
    mine = int(
        harbor.make(
            "/labels", {"name": "good", "color": "#00ff00", "scope": "p", "project_id": project}
        )
    )
    everywhere = int(harbor.make("/labels", {"name": "all", "scope": "g"}))
    harbor("POST", "/labels", {"name": "good", "scope": "p", "project_id": project}, 409)
    one = "/projects/team/repositories/app/artifacts/v1"
    for id in (mine, everywhere):
        harbor("POST", f"{one}/labels", {"id": id})
    harbor("POST", f"{one}/labels", {"id": mine}, 409)
    found = harbor.get(f"{one}?with_label=true")["labels"]
    assert sorted(each["name"] for each in found) == ["all", "good"]
    listed = harbor.get(f"/projects/team/repositories/app/artifacts?q=labels%3D({mine})")
    assert len(listed) == 1
    harbor("DELETE", f"{one}/labels/{mine}")
    assert harbor.get(f"/projects/team/repositories/app/artifacts?q=labels%3D({mine})") == []
    HarborCalls(direct, team["outsider"]).get(f"/labels?scope=p&project_id={project}", 403)
    HarborCalls(direct, team["guest"])(
        "POST", "/labels", {"name": "x", "scope": "p", "project_id": project}, 403
    )
    harbor("DELETE", f"/labels/{mine}")
    assert [each["name"] for each in harbor.get(f"/labels?scope=p&project_id={project}")] == []


def test_browsers_log_in_and_need_their_token_to_change_anything(direct, team):
    form = f"principal=developer1&password={PASSWORD}".encode()
    answer = direct.call("POST", "/c/login", form, authorization="")
    cookie = answer.headers["set-cookie"].partition(";")[0]
    assert "HttpOnly" in answer.headers["set-cookie"]
    shown = direct.call("GET", "/api/v2.0/users/current", authorization="", cookie=cookie)
    token = shown.headers["x-harbor-csrf-token"]
    assert json.loads(shown.body)["username"] == "developer1"
    path, body = "/api/v2.0/projects", b'{"project_name": "made"}'
    forged = direct.call("POST", path, body, authorization="", cookie=cookie)
    assert forged.status == 403
    made = direct.call(
        "POST", path, body, authorization="", cookie=cookie, x_harbor_csrf_token=token
    )
    assert made.status == 201
    assert (
        direct.call(
            "POST", "/c/login", b"principal=developer1&password=no", authorization=""
        ).status
        == 401
    )
    assert (
        direct.call("GET", "/api/v2.0/users/current", authorization="", cookie="sid=x.y.z").status
        == 401
    )


def test_errors_are_harbors(direct, harbor):
    for method, path, expect, code in (
        ("GET", "/nonsense", 404, "NOT_FOUND"),
        ("PATCH", "/projects", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/projects", 400, "BAD_REQUEST"),
        ("GET", "/projects/none", 404, "NOT_FOUND"),
        ("GET", "/users/" + "9" * 40, 404, "NOT_FOUND"),
    ):
        assert harbor.error(method, path, None, expect) == code
        assert harbor.answer.headers["x-request-id"]
    broken = direct.call("POST", "/api/v2.0/projects", b"[1")
    assert broken.status == 400
    assert direct.call("POST", "/api/v2.0/projects", b"x" * 2_000_000).status == 413


def test_no_handler_fails_on_hostile_bodies(direct, harbor):
    """Every POST and PUT answers, below 500, whatever the body's types."""
    harbor.make("/projects", {"project_name": "team"})
    direct.push_image("team/app", "v1", b"layer")
    bodies = [
        {},
        {"name": 1, "project_name": [], "permissions": {}, "level": 3, "metadata": {"public": {}}},
    ]
    for method, path, _, _ in all_routes():
        if method not in ("POST", "PUT", "PATCH") or "retentions" in path:
            continue
        for name, value in (
            ("project_name_or_id", "team"),
            ("project_name", "team"),
            ("repository_name", "app"),
            ("reference", "v1"),
        ):
            path = path.replace(f"{{{name}}}", value)
        path = re.sub(r"\{\w+\}", "7", path)
        for body in bodies:
            answer = direct.call(method, f"/api/v2.0{path}", json.dumps(body).encode())
            assert answer.status < 500, (method, path, answer.body)
