"""Admission webhooks, asked over HTTPS."""

from __future__ import annotations

import asyncio

import pytest
from tests.server.running import configmap, request, running, serve
from tests.server.webhooks import configuration, entry, hooked, patch

from underway.api.resources import (
    CONFIGMAPS,
    MUTATINGWEBHOOKCONFIGURATIONS,
    NAMESPACES,
    SERVICES,
    VALIDATINGWEBHOOKCONFIGURATIONS,
)
from underway.base.errors import BadRequest, Forbidden, InternalError, Invalid, UnderwayError
from underway.base.home import Settings

SPACE = "default"


def scenario(tmp_path, decide, body, **options):
    async def run(server, admin):
        async with hooked(tmp_path / "hook", decide) as hook:
            await body(server, admin, hook)

    serve(tmp_path / "home", run, **options)


async def register(admin, kind, *hooks, name="test"):
    resource = {
        "Mutating": MUTATINGWEBHOOKCONFIGURATIONS,
        "Validating": VALIDATINGWEBHOOKCONFIGURATIONS,
    }[kind]
    return await admin.create(resource, configuration(kind, name, *hooks))


async def make(admin, name="c", labels=None, **data):
    return await admin.create(
        CONFIGMAPS, {**configmap(name, labels, **data), "metadata": meta(name, labels)}
    )


def meta(name, labels=None):
    return {"name": name, "namespace": SPACE, **({"labels": labels} if labels else {})}


def test_a_registration_gets_its_defaults(tmp_path):
    async def body(_server, admin, hook):
        made = await register(admin, "Mutating", entry(hook.client))
        (webhook,) = made["webhooks"]
        assert webhook["failurePolicy"] == "Fail"
        assert webhook["matchPolicy"] == "Equivalent"
        assert webhook["timeoutSeconds"] == 10
        assert webhook["reinvocationPolicy"] == "Never"
        assert webhook["namespaceSelector"] == webhook["objectSelector"] == {}
        assert webhook["rules"][0]["scope"] == "*"
        assert made["metadata"]["generation"] == 1

    scenario(tmp_path, lambda _: None, body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "short"}, "at least three segments"),
        ({"sideEffects": "Some"}, 'supported values: "None", "NoneOnDryRun"'),
        ({"timeoutSeconds": 31}, "between 1 and 30 seconds"),
        ({"admissionReviewVersions": ["v2"]}, "must include at least one of v1"),
        ({"clientConfig": {"url": "http://a/b"}}, "'https' is the only allowed URL scheme"),
        ({"clientConfig": {}}, "exactly one of url or service is required"),
    ],
)
def test_a_registration_that_cannot_work_is_refused(tmp_path, change, words):
    async def body(_server, admin, hook):
        with pytest.raises(Invalid, match=words):
            await register(admin, "Validating", {**entry(hook.client), **change})

    scenario(tmp_path, lambda _: None, body)


def test_a_validating_webhook_denies_with_its_message_code_and_reason(tmp_path):
    def decide(_asked):
        status = {"message": "no blue things", "code": 403, "reason": "Forbidden"}
        return {"allowed": False, "status": status}

    async def body(_server, admin, hook):
        await register(admin, "Validating", entry(hook.client))
        with pytest.raises(Forbidden) as caught:
            await make(admin)
        assert caught.value.message == (
            'admission webhook "hook.example.com" denied the request: no blue things'
        )
        (asked,) = hook.seen
        assert asked["operation"] == "CREATE"
        assert asked["kind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
        assert asked["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
        assert (asked["name"], asked["namespace"]) == ("c", SPACE)
        assert asked["userInfo"]["username"] == "admin"
        assert asked["object"]["metadata"]["uid"]
        assert asked["oldObject"] is None
        assert asked["dryRun"] is False
        assert asked["options"]["kind"] == "CreateOptions"
        assert hook.queries == ["timeout=10s"]

    scenario(tmp_path, decide, body)


def test_a_denial_without_words_is_a_bad_request_without_explanation(tmp_path):
    async def body(server, admin, hook):
        await register(admin, "Validating", entry(hook.client))
        path = f"/api/v1/namespaces/{SPACE}/configmaps"
        post = request("POST", path, body=b'{"metadata":{"name":"c"}}')
        response = await server.as_user("admin", ["system:masters"])(post)
        status = response.json()
        assert (response.status, status["code"]) == (400, 400)
        assert status["message"] == (
            'admission webhook "hook.example.com" denied the request without explanation'
        )

    scenario(tmp_path, lambda _: {"allowed": False}, body)


def test_update_and_delete_show_the_old_object(tmp_path):
    async def body(_server, admin, hook):
        await register(admin, "Validating", entry(hook.client))
        made = await make(admin, a="1")
        await admin.replace(CONFIGMAPS, {**made, "data": {"a": "2"}})
        await admin.delete(CONFIGMAPS, "c", SPACE)
        assert [each["operation"] for each in hook.seen] == ["CREATE", "UPDATE", "DELETE"]
        _, update, delete = hook.seen
        assert (update["oldObject"]["data"], update["object"]["data"]) == ({"a": "1"}, {"a": "2"})
        assert delete["object"] is None
        assert delete["oldObject"]["data"] == {"a": "2"}
        assert delete["options"]["kind"] == "DeleteOptions"

    scenario(tmp_path, lambda _: None, body)


def test_a_denied_delete_leaves_the_object(tmp_path):
    async def body(_server, admin, hook):
        await register(admin, "Validating", entry(hook.client, operations=["DELETE"]))
        await make(admin)
        with pytest.raises(UnderwayError, match="denied the request: keep it"):
            await admin.delete(CONFIGMAPS, "c", SPACE)
        assert await admin.get(CONFIGMAPS, "c", SPACE)

    scenario(tmp_path, lambda _: {"allowed": False, "status": {"message": "keep it"}}, body)


def test_a_mutating_webhook_changes_what_is_stored(tmp_path):
    def decide(_asked):
        return patch({"op": "add", "path": "/data/added", "value": "yes"})

    async def body(_server, admin, hook):
        await register(admin, "Mutating", entry(hook.client))
        assert (await make(admin, a="1"))["data"] == {"a": "1", "added": "yes"}
        assert (await admin.get(CONFIGMAPS, "c", SPACE))["data"]["added"] == "yes"

    scenario(tmp_path, decide, body)


def test_a_patch_that_does_not_apply_fails_the_write(tmp_path):
    async def body(_server, admin, hook):
        await register(admin, "Mutating", entry(hook.client))
        with pytest.raises(InternalError, match=r'failed calling webhook "hook\.example\.com"'):
            await make(admin)

    scenario(tmp_path, lambda _: patch({"op": "remove", "path": "/nothing/here"}), body)


def test_a_webhook_is_asked_again_when_a_later_one_changed_the_object(tmp_path):
    def decide(asked):
        labels = asked["object"]["metadata"].get("labels") or {}
        if not labels:
            return patch({"op": "add", "path": "/metadata/labels", "value": {"n": "1"}})
        if "other" not in labels:
            return patch({"op": "add", "path": "/metadata/labels/other", "value": "x"})
        return None

    async def body(_server, admin, hook):
        first = entry(hook.client, "first.example.com", reinvocationPolicy="IfNeeded")
        second = entry(hook.client, "second.example.com", reinvocationPolicy="IfNeeded")
        await register(admin, "Mutating", first, second)
        made = await make(admin)
        assert made["metadata"]["labels"] == {"n": "1", "other": "x"}
        assert len(hook.seen) == 3  # the second is not: nobody changed the object after it

    scenario(tmp_path, decide, body)


def test_fail_and_ignore_differ_when_nobody_answers(tmp_path):
    async def body(_server, admin, hook):
        dead = {"url": "https://127.0.0.1:1/x", "caBundle": hook.bundle}
        await register(admin, "Validating", entry(dead, failurePolicy="Ignore"), name="soft")
        await make(admin, "soft")
        await register(admin, "Validating", entry(dead), name="hard")
        with pytest.raises(InternalError) as caught:
            await make(admin, "hard")
        assert caught.value.message.startswith(
            'Internal error occurred: failed calling webhook "hook.example.com": failed to call'
            ' webhook: Post "https://127.0.0.1:1/x?timeout=10s": '
        )

    scenario(tmp_path, lambda _: None, body)


def test_a_server_the_bundle_does_not_vouch_for_is_not_asked(tmp_path):
    async def body(_server, admin, hook):
        async with hooked(tmp_path / "other", lambda _: None) as other:
            client = {**hook.client, "caBundle": other.bundle}
            await register(admin, "Validating", entry(client))
            with pytest.raises(InternalError, match="certificate is not trusted"):
                await make(admin)
            assert hook.seen == []

    scenario(tmp_path, lambda _: None, body)


def test_a_slow_webhook_is_given_up_after_its_timeout(tmp_path):
    async def never(_asked):
        await asyncio.Event().wait()

    async def body(_server, admin, hook):
        await register(admin, "Validating", entry(hook.client, timeoutSeconds=1))
        with pytest.raises(InternalError, match="context deadline exceeded"):
            await make(admin)

    scenario(tmp_path, never, body)


def test_selectors_choose_objects_and_namespaces(tmp_path):
    async def body(_server, admin, hook):
        await register(
            admin,
            "Validating",
            entry(hook.client, "a.example.com", objectSelector={"matchLabels": {"ask": "me"}}),
            entry(
                hook.client,
                "b.example.com",
                namespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}},
            ),
        )
        await make(admin, "plain")
        assert hook.seen == []
        await make(admin, "asked", {"ask": "me"})
        assert [each["name"] for each in hook.seen] == ["asked"]
        await admin.create(NAMESPACES, {"metadata": {"name": "elsewhere"}})
        obj = {"metadata": {"name": "there", "namespace": "elsewhere"}}
        await admin.create(CONFIGMAPS, obj)
        assert [each["namespace"] for each in hook.seen] == [SPACE, "elsewhere"]

    scenario(tmp_path, lambda _: None, body)


def test_a_webhook_is_asked_only_where_its_conditions_hold(tmp_path):
    async def body(_server, admin, hook):
        condition = {"name": "big", "expression": "object.data.size == 'big'"}
        await register(admin, "Validating", entry(hook.client, matchConditions=[condition]))
        await make(admin, "little", size="small")
        assert hook.seen == []
        await make(admin, "large", size="big")
        assert [each["name"] for each in hook.seen] == ["large"]
        with pytest.raises(Forbidden, match=r'match condition of admission webhook "hook\.exa'):
            await make(admin, "none", other="x")
        broken = {"name": "broken", "expression": "object.data ==="}
        with pytest.raises(Invalid, match=r"matchConditions\[0\]\.expression: Invalid value"):
            await register(
                admin, "Mutating", entry(hook.client, matchConditions=[broken]), name="other"
            )

    scenario(tmp_path, lambda _: None, body)


def test_a_dry_run_is_told_to_webhooks_and_stores_nothing(tmp_path):
    async def body(server, admin, hook):
        await register(admin, "Validating", entry(hook.client))
        path = f"/api/v1/namespaces/{SPACE}/configmaps"
        post = request("POST", path, "dryRun=All", b'{"metadata":{"name":"c"}}')
        response = await server.as_user("admin", ["system:masters"])(post)
        assert response.status == 201
        assert hook.seen[0]["dryRun"] is True
        assert hook.seen[0]["options"]["dryRun"] == ["All"]

    scenario(tmp_path, lambda _: None, body)


def test_warnings_reach_the_client(tmp_path):
    async def body(server, admin, hook):
        await register(admin, "Validating", entry(hook.client))
        path = f"/api/v1/namespaces/{SPACE}/configmaps"
        post = request("POST", path, body=b'{"metadata":{"name":"c"}}')
        response = await server.as_user("admin", ["system:masters"])(post)
        assert response.headers["warning"] == '299 - "think twice"'

    scenario(tmp_path, lambda _: {"warnings": ["think twice"]}, body)


def test_a_broken_webhook_for_everything_can_be_removed(tmp_path):
    async def body(_server, admin, hook):
        dead = {"url": "https://127.0.0.1:1/x", "caBundle": hook.bundle}
        rule = {
            "operations": ["*"],
            "apiGroups": ["*"],
            "apiVersions": ["*"],
            "resources": ["*/*"],
        }
        await register(admin, "Validating", {**entry(dead), "rules": [rule]})
        with pytest.raises(InternalError):
            await make(admin)
        await admin.delete(VALIDATINGWEBHOOKCONFIGURATIONS, "test")
        await make(admin)

    scenario(tmp_path, lambda _: None, body)


def test_an_update_made_while_a_webhook_thinks_is_not_lost(tmp_path):
    async def main():
        async with running(tmp_path / "home") as server:
            admin = server.admin
            held, go = asyncio.Event(), asyncio.Event()

            async def decide(asked):
                if asked["object"]["data"].get("slow") and not held.is_set():
                    held.set()
                    await go.wait()

            async with hooked(tmp_path / "hook", decide) as hook, asyncio.timeout(20):
                await make(admin, a="1")
                await register(admin, "Validating", entry(hook.client, operations=["UPDATE"]))
                async with asyncio.TaskGroup() as group:
                    group.create_task(admin.patch(CONFIGMAPS, "c", {"data": {"slow": "1"}}, SPACE))
                    await held.wait()
                    await admin.patch(CONFIGMAPS, "c", {"data": {"quick": "1"}}, SPACE)
                    go.set()
                found = await admin.get(CONFIGMAPS, "c", SPACE)
                assert found["data"] == {"a": "1", "slow": "1", "quick": "1"}

    asyncio.run(main())


def test_a_service_leads_to_a_webhook_that_shows_the_services_name(tmp_path):
    async def main():
        settings = Settings(service_cidr="127.96.0.0/16")
        async with (
            running(tmp_path / "home", settings=settings) as server,
            hooked(
                tmp_path / "hook",
                lambda _: {"allowed": False, "status": {"message": "seen"}},
                "127.96.3.4",
                ("hooks.default.svc",),
            ) as hook,
        ):
            service = {
                "metadata": {"name": "hooks", "namespace": SPACE},
                "spec": {"clusterIP": "127.96.3.4", "ports": [{"port": hook.port}]},
            }
            await server.admin.create(SERVICES, service)
            reference = {"name": "hooks", "namespace": SPACE, "port": hook.port, "path": "/v"}
            client = {"service": reference, "caBundle": hook.bundle}
            await register(server.admin, "Validating", entry(client))
            with pytest.raises(BadRequest, match="denied the request: seen"):
                await make(server.admin)

    asyncio.run(main())
