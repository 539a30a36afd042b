"""Controllers act as users of their own, which may do what they need."""

import asyncio
import json

import pytest
from tests.cluster import api_server, cluster
from tests.server.running import pod

from underway.api.resources import CLUSTERROLEBINDINGS, CLUSTERROLES, DEPLOYMENTS, PODS, SECRETS
from underway.base.errors import Forbidden, InternalError
from underway.base.home import Home
from underway.capabilities.workloads.controller import deployment, replicaset
from underway.client import Client
from underway.dist import permissions
from underway.kit import Capability, Role, Rule, registry

SETS = {"replicaset": Role("set-controller", (Rule("get list", "- apps", "pods", "a b"),))}
TWICE = {"a": Role("same"), "b": Role("same")}
EMPTY: dict[str, Role] = {}


def capability(roles):
    return Capability("mine", "", permissions=f"{__name__}:{roles}")


def web():
    labels = {"app": "web"}
    return {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod("x")["spec"]},
        },
    }


def test_the_audit_log_names_the_controller(tmp_path):
    async def main():
        async with cluster(tmp_path, deployment.add, replicaset.add) as env:
            await env.client.create(DEPLOYMENTS, web())
            await env.until(PODS, lambda pods: len(pods) == 2)

    asyncio.run(main())
    lines = (Home(tmp_path).logs / "audit.log").read_text().splitlines()
    made = {}
    for event in map(json.loads, lines):
        if event["verb"] == "create":
            made.setdefault(event["objectRef"]["resource"], set()).add(event["user"]["username"])
    account = "system:serviceaccount:kube-system:"
    assert made["deployments"] == {"admin"}
    assert made["replicasets"] == {f"{account}deployment-controller"}
    assert made["pods"] == {f"{account}replicaset-controller"}


def test_a_controller_may_not_do_the_work_of_others(tmp_path):
    workloads = next(each for each in registry.installed() if each.id == "workloads")

    async def main():
        async with api_server(tmp_path) as server:
            admin = Client(server.as_user("admin", ["system:masters"]))
            await permissions.install(admin, [workloads])
            sets = permissions.controller_client(server, workloads, "any.deployment:add")
            await sets.list(PODS)
            for refused in (
                sets.create(PODS, pod("a"), "default"),
                sets.list(SECRETS),
                sets.get(SECRETS, "a", "default"),
            ):
                with pytest.raises(Forbidden, match="deployment-controller"):
                    await refused
            reader = permissions.manager_client(server)
            await reader.list(SECRETS)
            with pytest.raises(Forbidden):
                await reader.create(PODS, pod("a"), "default")

    asyncio.run(main())


def test_roles_become_what_this_version_says(tmp_path):
    async def main():
        async with api_server(tmp_path) as server:
            admin = Client(server.as_user("admin", ["system:masters"]))
            for _ in range(2):
                await permissions.install(admin, [capability("SETS")])
                role = await admin.get(CLUSTERROLES, "system:controller:set-controller")
                assert role["rules"] == [
                    {
                        "verbs": ["get", "list"],
                        "apiGroups": ["", "apps"],
                        "resources": ["pods"],
                        "resourceNames": ["a", "b"],
                    }
                ]
                await admin.replace(CLUSTERROLES, {**role, "rules": []})
            bound = await admin.get(CLUSTERROLEBINDINGS, "system:controller:set-controller")
            assert bound["subjects"] == [
                {"kind": "ServiceAccount", "name": "set-controller", "namespace": "kube-system"}
            ]
            with pytest.raises(InternalError, match="same"):
                await permissions.install(admin, [capability("TWICE")])

    asyncio.run(main())


def test_roles_are_found_by_module_then_by_capability():
    sets = capability("SETS")
    assert permissions.role_of(sets, "a.b.replicaset:add").user == "set-controller"
    assert permissions.role_of(sets, "a.b.controller:add") == Role("mine-controller")
    assert permissions.role_of(Capability("mine", ""), "a.b:add") == Role("mine-controller")


def test_controllers_of_arbitrary_kinds_alone_read_all_secrets_and_one_gives_what_it_has_not():
    wide, above = set(), set()
    for each in registry.installed():
        roles = registry.load(each.permissions) if each.permissions else EMPTY
        for role in roles.values():
            for rule in role.rules:
                secrets = {"*", "secrets"} & set(rule.resources.split()) if not rule.names else ()
                core = {"*", "-"} & set(rule.groups.split())
                if secrets and core and {"*", "list", "watch"} & set(rule.verbs.split()):
                    wide.add(role.user)
                if {"*", "bind", "escalate", "impersonate"} & set(rule.verbs.split()):
                    above.add(role.user)
    assert above == {"clusterrole-aggregation-controller"}
    assert wide == {"generic-garbage-collector", "operators-controller"}


def test_every_capability_with_controllers_has_a_role():
    lacking = [
        target
        for each in registry.installed()
        for target in each.controllers
        if not permissions.role_of(each, target).rules
    ]
    # It signs files of its own anew and asks the cluster for nothing.
    assert lacking == ["underway.capabilities.signing.controller:setup"]
