"""Who gets in, and what they may do."""

from datetime import timedelta

import pytest
from tests.server.running import configmap, pod, request, serve

from underway.api.resources import (
    CLUSTERROLES,
    CONFIGMAPS,
    NODES,
    PODS,
    ROLEBINDINGS,
    ROLES,
    SERVICEACCOUNTS,
    TOKENREVIEWS,
)
from underway.base.clock import FakeClock
from underway.base.errors import Forbidden
from underway.client import Client
from underway.server.identity import Attributes
from underway.server.rbac import rule_allows
from underway.wire.http import Peer, Request

POD_READER = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "reader"},
    "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}],
}


def bind(role, *, user="", account=""):
    subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    if account:
        subject = {"kind": "ServiceAccount", "name": account, "namespace": "default"}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{role}-{user or account}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
        "subjects": [subject],
    }


def test_strangers_see_health_and_version_and_nothing_else(tmp_path):
    async def scenario(server, _client):
        for path in ("/healthz", "/livez", "/readyz", "/version"):
            assert (await server.handle(request("GET", path))).status == 200
        for path in ("/api", "/apis", "/api/v1/pods", "/openapi/v3", "/nonsense"):
            answer = await server.handle(request("GET", path))
            assert answer.status == 401
            assert answer.json()["reason"] == "Unauthorized"

    serve(tmp_path, scenario)


def test_a_client_certificate_names_its_user_and_groups(tmp_path):
    async def scenario(server, _client):
        async def whoami(peer):
            path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
            answer = await server.handle(Request("POST", path, body=b"{}", peer=peer))
            return answer.json()["status"]["userInfo"]

        found = await whoami(Peer("", "jane", ("devs",)))
        assert found == {"username": "jane", "groups": ["devs", "system:authenticated"]}
        denied = await server.handle(Request("GET", "/api/v1/pods", peer=Peer("", "jane", ())))
        assert denied.status == 403
        assert denied.json()["message"] == (
            'pods is forbidden: User "jane" cannot list resource "pods" in API group "" at the'
            " cluster scope"
        )
        admin = Peer("", "root", ("system:masters",))
        allowed = await server.handle(Request("GET", "/api/v1/pods", peer=admin))
        assert allowed.status == 200

    serve(tmp_path, scenario)


def test_roles_let_their_subjects_do_what_they_say_where_they_say(tmp_path):
    async def scenario(server, client):
        jane = Client(server.as_user("jane"))
        with pytest.raises(Forbidden) as refused:
            await jane.list(PODS, "default")
        assert refused.value.message == (
            'pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the'
            ' namespace "default"'
        )
        await client.create(ROLES, POD_READER, "default")
        await client.create(ROLEBINDINGS, bind("reader", user="jane"), "default")
        assert (await jane.list(PODS, "default")).items == []
        with pytest.raises(Forbidden):
            await jane.list(PODS, "kube-system")
        with pytest.raises(Forbidden):
            await jane.create(PODS, pod("a"), "default")

    serve(tmp_path, scenario)


def test_nobody_grants_what_they_do_not_hold(tmp_path):
    async def scenario(server, client):
        manager = {
            **POD_READER,
            "metadata": {"name": "manager"},
            "rules": [
                *POD_READER["rules"],
                {
                    "apiGroups": ["rbac.authorization.k8s.io"],
                    "resources": ["*"],
                    "verbs": ["create"],
                },
            ],
        }
        await client.create(ROLES, manager, "default")
        await client.create(ROLEBINDINGS, bind("manager", user="jane"), "default")
        jane = Client(server.as_user("jane"))
        await jane.create(ROLES, POD_READER, "default")
        more = {
            **POD_READER,
            "metadata": {"name": "more"},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
        }
        with pytest.raises(Forbidden, match="attempting to grant"):
            await jane.create(ROLES, more, "default")

    serve(tmp_path, scenario)


def test_a_service_account_token_works_until_it_expires_or_its_pod_is_gone(tmp_path):
    clock = FakeClock()

    async def scenario(server, client):
        await client.create(PODS, pod("a"), "default")
        await client.create(ROLES, POD_READER, "default")
        await client.create(ROLEBINDINGS, bind("reader", account="default"), "default")

        async def token(**spec):
            review = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": spec,
            }
            answer = await client.create(
                SERVICEACCOUNTS, review, "default", name="default", subresource="token"
            )
            return answer["status"]["token"]

        async def status(bearer):
            sent = request("GET", PODS.path("default"), authorization=f"Bearer {bearer}")
            return (await server.handle(sent)).status

        plain = await token(expirationSeconds=600)
        bound = await token(boundObjectRef={"kind": "Pod", "name": "a", "apiVersion": "v1"})
        other = await token(audiences=["vault"])
        assert await status(plain) == 200
        assert await status(bound) == 200
        assert await status(other) == 401
        head, payload, signature = plain.split(".")
        assert await status(f"{head}.{payload}.{signature[:-4]}AAAA") == 401
        assert await status("nonsense") == 401
        review = {"spec": {"token": other, "audiences": ["vault"]}}
        found = (await client.create(TOKENREVIEWS, review))["status"]
        assert found["authenticated"]
        assert found["user"]["username"] == "system:serviceaccount:default:default"
        await client.delete(PODS, "a", "default")
        assert await status(bound) == 401
        await clock.advance(timedelta(minutes=11).total_seconds())
        assert await status(plain) == 401

    serve(tmp_path, scenario, clock=clock)


def test_static_tokens_come_from_a_file(tmp_path):
    path = tmp_path / "tokens.csv"
    path.write_text('s3cret,ci,1,"system:masters,robots"\n')

    async def scenario(server, _client):
        sent = request("GET", "/api/v1/pods", authorization="Bearer s3cret")
        assert (await server.handle(sent)).status == 200
        sent = request("GET", "/api/v1/pods", authorization="Bearer other")
        assert (await server.handle(sent)).status == 401

    serve(tmp_path / "home", scenario, token_file=path)


def test_impersonation_needs_the_right_to_it(tmp_path):
    async def scenario(server, _client):
        sent = request("GET", "/api/v1/pods", impersonate_user="jane")
        answer = await server.as_user("admin", ["system:masters"])(sent)
        assert 'User "jane" cannot list' in answer.json()["message"]
        sent = request("GET", "/api/v1/pods", impersonate_user="jane")
        answer = await server.as_user("bob")(sent)
        assert 'User "bob" cannot impersonate resource "users"' in answer.json()["message"]
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        sent = request("POST", path, body=b"{}", impersonate_user="jane", impersonate_uid="17")
        sent.headers["impersonate-extra-team%2fname"] = "blue"
        answer = await server.as_user("admin", ["system:masters"])(sent)
        info = answer.json()["status"]["userInfo"]
        assert (info["uid"], info["extra"]) == ("17", {"team/name": ["blue"]})
        for headers in ({"impersonate_uid": "17"}, {"impersonate_group": "system:masters"}):
            sent = request("POST", path, body=b"{}", **headers)
            assert (await server.as_user("bob")(sent)).status == 400

    serve(tmp_path, scenario)


def test_a_node_reads_what_it_needs_and_writes_its_own(tmp_path):
    async def scenario(server, client):
        node = Client(server.as_user("system:node:n1", ["system:nodes"]))
        made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
        await node.create(NODES, made)
        with pytest.raises(Forbidden, match='node "n1" is not allowed to create node "n2"'):
            await node.create(NODES, {**made, "metadata": {"name": "n2"}})
        await client.create(PODS, pod("mine", nodeName="n1"), "default")
        await client.create(PODS, pod("other", nodeName="n2"), "default")
        body = {"status": {"phase": "Running"}}
        await node.patch(PODS, "mine", body, "default", subresource="status")
        with pytest.raises(Forbidden):
            await node.patch(PODS, "other", body, "default", subresource="status")
        with pytest.raises(Forbidden):
            await node.create(CONFIGMAPS, configmap("a"), "default")

    serve(tmp_path, scenario)


def test_aggregated_roles_hold_the_rules_of_those_they_select(tmp_path):
    async def scenario(server, client):
        extra = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {
                "name": "widgets-view",
                "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"},
            },
            "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}],
        }
        await client.create(CLUSTERROLES, extra)
        binding = bind("view", user="jane")
        binding["roleRef"]["kind"] = "ClusterRole"
        await client.create(ROLEBINDINGS, binding, "default")
        review = {
            "spec": {
                "resourceAttributes": {
                    "verb": "get",
                    "group": "example.com",
                    "resource": "widgets",
                    "namespace": "default",
                }
            }
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await Client(server.as_user("jane")).request("POST", path, body=review)
        assert answer.json()["status"]["allowed"]

    serve(tmp_path, scenario)


def test_rules_cover_subresources_names_and_paths_only_when_they_say_so():
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}
    assert rule_allows(pods, Attributes("get", resource="pods"))
    assert not rule_allows(pods, Attributes("get", resource="pods", subresource="log"))
    every = {**pods, "resources": ["*/log"]}
    assert rule_allows(every, Attributes("get", resource="pods", subresource="log"))
    named = {**pods, "resourceNames": ["a"]}
    assert rule_allows(named, Attributes("get", resource="pods", name="a"))
    assert not rule_allows(named, Attributes("list", resource="pods"))
    path = {"verbs": ["get"], "nonResourceURLs": ["/api/*"]}
    assert rule_allows(path, Attributes("get", path="/api/v1"))
    assert not rule_allows(path, Attributes("get", path="/metrics"))
