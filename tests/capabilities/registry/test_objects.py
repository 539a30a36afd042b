"""The registry by Kubernetes objects, and the cluster's own accounts in the registry."""

import asyncio
import base64
import json
from importlib import resources

import yaml
from tests.capabilities.registry.conftest import Direct, NoPorts
from tests.cluster import cluster

from underway.api.objects import find_condition
from underway.api.resources import NAMESPACES, SECRETS, SERVICEACCOUNTS
from underway.base.home import Home
from underway.capabilities.registry import controller, routes
from underway.capabilities.registry.backend.hub import shared
from underway.capabilities.registry.controller import objects
from underway.client import kubeconfig
from underway.dist.assembly import install_crd
from underway.testing import Cluster
from underway.transport.registry import credentials


class Shared(Direct):
    """The registry that the controllers of a home use."""

    def __init__(self, home):
        self.home = home
        self.hub = shared(home)
        self.handler = routes.serve(self.hub, NoPorts())

    async def status(self, method, path, authorization, body=b""):
        self.authorization = {"authorization": authorization}
        return (await self.acall(method, path, body)).status


def obj(kind, name, spec, namespace=None):
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": "registry.underway.dev/v1alpha1",
        "kind": kind,
        "metadata": meta,
        "spec": spec,
    }


def run(tmp_path, main):
    async def whole():
        async with cluster(tmp_path) as env:
            text = (
                resources.files("underway.capabilities.registry.crds")
                .joinpath("registry.yaml")
                .read_text()
            )
            for crd in yaml.safe_load_all(text):
                await install_crd(env.client, crd)
            await env.add(controller.setup)
            async with asyncio.timeout(40):
                await main(env.client, Shared(Home(tmp_path)))

    asyncio.run(whole())


async def ready(client, resource, name, namespace=None, status="True"):
    while True:
        found = await client.get(resource, name, namespace)
        condition = find_condition((found.get("status") or {}).get("conditions"), "Ready")
        if (
            condition
            and condition["status"] == status
            and condition.get("observedGeneration") == found["metadata"]["generation"]
        ):
            return found
        await asyncio.sleep(0.02)


async def gone(client, resource, name, namespace=None):
    while True:
        found = await client.list(resource, namespace)
        if name not in [each["metadata"]["name"] for each in found.items]:
            return
        await asyncio.sleep(0.02)


def credentials_in(secret, host):
    config = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
    return f"Basic {config['auths'][host]['auth']}"


def test_a_project_and_its_robot_and_the_pull_secrets_of_a_namespace(tmp_path):
    async def main(client, registry):
        await client.create(
            NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "apps"}}
        )
        spec = {
            "quotaBytes": 5000,
            "namespaces": ["apps"],
            "members": [{"name": "system:serviceaccounts:apps", "role": "developer"}],
        }
        await client.create(objects.PROJECTS, obj("Project", "team", spec))
        found = await ready(client, objects.PROJECTS, "team")
        assert found["status"]["pullSecrets"] == ["apps/registry-team"]
        assert registry.hub.projects.row("team")["quota_bytes"] == 5000
        secret = await client.get(SECRETS, "registry-team", "apps")
        login = credentials_in(secret, registry.hub.host)
        assert await registry.status("GET", "/v2/", login) == 200
        assert await registry.status("POST", "/v2/team/app/blobs/uploads/", login) == 403
        for _ in range(400):
            account = await client.get(SERVICEACCOUNTS, "default", "apps")
            if account.get("imagePullSecrets"):
                break
            await asyncio.sleep(0.02)
        assert account["imagePullSecrets"] == [{"name": "registry-team"}]

        await client.create(
            objects.ROBOTS, obj("Robot", "ci", {"project": "team", "permissions": ["push"]}, "apps")
        )
        robot = await ready(client, objects.ROBOTS, "ci", "apps")
        assert robot["status"]["username"] == "robot$team+apps.ci"
        secret = await client.get(SECRETS, "ci", "apps")
        pushing = credentials_in(secret, registry.hub.host)
        assert await registry.status("POST", "/v2/team/app/blobs/uploads/", pushing) == 202
        await client.patch(objects.ROBOTS, "ci", {"spec": {"permissions": ["pull"]}}, "apps")
        await ready(client, objects.ROBOTS, "ci", "apps")
        assert await registry.status("GET", "/v2/", pushing) == 401
        await client.delete(objects.ROBOTS, "ci", "apps")
        await gone(client, objects.ROBOTS, "ci", "apps")
        assert registry.hub.robots.find("team", "apps.ci") is None

        await client.patch(objects.PROJECTS, "team", {"spec": {"public": True}})
        await ready(client, objects.PROJECTS, "team")
        assert registry.hub.projects.find("team").public
        await client.delete(objects.PROJECTS, "team")
        await gone(client, objects.PROJECTS, "team")
        assert registry.hub.projects.find("team") is None
        assert await registry.status("GET", "/v2/", login) == 401

    run(tmp_path, main)


def test_a_robot_gets_into_no_project_that_does_not_name_its_namespace(tmp_path):
    async def main(client, registry):
        await client.create(objects.PROJECTS, obj("Project", "secret", {}))
        await ready(client, objects.PROJECTS, "secret")
        await client.create(objects.ROBOTS, obj("Robot", "thief", {"project": "secret"}, "default"))
        found = await ready(client, objects.ROBOTS, "thief", "default", status="False")
        assert (
            "cannot be made in the namespace default" in found["status"]["conditions"][0]["message"]
        )
        assert registry.hub.robots.of_project("secret") == []

    run(tmp_path, main)


def test_registries_and_replications_by_objects(tmp_path, served):
    async def main(client, registry):
        username, password = credentials(served.home.registry_auth, served.host)
        data = {
            "username": base64.b64encode(username.encode()).decode(),
            "password": base64.b64encode(password.encode()).decode(),
        }
        await client.create(
            SECRETS,
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "far", "namespace": "default"},
                "data": data,
            },
        )
        spec = {
            "url": f"https://{served.host}",
            "caCertificate": (served.home.pki / "ca.crt").read_text(),
            "secretRef": {"namespace": "default", "name": "far"},
        }
        await client.create(
            objects.REPLICATIONS,
            obj(
                "Replication",
                "out",
                {"remote": "far", "repositories": "objects/**", "trigger": "event_based"},
            ),
        )
        await ready(client, objects.REPLICATIONS, "out", status="False")
        await client.create(objects.REMOTES, obj("RemoteRegistry", "far", spec))
        await ready(client, objects.REMOTES, "far")
        await ready(client, objects.REPLICATIONS, "out")
        admin = registry.hub.accounts
        registry.authorization = {
            "authorization": "Basic "
            + base64.b64encode(f"admin:{admin._password}".encode()).decode()
        }
        await asyncio.to_thread(registry.push_image, "objects/app", "v1", b"layer of an object")
        with served.client() as far:
            for _ in range(400):
                if await asyncio.to_thread(far.manifest_exists, "objects/app", "v1"):
                    break
                await asyncio.sleep(0.05)
            assert far.manifest_exists("objects/app", "v1")
        for resource, name in ((objects.REPLICATIONS, "out"), (objects.REMOTES, "far")):
            await client.delete(resource, name)
            await gone(client, resource, name)

    run(tmp_path, main)


def test_a_service_account_of_the_cluster_is_somebody_in_the_registry(direct):
    class Cluster:
        def review(self, token):
            return {
                "ey.apps.x": "system:serviceaccount:apps:builder",
                "ey.other.x": "system:serviceaccount:other:builder",
            }.get(token, "")

    direct.hub.accounts._reviewer = Cluster()
    direct.push_image("team/app", "v1", b"layer")
    row = direct.hub.projects.row("team")
    direct.hub.projects.add_member(row["id"], "system:serviceaccounts:apps", 2, group=True)

    def status(token, method="GET", path="/v2/team/app/manifests/v1"):
        login = base64.b64encode(f"any:{token}".encode()).decode()
        return direct.call(method, path, authorization=f"Basic {login}").status

    assert status("ey.apps.x") == 200
    assert status("ey.apps.x", "POST", "/v2/team/app/blobs/uploads/") == 202
    assert status("ey.other.x") == 403
    assert status("ey.nobody.x") == 401
    login = base64.b64encode(b"any:ey.apps.x").decode()
    made = direct.call(
        "GET", "/service/token?scope=repository:team/app:pull,push", authorization=f"Basic {login}"
    )
    bearer = f"Bearer {json.loads(made.body)['token']}"
    assert direct.call("GET", "/v2/team/app/manifests/v1", authorization=bearer).status == 200


def test_the_cluster_knows_its_own_tokens_and_no_others(tmp_path):
    async def check(found, direct):
        token = await token_of(found)
        for path in ("/v2/", "/api/v2.0/users/current", "/service/token"):
            for given, expected in ((token, 200), (token[:-4] + "AAAA", 401)):
                login = base64.b64encode(f"sa:{given}".encode()).decode()
                answer = await direct.acall("GET", path, authorization=f"Basic {login}")
                assert answer.status == expected, path
        await asyncio.sleep(0.1)  # the loop closes what is left of its connections

    with Cluster() as found:
        meta = {"name": "builder", "namespace": "default"}
        found.client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
        direct = Direct(Home(tmp_path))
        direct.home.kubeconfig.write_bytes(found.kubeconfig.read_bytes())
        asyncio.run(check(found, direct))


async def token_of(found):
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 600},
    }
    client = kubeconfig.load(found.kubeconfig)
    try:
        made = await client.create(
            SERVICEACCOUNTS, request, "default", name="builder", subresource="token"
        )
    finally:
        await client.aclose()
    return made["status"]["token"]
