"""Who gets in, and what they may do."""

from datetime import timedelta

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry
from tests.server.running import configmap, pod, request, serve

from underway.api.resources import (
    CLUSTERROLEBINDINGS,
    CLUSTERROLES,
    CONFIGMAPS,
    LEASES,
    NODES,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODS,
    ROLEBINDINGS,
    ROLES,
    SECRETS,
    SERVICEACCOUNTS,
    TOKENREVIEWS,
)
from underway.base.clock import FakeClock, rfc3339
from underway.base.errors import BadRequest, Forbidden, NotFound
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
        taint = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
        assert (await node.create(NODES, made))["spec"]["taints"] == [taint]
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


def test_roles_are_given_by_those_who_hold_them_or_may_escalate_and_bind(tmp_path):
    group = "rbac.authorization.k8s.io"

    def cluster_role(name, *rules, **more):
        return {"metadata": {"name": name}, "rules": list(rules), **more}

    def binding(name, role, user):
        subject = {"kind": "User", "name": user, "apiGroup": group}
        reference = {"kind": "ClusterRole", "name": role, "apiGroup": group}
        return {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}

    write = {"apiGroups": [group], "resources": ["*"], "verbs": ["create", "get", "update"]}
    secrets = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    escalate = {"apiGroups": [group], "resources": ["clusterroles"], "verbs": ["escalate"]}
    bind_one = {**escalate, "verbs": ["bind"], "resourceNames": ["reader"]}
    selector = {"clusterRoleSelectors": [{"matchLabels": {"any": "thing"}}]}

    async def scenario(server, admin):
        for user, *rules in (
            ("plain", write),
            ("escalating", write, escalate),
            ("binding", write, bind_one),
        ):
            await admin.create(CLUSTERROLES, cluster_role(user, *rules))
            await admin.create(CLUSTERROLEBINDINGS, binding(user, user, user))
        plain, escalating, binder = (
            Client(server.as_user(name)) for name in ("plain", "escalating", "binding")
        )
        await plain.create(CLUSTERROLES, cluster_role("same", write))
        with pytest.raises(Forbidden) as caught:
            await plain.create(CLUSTERROLES, cluster_role("reader", secrets))
        assert caught.value.message == (
            'clusterroles.rbac.authorization.k8s.io "reader" is forbidden: user "plain"'
            ' (groups=["system:authenticated"]) is attempting to grant RBAC permissions not'
            ' currently held:\n{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}'
        )
        gathers = cluster_role("gathers", aggregationRule=selector)
        await forbidden(plain.create(CLUSTERROLES, gathers), "not currently held")
        await escalating.create(CLUSTERROLES, cluster_role("reader", secrets))
        await escalating.create(CLUSTERROLES, cluster_role("other", secrets))
        await escalating.create(CLUSTERROLES, gathers)
        await forbidden(escalating.create(CLUSTERROLEBINDINGS, binding("a", "reader", "x")))
        await forbidden(binder.create(CLUSTERROLEBINDINGS, binding("a", "other", "x")))
        await binder.create(CLUSTERROLEBINDINGS, binding("a", "reader", "x"))

    serve(tmp_path, scenario)


def test_aggregation_goes_through_several_roles_and_round_in_circles(tmp_path):
    def cluster_role(name, label, chosen, *rules):
        selector = {"clusterRoleSelectors": [{"matchLabels": {"part-of": chosen}}]}
        return {
            "metadata": {"name": name, "labels": {"part-of": label}},
            "rules": list(rules),
            "aggregationRule": selector,
        }

    secrets = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}

    async def scenario(server, admin):
        await admin.create(CLUSTERROLES, cluster_role("one", "c", "a"))
        await admin.create(CLUSTERROLES, cluster_role("two", "a", "b"))
        await admin.create(CLUSTERROLES, cluster_role("three", "b", "c", secrets))
        made = bind("one", user="jane")
        made["roleRef"]["kind"] = "ClusterRole"
        await admin.create(ROLEBINDINGS, made, "default")
        jane = Client(server.as_user("jane"))
        with pytest.raises(NotFound):
            await jane.get(SECRETS, "any", "default")
        await forbidden(jane.get(CONFIGMAPS, "any", "default"))

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


NODE = ("system:node:n1", ["system:nodes"])


async def forbidden(awaitable, match="forbidden"):
    with pytest.raises(Forbidden, match=match):
        await awaitable


def secret(name, kind="Opaque", **data):
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": kind,
        "stringData": data,
    }


def test_a_node_reads_only_what_its_pods_name(tmp_path):
    async def scenario(server, client):
        node = Client(server.as_user(*NODE))
        for name in ("mounted", "env", "pull", "other"):
            await client.create(SECRETS, secret(name, a="b"), "default")
            await client.create(CONFIGMAPS, configmap(name), "default")
        env = [{"secretRef": {"name": "env"}}, {"configMapRef": {"name": "env"}}]
        mine = pod(
            "mine",
            nodeName="n1",
            containers=[{"name": "main", "image": "nginx", "envFrom": env}],
            imagePullSecrets=[{"name": "pull"}],
            volumes=[
                {"name": "a", "secret": {"secretName": "mounted"}},
                {"name": "b", "configMap": {"name": "mounted"}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
            ],
        )
        await forbidden(node.get(SECRETS, "env", "default"))
        await client.create(PODS, mine, "default")
        for name in ("mounted", "env", "pull"):
            assert (await node.get(SECRETS, name, "default"))["data"]
        await node.get(CONFIGMAPS, "mounted", "default")
        single = await node.list(SECRETS, "default", fields="metadata.name=env")
        assert len(single.items) == 1
        await forbidden(node.get(SECRETS, "other", "default"), 'secrets "other" is forbidden')
        await forbidden(node.get(SECRETS, "env", "kube-system"))
        await forbidden(node.list(SECRETS, "default"))
        await forbidden(node.list(CONFIGMAPS))
        await forbidden(node.list(SECRETS, "default", fields="metadata.name=other"))
        await forbidden(node.delete(SECRETS, "env", "default"))
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "claim"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "volumeName": "volume",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
        await client.create(PERSISTENTVOLUMECLAIMS, claim, "default")
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "volume"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "1Gi"},
                "claimRef": {"name": "claim", "namespace": "default"},
                "csi": {
                    "driver": "csi.example.com",
                    "volumeHandle": "x",
                    "nodePublishSecretRef": {"name": "other", "namespace": "default"},
                },
            },
        }
        await client.create(PERSISTENTVOLUMES, volume)
        await node.get(PERSISTENTVOLUMECLAIMS, "claim", "default")
        await node.get(PERSISTENTVOLUMES, "volume")
        await node.get(SECRETS, "other", "default")  # the volume's
        await client.delete(PODS, "mine", "default", grace_period_s=0)
        await forbidden(node.get(SECRETS, "env", "default"))
        await forbidden(node.get(PERSISTENTVOLUMES, "volume"))

    serve(tmp_path, scenario)


def test_a_node_sees_its_own_pods_and_node_alone(tmp_path):
    async def scenario(server, client):
        node = Client(server.as_user(*NODE))
        for name in ("n1", "n2"):
            made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            await client.create(NODES, made)
            await client.create(PODS, pod(f"on-{name}", nodeName=name), "default")
        await node.get(PODS, "on-n1", "default")
        await forbidden(node.get(PODS, "on-n2", "default"))
        await forbidden(node.list(PODS))
        found = await node.list(PODS, fields="spec.nodeName=n1")
        assert [each["metadata"]["name"] for each in found.items] == ["on-n1"]
        await forbidden(node.list(PODS, fields="spec.nodeName=n2"))
        reserved = {"metadata": {"labels": {"node-restriction.kubernetes.io/team": "a"}}}
        await forbidden(node.patch(NODES, "n1", reserved), "not allowed to modify labels")
        tainted = {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}
        await forbidden(node.patch(NODES, "n1", tainted), "not allowed to modify taints")
        await node.patch(NODES, "n1", {"metadata": {"labels": {"example.com/free": "yes"}}})
        await forbidden(node.patch(NODES, "n2", {"metadata": {"labels": {"a": "b"}}}))
        await forbidden(node.delete(NODES, "n1"))
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        await node.create(LEASES, {**lease, "metadata": {"name": "n1"}}, "kube-node-lease")
        other = {**lease, "metadata": {"name": "n2"}}
        await forbidden(node.create(LEASES, other, "kube-node-lease"), "same name")
        await forbidden(node.create(LEASES, {**lease, "metadata": {"name": "n1"}}, "default"))

    serve(tmp_path, scenario)


def test_a_node_gets_tokens_for_its_pods_alone(tmp_path):
    async def scenario(server, client):
        node = Client(server.as_user(*NODE))
        uids = {}
        for name in ("n1", "n2"):
            made = await client.create(PODS, pod(f"on-{name}", nodeName=name), "default")
            uids[name] = made["metadata"]["uid"]

        def token(name, **more):
            reference = {"kind": "Pod", "apiVersion": "v1", "name": f"on-{name}", **more}
            review = {"spec": {"boundObjectRef": reference}}
            return node.create(
                SERVICEACCOUNTS, review, "default", name="default", subresource="token"
            )

        assert (await token("n1", uid=uids["n1"]))["status"]["token"]
        await forbidden(token("n2", uid=uids["n2"]), "scheduled on a different node")
        await forbidden(token("n1"), "without a uid")
        plain = node.create(
            SERVICEACCOUNTS, {"spec": {}}, "default", name="default", subresource="token"
        )
        await forbidden(plain, "not bound to a pod")

    serve(tmp_path, scenario)


def test_bootstrap_tokens_let_a_node_in_until_they_expire(tmp_path):
    clock = FakeClock()

    async def scenario(server, client):
        async def whoami(token):
            path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
            sent = request("POST", path, body=b"{}", authorization=f"Bearer {token}")
            answer = await server.handle(sent)
            return answer.json()["status"]["userInfo"] if answer.status == 201 else None

        ends = rfc3339(clock.now() + timedelta(hours=1))
        data = {
            "token-id": "abcdef",
            "token-secret": "0123456789abcdef",
            "expiration": ends,
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:workers",
        }
        kind = "bootstrap.kubernetes.io/token"
        name = "bootstrap-token-abcdef"
        await client.create(SECRETS, secret(name, kind, **data), "kube-system")
        token = "abcdef.0123456789abcdef"
        assert await whoami(token) == {
            "username": "system:bootstrap:abcdef",
            "groups": [
                "system:bootstrappers",
                "system:bootstrappers:workers",
                "system:authenticated",
            ],
        }
        assert await whoami("abcdef.0123456789abcdee") is None
        assert await whoami("bbbbbb.0123456789abcdef") is None
        for change in ({"usage-bootstrap-authentication": "no"}, {"auth-extra-groups": "admins"}):
            await client.patch(SECRETS, name, {"stringData": change}, "kube-system")
            assert await whoami(token) is None
            again = {"stringData": {field: data[field] for field in change}}
            await client.patch(SECRETS, name, again, "kube-system")
        assert await whoami(token)
        await clock.advance(3601)
        assert await whoami(token) is None
        await clock.advance(600)  # the sweep
        with pytest.raises(NotFound):
            await client.get(SECRETS, name, "kube-system")

    serve(tmp_path, scenario, clock=clock)


def test_tokens_end_with_what_they_are_bound_to(tmp_path):
    clock = FakeClock()

    async def scenario(server, client):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
        await client.create(NODES, node)
        made = pod("a", nodeName="n1", terminationGracePeriodSeconds=30)
        await client.create(PODS, made, "default")
        await client.create(SECRETS, secret("s"), "default")

        async def token(kind, name):
            review = {"spec": {"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}}}
            answer = await client.create(
                SERVICEACCOUNTS, review, "default", name="default", subresource="token"
            )
            return answer["status"]["token"]

        async def user(bearer):
            found = await client.create(TOKENREVIEWS, {"spec": {"token": bearer}})
            return found["status"].get("user") if found["status"].get("authenticated") else None

        of_pod, of_secret = await token("Pod", "a"), await token("Secret", "s")
        of_node = await token("Node", "n1")
        extra = (await user(of_pod))["extra"]
        assert extra["authentication.kubernetes.io/node-name"] == ["n1"]
        assert "authentication.kubernetes.io/node-uid" in extra
        await client.delete(PODS, "a", "default")
        assert await user(of_pod)  # it has half a minute to end, and one more
        await clock.advance(91)
        assert not await user(of_pod)
        assert await user(of_secret)
        await client.delete(SECRETS, "s", "default")
        assert not await user(of_secret)
        assert await user(of_node)
        await client.delete(NODES, "n1")
        assert not await user(of_node)
        with pytest.raises(BadRequest, match="cannot bind token to object of type"):
            await token("ConfigMap", "c")

    serve(tmp_path, scenario, clock=clock)


def test_reviews_of_tokens_tell_audiences(tmp_path):
    async def scenario(_server, client):
        spec = {"audiences": ["vault", "db"]}
        answer = await client.create(
            SERVICEACCOUNTS, {"spec": spec}, "default", name="default", subresource="token"
        )
        token = answer["status"]["token"]

        async def review(*wanted):
            body = {"spec": {"token": token, "audiences": list(wanted)}}
            return (await client.create(TOKENREVIEWS, body))["status"]

        assert (await review("vault", "other"))["audiences"] == ["vault"]
        assert not (await review("other"))["authenticated"]
        assert not (await review())["authenticated"]  # not for this server

    serve(tmp_path, scenario)


def test_a_jose_library_checks_tokens_by_the_discovery_documents(tmp_path):
    async def scenario(server, client):
        answer = await client.create(
            SERVICEACCOUNTS, {"spec": {}}, "default", name="default", subresource="token"
        )
        plain = answer["status"]["token"]
        found = []
        for path in ("/.well-known/openid-configuration", "/openid/v1/jwks"):
            sent = request("GET", path, authorization=f"Bearer {plain}")
            answered = await server.handle(sent)
            assert answered.status == 200
            found.append((answered.headers["content-type"], answered.json()))
        (_, document), (media, keys) = found
        assert media == "application/jwk-set+json"
        assert document["jwks_uri"].endswith("/openid/v1/jwks")
        algorithms = document["id_token_signing_alg_values_supported"]
        token = jwt.decode(plain, KeySet.import_key_set(keys), algorithms=algorithms)
        wanted = JWTClaimsRegistry(
            iss={"essential": True, "value": document["issuer"]},
            aud={"essential": True, "value": document["issuer"]},
            sub={"essential": True, "value": "system:serviceaccount:default:default"},
        )
        wanted.validate(token.claims)
        head, body, _ = plain.split(".")
        forged = f"{head}.{body}.{'A' * 86}"
        with pytest.raises(JoseError):
            jwt.decode(forged, KeySet.import_key_set(keys), algorithms=algorithms)
        anonymous = await server.handle(request("GET", "/openid/v1/jwks"))
        assert anonymous.status in (401, 403)

    serve(tmp_path, scenario)
