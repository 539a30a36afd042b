"""ClusterRoles made of others."""

import asyncio

from tests.cluster import cluster

from underway.api.resources import CLUSTERROLES
from underway.capabilities.workloads.controller import aggregation
from underway.capabilities.workloads.rules.aggregation import rules_of

TO = "rbac.authorization.k8s.io/aggregate-to-"


def rule(resource):
    return {"apiGroups": ["example.com"], "resources": [resource], "verbs": ["get"]}


def role(name, *rules, selectors=None, **labels):
    made = {"metadata": {"name": name, "labels": labels}, "rules": list(rules)}
    if selectors:
        made["aggregationRule"] = {"clusterRoleSelectors": selectors}
    return made


def test_rules_come_in_the_order_of_names_each_once():
    chosen = [
        {"matchLabels": {"a": "b"}},
        {"matchExpressions": [{"key": "c", "operator": "Exists"}]},
    ]
    whole = role("whole", rule("old"), selectors=chosen, a="b")
    others = [
        role("z", rule("one"), rule("two"), a="b"),
        role("y", rule("three"), c="anything"),
        role("x", rule("two"), a="b", c="d"),
        role("w", rule("four"), a="not b"),
        whole,
    ]
    found = [each["resources"][0] for each in rules_of(whole, others)]
    assert found == ["two", "three", "one"]
    assert rules_of(role("plain", rule("one")), others) == []


def test_what_is_labelled_so_reaches_view_edit_and_admin_and_leaves_them_again(tmp_path):
    async def main():
        async with cluster(tmp_path, aggregation.add) as env:

            async def until(present):
                def check(roles):
                    held = [rule("widgets") in (roles[n].get("rules") or []) for n in names]
                    return held == [present] * 3 and roles

                names = ("view", "edit", "admin")
                return await env.until(CLUSTERROLES, check)

            await env.client.create(
                CLUSTERROLES, role("widgets", rule("widgets"), **{f"{TO}view": "true"})
            )
            roles = await until(True)
            for name, part in (("view", "view"), ("edit", "view"), ("admin", "edit")):
                part = roles[f"system:aggregate-to-{part}"]["rules"]
                assert all(each in roles[name]["rules"] for each in part)
            managers = {each["manager"] for each in roles["admin"]["metadata"]["managedFields"]}
            assert "clusterrole-aggregation-controller" in managers
            # What somebody else writes there does not last.
            body = {"rules": [rule("secrets")]}
            await env.client.patch(CLUSTERROLES, "edit", body)
            await until(True)
            await env.client.patch(CLUSTERROLES, "widgets", {"metadata": {"labels": None}})
            before = await until(False)
            while env.manager.busy():  # noqa: ASYNC110  # nobody's event
                await asyncio.sleep(0.01)
            after = {
                each["metadata"]["name"]: each
                for each in (await env.client.list(CLUSTERROLES)).items
            }
            assert after["admin"] == before["admin"]

    asyncio.run(main())
