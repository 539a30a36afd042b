"""Tokens, projects and robots: who may do what, and what strangers learn."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from tests.capabilities.registry.conftest import Direct, environment

from underway.base.errors import AlreadyExists, BadRequest, Conflict, NotFound
from underway.base.home import Home
from underway.capabilities.registry import cli
from underway.capabilities.registry.backend.tokens import TokenKey
from underway.capabilities.registry.model import NameUnknown
from underway.capabilities.registry.rules import access, roles
from underway.wire import oci

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOST = {"host": "registry.example:5000"}


class Clock:
    """Stands still until told otherwise."""

    def __init__(self):
        self.time = NOW

    def now(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def direct(tmp_path, clock):
    made = Direct(Home(tmp_path), clock=clock)
    made.hub.projects.create("team")
    made.push_image("team/app", "v1", b"layer of the team")
    made.push_image("other/app", "v1", b"layer of others")
    return made


@pytest.fixture
def hub(direct):
    return direct.hub


def basic(username, password):
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def robot(hub, *permissions, name="ci", **more):
    allowed = roles.image_permission("team", access.permissions_of(permissions))
    _, secret = hub.robots.create(name, [allowed], project="team", **more)
    return basic(f"robot$team+{name}", secret)


def claims(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def get_token(direct, authorization, *scopes):
    query = "&".join(f"scope={scope}" for scope in scopes)
    answer = direct.call(
        "GET", f"/service/token?service=underway-registry&{query}", authorization=authorization
    )
    assert answer.status == 200, answer.body
    return json.loads(answer.body)["token"]


def status(direct, method, path, authorization, body=b"", **headers):
    return direct.call(method, path, body, authorization=authorization, **HOST, **headers).status


# -- tokens ---------------------------------------------------------------------------------------


def test_a_stranger_is_told_where_to_get_a_token(direct):
    answer = direct.call("GET", "/v2/team/app/manifests/v1", authorization="", **HOST)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == (
        'Bearer realm="https://registry.example:5000/service/token",'
        'service="underway-registry",scope="repository:team/app:pull"'
    )
    push = direct.call("POST", "/v2/team/app/blobs/uploads/", authorization="", **HOST)
    assert 'scope="repository:team/app:pull,push"' in push.headers["www-authenticate"]
    base = direct.call("GET", "/v2/", authorization="", **HOST)
    assert "scope" not in base.headers["www-authenticate"]


def test_a_token_allows_what_it_says_and_no_more(direct):
    token = get_token(direct, direct.authorization["authorization"], "repository:team/app:pull")
    found = claims(token)
    assert found["access"] == [{"type": "repository", "name": "team/app", "actions": ["pull"]}]
    assert (found["sub"], found["exp"] - found["iat"]) == ("admin", access.TOKEN_S)
    bearer = f"Bearer {token}"
    assert status(direct, "GET", "/v2/", bearer) == 200
    assert status(direct, "GET", "/v2/team/app/manifests/v1", bearer) == 200
    for method, path in (
        ("GET", "/v2/other/app/manifests/v1"),
        ("POST", "/v2/team/app/blobs/uploads/"),
        ("DELETE", "/v2/team/app/manifests/v1"),
        ("GET", "/v2/_catalog"),
    ):
        answer = direct.call(method, path, authorization=bearer, **HOST)
        assert answer.status == 401
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


def test_a_token_ends(direct, clock):
    bearer = f"Bearer {get_token(direct, direct.authorization['authorization'])}"
    clock.time += timedelta(seconds=access.TOKEN_S - 1)
    assert status(direct, "GET", "/v2/", bearer) == 200
    clock.time += timedelta(seconds=1)
    answer = direct.call("GET", "/v2/", authorization=bearer, **HOST)
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_forged_tokens_are_refused(direct):
    good = get_token(direct, direct.authorization["authorization"], "registry:catalog:*")
    header, payload, signature = good.split(".")
    other = TokenKey(ec.generate_private_key(ec.SECP256R1())).sign(claims(good))
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    for forged in (
        other,
        f"{unsigned}.{payload}.",
        f"{unsigned}.{payload}.{signature}",
        f"{header}.{payload}.{'A' * 86}",
        f"{header}.{payload}",
        "a.b.c",
        "x" * 20_000,
        "",
    ):
        assert status(direct, "GET", "/v2/_catalog", f"Bearer {forged}") == 401
    assert status(direct, "GET", "/v2/_catalog", f"Bearer {good}") == 200


def test_a_token_is_given_for_a_password_alone(direct):
    bearer = f"Bearer {get_token(direct, direct.authorization['authorization'])}"
    for given in (bearer, "", basic("admin", "wrong"), "Basic !"):
        assert status(direct, "GET", "/service/token?scope=registry:catalog:*", given) == 401
    assert status(direct, "DELETE", "/service/token", "") == 405


def test_a_token_by_post(direct):
    username, password = direct.login
    form = f"grant_type=password&username={username}&password={password}"
    made = direct.call("POST", "/service/token", f"{form}&scope=registry:catalog:*".encode())
    bearer = f"Bearer {json.loads(made.body)['access_token']}"
    assert status(direct, "GET", "/v2/_catalog", bearer) == 200
    assert direct.call("POST", "/service/token", b"grant_type=refresh_token").status == 400
    wrong = b"grant_type=password&username=admin&password=no"
    assert direct.call("POST", "/service/token", wrong).status == 401


@pytest.mark.parametrize("scope", ["junk", "repository:x", "repository::pull", ":x:pull"])
def test_a_malformed_scope_is_refused(direct, scope):
    asked = f"/service/token?scope={scope}"
    assert status(direct, "GET", asked, direct.authorization["authorization"]) == 400


def test_too_many_scopes_are_refused(direct):
    asked = "/service/token?scope=" + "+".join(["repository:a:pull"] * 65)
    assert status(direct, "GET", asked, direct.authorization["authorization"]) == 400


def test_a_mount_with_a_token_that_lacks_its_source_asks_for_both(direct):
    admin = direct.authorization["authorization"]
    digest = oci.digest_of(b"layer of others")
    path = f"/v2/team/app/blobs/uploads/?mount={digest}&from=other/app"
    bearer = f"Bearer {get_token(direct, admin, 'repository:team/app:pull,push')}"
    answer = direct.call("POST", path, authorization=bearer, **HOST)
    assert answer.status == 401
    wanted = 'scope="repository:team/app:pull,push repository:other/app:pull"'
    assert wanted in answer.headers["www-authenticate"]
    both = ("repository:team/app:pull,push", "repository:other/app:pull")
    assert status(direct, "POST", path, f"Bearer {get_token(direct, admin, *both)}") == 201


# -- robots ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_token", [True, False])
def test_a_robot_does_what_it_may_in_its_project_alone(direct, hub, by_token):
    password = robot(hub, "pull")
    digest = direct.call("HEAD", "/v2/team/app/manifests/v1").headers["docker-content-digest"]
    refused = 401 if by_token else 403

    def call(method, repository, rest):
        given = password
        if by_token:
            scope = f"repository:{repository}:*"
            given = f"Bearer {get_token(direct, password, scope)}"
        return status(direct, method, f"/v2/{repository}/{rest}", given)

    assert call("GET", "team/app", "manifests/v1") == 200
    assert call("GET", "team/app", "tags/list") == 200
    assert call("POST", "team/app", "blobs/uploads/") == refused
    assert call("PUT", "team/app", "manifests/v2") == refused
    assert call("DELETE", "team/app", f"manifests/{digest}") == refused
    # Whether it exists or not, the answer is the same.
    for repository in ("other/app", "other/absent", "team-2/app", "teams", "absent"):
        assert call("GET", repository, "manifests/v1") == refused
        assert call("GET", repository, "tags/list") == refused
    assert status(direct, "GET", "/v2/_catalog", password) == 403


def test_pushing_includes_pulling_but_not_deleting(direct, hub):
    pusher, deleter = robot(hub, "push"), robot(hub, "delete", name="janitor")
    path = "/v2/team/new/blobs/uploads/?digest=" + oci.digest_of(b"new")
    assert status(direct, "POST", path, pusher, b"new") == 201
    blob = "/v2/team/new/blobs/" + oci.digest_of(b"new")
    assert status(direct, "GET", blob, pusher) == 200
    assert status(direct, "DELETE", blob, pusher) == 403
    assert status(direct, "GET", blob, deleter) == 403
    assert status(direct, "DELETE", blob, deleter) == 202


def test_mounting_reveals_nothing_of_other_projects(direct, hub):
    pusher = robot(hub, "push")
    for data, source in ((b"layer of others", "other/app"), (b"absent", "other/app")):
        for more in ("", f"&from={source}"):
            path = f"/v2/team/app/blobs/uploads/?mount={oci.digest_of(data)}{more}"
            assert status(direct, "POST", path, pusher) == 202
    own = f"/v2/team/copy/blobs/uploads/?mount={oci.digest_of(b'layer of the team')}"
    assert status(direct, "POST", own, pusher) == 201
    assert status(direct, "POST", own + "&from=team/app", pusher) == 201


def test_a_deleted_robot_can_do_nothing_at_once(direct, hub):
    password = robot(hub, "pull")
    bearer = f"Bearer {get_token(direct, password, 'repository:team/app:pull')}"
    for given in (password, bearer):
        assert status(direct, "GET", "/v2/team/app/manifests/v1", given) == 200
    hub.robots.delete("team", "ci")
    for given in (password, bearer):
        assert status(direct, "GET", "/v2/team/app/manifests/v1", given) == 401


def test_a_robots_time_ends(direct, hub, clock):
    password = robot(hub, "pull", duration_days=1)
    assert status(direct, "GET", "/v2/", password) == 200
    clock.time += timedelta(days=1)
    assert status(direct, "GET", "/v2/", password) == 401


@pytest.mark.parametrize(
    "username", ["robot$team+no", "robot$absent+ci", "robot$../x+ci", "robot$+ci", "robot$team", ""]
)
def test_unknown_robots_are_refused(direct, hub, username):
    robot(hub, "pull")
    assert status(direct, "GET", "/v2/", basic(username, "x")) == 401


def test_secrets_are_not_kept(direct, hub):
    secret = base64.b64decode(robot(hub, "pull").split()[1]).decode().partition(":")[2]
    files = [file for file in direct.home.registry.rglob("*") if file.is_file()]
    assert not any(secret.encode() in file.read_bytes() for file in files)
    kept = direct.home.registry / "registry.db"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert (direct.home.registry / "token.key").stat().st_mode & 0o777 == 0o600


# -- projects -------------------------------------------------------------------------------------


def test_everybody_may_pull_from_a_public_project_and_strangers_by_token(direct, hub):
    hub.projects.update(hub.projects.get("other").id, {"public": True})
    reader = robot(hub, "pull")
    stranger = f"Bearer {get_token(direct, '', 'repository:other/app:pull,push')}"
    for given in (reader, stranger, ""):
        assert status(direct, "GET", "/v2/other/app/manifests/v1", given) == 200
        assert status(direct, "POST", "/v2/other/app/blobs/uploads/", given) in (401, 403)
        assert status(direct, "DELETE", "/v2/other/app/manifests/v1", given) in (401, 403)
    assert status(direct, "GET", "/v2/team/app/manifests/v1", stranger) == 401
    assert status(direct, "GET", "/v2/", "") == 401


def test_a_sparse_project_takes_what_others_refuse(direct, hub):
    hub.projects.create("sparse", sparse=True)
    entry = {"mediaType": oci.MANIFEST, "digest": "sha256:" + "0" * 64, "size": 1}
    data = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    for name, expected in (("sparse", 201), ("team", 404)):
        path = f"/v2/{name}/app/manifests/all"
        assert direct.call("PUT", path, data, content_type=oci.INDEX).status == expected


@pytest.mark.parametrize("name", ["a/b", "", "..", "UPPER", ".x", "a b"])
def test_project_names_are_checked(hub, name):
    for call in (hub.projects.create, hub.projects.get):
        with pytest.raises(BadRequest):
            call(name)


def test_projects_and_robots_are_made_once(hub):
    robot(hub, "pull")
    with pytest.raises(AlreadyExists):
        hub.projects.create("team")
    with pytest.raises(AlreadyExists):
        robot(hub, "pull")
    allowed = [roles.image_permission("absent", ["pull"])]
    with pytest.raises(NotFound):
        hub.robots.create("ci", allowed, project="absent")
    with pytest.raises(BadRequest):
        hub.robots.create("other", allowed, project="team")
    for permissions in ([], ["fly"]):
        with pytest.raises(BadRequest):
            robot(hub, *permissions, name="x")
    for name in ("", "a+b", "A", "../x"):
        with pytest.raises(BadRequest):
            robot(hub, "pull", name=name)


# -- the command line -----------------------------------------------------------------------------


def invoke(direct, *args, given=None):
    with environment(UNDERWAY_HOME=str(direct.home.root)):
        return CliRunner().invoke(cli.registry, args, input=given)


def told(direct, *args, given=None):
    done = invoke(direct, *args, given=given)
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done.output


def test_projects_by_the_command_line(direct):
    told(direct, "project", "create", "open", "--public")
    rows = json.loads(told(direct, "project", "list", "-o", "json"))
    assert [(row["name"], row["public"], row["repositories"]) for row in rows] == [
        ("open", True, 0),
        ("other", False, 1),
        ("team", False, 1),
    ]
    assert told(direct, "project", "list").splitlines()[0].split()[:2] == ["open", "public"]
    told(direct, "project", "update", "open", "--private", "--quota-bytes", "1000")
    shown = json.loads(told(direct, "project", "show", "open", "-o", "json"))
    assert (shown["public"], shown["quotaBytes"]) == (False, 1000)
    told(direct, "project", "delete", "open")
    assert isinstance(invoke(direct, "project", "delete", "team").exception, Conflict)
    assert isinstance(invoke(direct, "project", "delete", "none").exception, NotFound)


def test_robots_by_the_command_line(direct):
    args = ("--allow", "push", "--expires-days", "30", "-o", "json")
    made = json.loads(told(direct, "robot", "create", "team", "ci", *args))
    assert made["permissions"] == ["pull", "push"]
    given = basic(made["username"], made["secret"])
    assert status(direct, "GET", "/v2/team/app/manifests/v1", given) == 200
    (row,) = json.loads(told(direct, "robot", "list", "-o", "json"))
    assert row["username"] == "robot$team+ci"
    assert "secret" not in row
    told(direct, "robot", "delete", "team", "ci")
    assert "No robots" in told(direct, "robot", "list", "team")
    assert status(direct, "GET", "/v2/", given) == 401


def test_logging_in_keeps_what_the_file_held(direct, tmp_path):
    file = tmp_path / "somewhere" / "auth.json"
    told(direct, "login", "--authfile", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    content = json.loads(file.read_bytes())
    content["auths"]["quay.io"] = {"auth": "x"}
    content["credHelpers"] = {"gcr.io": "y"}
    file.write_text(json.dumps(content))
    robot_login = ("--username", "robot$team+ci", "--password-stdin", "--authfile", str(file))
    told(direct, "login", *robot_login, given="s3cret\n")
    content = json.loads(file.read_bytes())
    assert content["credHelpers"] == {"gcr.io": "y"}
    assert set(content["auths"]) == {"quay.io", "127.0.0.1:5000"}
    assert basic("robot$team+ci", "s3cret").endswith(content["auths"]["127.0.0.1:5000"]["auth"])
    file.write_text("[]")
    assert isinstance(invoke(direct, "login", "--authfile", str(file)).exception, BadRequest)


def test_printing_a_login(direct):
    printed = json.loads(told(direct, "login", "--print", "-o", "json"))
    assert printed == json.loads(direct.home.registry_auth.read_bytes())
    assert direct.login[1] in told(direct, "login", "--print")


def test_repositories_tags_and_artifacts_by_the_command_line(direct):
    digest = direct.call("HEAD", "/v2/team/app/manifests/v1").headers["docker-content-digest"]
    rows = json.loads(told(direct, "repo", "list", "--project", "team", "-o", "json"))
    assert rows == [{"repository": "team/app", "tags": 1, "artifacts": 1}]
    assert json.loads(told(direct, "repo", "show", "team/app", "-o", "json"))["tagNames"] == ["v1"]
    assert told(direct, "tag", "list", "team/app").split()[:2] == ["v1", digest]
    assert digest in told(direct, "tag", "show", "team/app:v1")
    about = json.loads(told(direct, "artifact", "show", f"team/app@{digest}", "-o", "json"))
    assert about["tags"] == ["v1"]
    assert len(about["parts"]) == 2
    told(direct, "tag", "delete", "team/app:v1")
    assert json.loads(told(direct, "artifact", "list", "team/app", "-o", "json"))[0]["tags"] == []
    assert "Deleted" in told(direct, "artifact", "delete", f"team/app@{digest}")
    assert "No artifacts" in told(direct, "artifact", "list", "team/app")
    told(direct, "repo", "delete", "other/app")
    assert status(direct, "GET", "/v2/other/app/tags/list", basic(*direct.login)) == 404
    assert isinstance(invoke(direct, "tag", "show", "team/app@x").exception, BadRequest)
    assert isinstance(invoke(direct, "artifact", "show", "../x:y").exception, BadRequest)
    assert isinstance(invoke(direct, "repo", "delete", "absent").exception, NameUnknown)
