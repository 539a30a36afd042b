"""Admission webhooks that come, change and go ([sig-api-machinery] AdmissionWebhook)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.test_extensions import CLOSED, OPEN, custom, definition, served
from tests.conformance.world import World, configmap, pod, unique
from tests.server.webhooks import Hook, configuration, entry, hooked, patch
from underway.api.objects import name_of
from underway.base.errors import BadRequest, Forbidden, Invalid, UnderwayError

KINDS = ("Mutating", "Validating")
CONDITION = {"name": "not-me", "expression": "object.metadata.name != 'skip-me'"}


@pytest.fixture
def hook(world: World, tmp_path: Path) -> Iterator[Hook]:
    """A server that adds ``hooked`` to what it may change, and denies what is called ``bad``."""

    def decide(asked: dict) -> dict:
        if asked["resource"]["resource"].endswith("webhookconfigurations"):
            return {"allowed": False, "status": {"message": "never"}}
        obj = asked.get("object") or asked.get("oldObject") or {}
        if "bad" in (obj.get("data") or {}):
            return {"allowed": False, "status": {"message": "it is bad"}}
        return patch({"op": "add", "path": "/data/hooked", "value": "yes"}) if "data" in obj else {}

    serving = hooked(tmp_path, decide)
    found = world.run(serving.__aenter__())
    try:
        yield found
    finally:
        world.run(serving.__aexit__(None, None, None))


def register(world: World, kind: str, hook: Hook, label: str = "", **more: object) -> dict:
    """A configuration for configmaps (or ``resources``) of the test's namespace."""
    here = {"matchLabels": {"kubernetes.io/metadata.name": world.ns}}
    made = configuration(
        kind, unique("hook"), entry(hook.client, **{"namespaceSelector": here, **more})
    )
    made["metadata"]["labels"] = {"test": label or world.ns}
    world.create(made)
    return made


def works(world: World, kind: str) -> bool:
    """Whether a webhook of the kind acts on a new ConfigMap."""
    if kind == "Mutating":
        return "hooked" in world.create(configmap(unique("c"), a="b"))["data"]
    try:
        world.create(configmap(unique("c"), bad="yes"))
    except (BadRequest, Forbidden) as error:
        return "it is bad" in str(error)
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_webhooks_are_listed_and_deleted_together(world: World, hook: Hook, kind: str) -> None:
    for _ in range(3):
        register(world, kind, hook)
    plural, labels = f"{kind}WebhookConfiguration", f"test={world.ns}"
    assert len(world.list(plural, labels)) == 3
    assert works(world, kind)
    world.delete_all(plural, labels)
    assert world.list(plural, labels) == []
    assert not works(world, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_webhook_is_updated_and_patched(world: World, hook: Hook, kind: str) -> None:
    made = register(world, kind, hook)
    assert works(world, kind)
    webhooks = [{**made["webhooks"][0], "rules": [{**made["webhooks"][0]["rules"][0], "operations": ["DELETE"]}]}]  # fmt: skip
    world.change(made, webhooks=webhooks)
    assert not works(world, kind)
    world.patch(f"{kind}WebhookConfiguration", name_of(made), {"webhooks": made["webhooks"]})
    assert works(world, kind)
    world.delete(f"{kind}WebhookConfiguration", name_of(made))


@pytest.mark.parametrize("kind", KINDS)
def test_match_conditions_are_kept_checked_and_obeyed(world: World, hook: Hook, kind: str) -> None:
    made = register(world, kind, hook, matchConditions=[CONDITION])
    plural = f"{kind}WebhookConfiguration"
    assert world.get(plural, name_of(made))["webhooks"][0]["matchConditions"] == [CONDITION]
    if kind == "Mutating":
        assert "hooked" not in world.create(configmap("skip-me", a="b"))["data"]
    else:
        world.create(configmap("skip-me", bad="yes"))
    assert works(world, kind)
    other = {**CONDITION, "expression": "true"}
    world.change(made, webhooks=[{**made["webhooks"][0], "matchConditions": [other]}])
    assert world.get(plural, name_of(made))["webhooks"][0]["matchConditions"] == [other]
    broken = {"name": "broken", "expression": "... [] bad expression"}
    with pytest.raises(Invalid, match="compilation failed"):
        register(world, kind, hook, matchConditions=[broken])
    world.delete(plural, name_of(made))


def test_configurations_are_beyond_the_reach_of_webhooks(world: World, hook: Hook) -> None:
    rules = [{
        "operations": ["*"], "apiGroups": ["admissionregistration.k8s.io"], "apiVersions": ["*"],
        "resources": ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"],
    }]  # fmt: skip
    made = [register(world, kind, hook, rules=rules, namespaceSelector={}) for kind in KINDS]
    for each in made:
        world.patch(each["kind"], name_of(each), {"metadata": {"labels": {"changed": "yes"}}})
        world.delete(each["kind"], name_of(each))
        world.gone(each["kind"], name_of(each))
    assert hook.seen == []


@pytest.mark.parametrize("schema", [CLOSED, OPEN], ids=["pruned", "open"])
def test_custom_resources_are_mutated_pruned_and_denied(
    world: World, hook: Hook, schema: dict
) -> None:
    crd = definition({**schema, "properties": {"data": {"type": "object", "properties": {"a": {"type": "string"}, "bad": {"type": "string"}}}}} if schema is CLOSED else OPEN)  # fmt: skip
    kind = served(world, crd)
    rules = [{
        "operations": ["*"], "apiGroups": [crd["spec"]["group"]], "apiVersions": ["*"],
        "resources": [crd["spec"]["names"]["plural"]],
    }]  # fmt: skip
    mutating = register(world, "Mutating", hook, rules=rules)
    made = world.create(custom(crd, data={"a": "b"}))
    assert made["data"] == ({"a": "b"} if schema is CLOSED else {"a": "b", "hooked": "yes"})
    world.delete(mutating["kind"], name_of(mutating))
    world.create(custom(crd, "old", data={"bad": "yes"}))
    validating = register(world, "Validating", hook, rules=rules)
    for refused in (
        lambda: world.create(custom(crd, "new", data={"bad": "yes"})),
        lambda: world.patch(kind, "x", {"data": {"bad": "yes"}}),
        lambda: world.delete(kind, "old"),
    ):
        with pytest.raises(UnderwayError, match="it is bad"):
            refused()
    world.delete(validating["kind"], name_of(validating))
    world.delete(kind, "old")
    world.delete("CustomResourceDefinition", name_of(crd))


def test_what_a_webhook_adds_gets_its_defaults(world: World, tmp_path: Path) -> None:
    added = [{"name": "added", "image": "registry.example.com/init:1"}]
    serving = hooked(
        tmp_path, lambda _: patch({"op": "add", "path": "/spec/initContainers", "value": added})
    )
    found = world.run(serving.__aenter__())
    try:
        register(world, "Mutating", found, resources=("pods",), operations=("CREATE",))
        (init,) = world.create(pod("p"))["spec"]["initContainers"]
        assert init["terminationMessagePolicy"] == "File"
        world.delete_all("MutatingWebhookConfiguration", f"test={world.ns}")
    finally:
        world.run(serving.__aexit__(None, None, None))


def test_a_definition_can_be_denied(world: World, tmp_path: Path) -> None:
    serving = hooked(tmp_path, lambda _: {"allowed": False, "status": {"message": "not here"}})
    found = world.run(serving.__aenter__())
    try:
        crd = definition()
        crd["metadata"]["labels"] = {"test": world.ns}
        rules = [{
            "operations": ["CREATE"], "apiGroups": ["apiextensions.k8s.io"], "apiVersions": ["*"],
            "resources": ["customresourcedefinitions"],
        }]  # fmt: skip
        mine = {"matchLabels": {"test": world.ns}}
        register(world, "Validating", found, rules=rules, namespaceSelector={}, objectSelector=mine)
        with pytest.raises(UnderwayError, match="not here"):
            world.create(crd)
        world.delete_all("ValidatingWebhookConfiguration", f"test={world.ns}")
    finally:
        world.run(serving.__aexit__(None, None, None))
