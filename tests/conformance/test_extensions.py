"""CustomResourceDefinitions and admission policies ([sig-api-machinery])."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.world import World, condition, unique, workload
from underway.api.objects import name_of
from underway.base.errors import BadRequest, Invalid, NotFound
from underway.client import Patch
from underway.wire.http import Request

PROPERTIES = {
    "spec": {
        "type": "object",
        "description": "What is wanted.",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
    },
}
CLOSED = {"type": "object", "properties": PROPERTIES}
OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def definition(schema: Any = CLOSED, versions: tuple[str, ...] = ("v1",), **names: str) -> dict:
    """A definition of a kind nobody has, of a group of its own unless given."""
    kind = names.get("kind") or unique("Foo").replace("-", "")
    group = names.get("group") or f"{kind.lower()}.example.com"
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": version == versions[0],
                    "schema": {"openAPIV3Schema": schema},
                }
                for version in versions
            ],
        },
    }


def served(world: World, crd: dict) -> str:
    """Create it, wait until it is served; the kind."""
    world.create(crd)
    world.until(
        "CustomResourceDefinition",
        name_of(crd),
        lambda each: condition(each, "Established").get("status") == "True",
    )
    return crd["spec"]["names"]["kind"]


def custom(crd: dict, name: str = "x", version: str = "v1", **fields: Any) -> dict:
    return {
        "apiVersion": f"{crd['spec']['group']}/{version}",
        "kind": crd["spec"]["names"]["kind"],
        "metadata": {"name": name},
        **fields,
    }


def published(world: World) -> set[tuple[str, str, str]]:
    """Group, version and kind of everything the OpenAPI document describes."""
    found = world.raw("GET", "/openapi/v2")["definitions"].values()
    return {
        (one["group"], one["version"], one["kind"])
        for each in found
        for one in each.get("x-kubernetes-group-version-kind") or ()
    }


def of(crd: dict, version: str = "v1") -> tuple[str, str, str]:
    return crd["spec"]["group"], version, crd["spec"]["names"]["kind"]


def test_definitions_come_change_and_go(world: World) -> None:
    crds = [definition() for _ in range(3)]
    label = {"test": world.ns}
    with world.watch("CustomResourceDefinition", f"test={world.ns}") as events:
        for crd in crds:
            crd["metadata"]["labels"] = label
            served(world, crd)
            events.until("ADDED", name_of(crd))
            changed = {"metadata": {"annotations": {"changed": "yes"}}}
            world.patch("CustomResourceDefinition", name_of(crd), changed)
            events.until("MODIFIED", name_of(crd))
        assert len(world.list("CustomResourceDefinition", f"test={world.ns}")) == 3
        world.delete("CustomResourceDefinition", name_of(crds[0]))
        events.until("DELETED", name_of(crds[0]))
        other = definition()
        served(world, other)
        world.delete_all("CustomResourceDefinition", f"test={world.ns}")
        for crd in crds:
            world.gone("CustomResourceDefinition", name_of(crd))
    assert world.get("CustomResourceDefinition", name_of(other))
    world.delete("CustomResourceDefinition", name_of(other))


def test_the_status_of_a_definition_is_written_apart(world: World) -> None:
    crd = definition()
    served(world, crd)
    seen = world.get("CustomResourceDefinition", name_of(crd), "status")
    one = {"type": "Marked", "status": "True", "reason": "Test", "message": "by hand"}
    conditions = [*seen["status"]["conditions"], one]
    updated = world.change(seen, "status", status__conditions=conditions)
    assert condition(updated, "Marked")["message"] == "by hand"
    again = {"status": {"conditions": [*conditions[:-1], {**one, "reason": "Patched"}]}}
    world.patch("CustomResourceDefinition", name_of(crd), again, "status")
    found = world.get("CustomResourceDefinition", name_of(crd), "status")
    assert condition(found, "Marked")["reason"] == "Patched"
    world.delete("CustomResourceDefinition", name_of(crd))


def test_defaults_reach_requests_and_what_is_stored(world: World) -> None:
    a, b = ({"type": "string"} for _ in range(2))
    crd = definition({"type": "object", "properties": {"a": a, "b": b}})
    kind = served(world, crd)
    world.create(custom(crd, "old"))
    path = "/spec/versions/0/schema/openAPIV3Schema/properties"
    first = [{"op": "add", "path": f"{path}/a/default", "value": "A"}]
    world.patch("CustomResourceDefinition", name_of(crd), first, how=Patch.JSON)
    assert world.get(kind, "old")["a"] == "A"
    assert world.create(custom(crd, "new"))["a"] == "A"
    second = [
        {"op": "remove", "path": f"{path}/a/default"},
        {"op": "add", "path": f"{path}/b/default", "value": "B"},
    ]
    world.patch("CustomResourceDefinition", name_of(crd), second, how=Patch.JSON)
    new = world.get(kind, "new")
    assert (new["a"], new["b"]) == ("A", "B")
    assert "a" not in world.get(kind, "old")
    world.delete("CustomResourceDefinition", name_of(crd))


@pytest.mark.parametrize("shared", ["nothing", "group", "group and version", "kind"])
def test_openapi_describes_every_definition(world: World, shared: str) -> None:
    group = f"{unique('many')}.example.com"
    crds = {
        "nothing": lambda: [definition(), definition()],
        "group": lambda: [definition(group=group), definition(group=group, versions=("v2",))],
        "group and version": lambda: [definition(group=group), definition(group=group)],
        "kind": lambda: [definition(versions=("v1", "v2"))],
    }[shared]()
    for crd in crds:
        served(world, crd)
    wanted = {of(crd, each["name"]) for crd in crds for each in crd["spec"]["versions"]}
    assert len(wanted) == 2
    assert wanted <= published(world)
    for crd in crds:
        world.delete("CustomResourceDefinition", name_of(crd))
        world.gone("CustomResourceDefinition", name_of(crd))
    assert not wanted & published(world)


def test_openapi_follows_the_versions_of_a_definition(world: World) -> None:
    crd = definition(versions=("v1", "v2"))
    served(world, crd)
    assert {of(crd), of(crd, "v2")} <= published(world)
    unserved = [{"op": "replace", "path": "/spec/versions/1/served", "value": False}]
    world.patch("CustomResourceDefinition", name_of(crd), unserved, how=Patch.JSON)
    seen = published(world)
    assert of(crd) in seen
    assert of(crd, "v2") not in seen
    renamed = [
        {"op": "replace", "path": "/spec/versions/1/served", "value": True},
        {"op": "replace", "path": "/spec/versions/1/name", "value": "v3"},
    ]
    world.patch("CustomResourceDefinition", name_of(crd), renamed, how=Patch.JSON)
    seen = published(world)
    assert {of(crd), of(crd, "v3")} <= seen
    assert of(crd, "v2") not in seen
    world.delete("CustomResourceDefinition", name_of(crd))


NESTED = {"type": "object", "properties": {"spec": {**OPEN, "description": "Anything."}}}


@pytest.mark.peer
@pytest.mark.parametrize("schema", [CLOSED, OPEN, NESTED], ids=["closed", "open", "nested"])
def test_kubectl_validates_and_explains_a_custom_resource(world: World, schema: dict) -> None:
    crd = definition(schema)
    kind = served(world, crd)
    plural = crd["spec"]["names"]["plural"]
    good = custom(crd, spec={"name": "n", "size": 1})
    world.kubectl("apply", "-f", "-", stdin=json.dumps(good))
    odd = custom(crd, "odd", spec={"name": "n", "odd": True})
    done = world.kubectl("create", "-f", "-", stdin=json.dumps(odd), check=False)
    assert (done.returncode == 0) == (schema is not CLOSED), done.stderr
    if schema is CLOSED:
        assert 'unknown field "spec.odd"' in done.stderr
        lacking = custom(crd, "lacking", spec={"size": 1})
        done = world.kubectl("create", "-f", "-", stdin=json.dumps(lacking), check=False)
        assert "spec.name: Required value" in done.stderr
        assert "size" in world.kubectl("explain", f"{plural}.spec")
    text = world.kubectl("explain", plural)
    assert kind in text
    assert "DESCRIPTION:" in text
    world.delete("CustomResourceDefinition", name_of(crd))


@pytest.mark.parametrize("schema", [CLOSED, OPEN], ids=["closed", "open"])
def test_unknown_fields_of_a_custom_resource_are_refused_where_the_schema_is_closed(
    world: World, schema: dict
) -> None:
    crd = definition(schema)
    kind = served(world, crd)
    resource = world.resource(kind)
    path = resource.path(world.ns)

    def send(obj: dict, method: str) -> dict:
        if method == "POST":
            return world.raw("POST", path, obj, fieldValidation="Strict")
        query = {"fieldValidation": "Strict", "fieldManager": "test"}
        return world.raw("PATCH", f"{path}/{name_of(obj)}", obj, Patch.APPLY.value, **query)

    for method in ("POST", "PATCH"):
        assert send(custom(crd, f"good-{method.lower()}", spec={"name": "n"}), method)
        odd = custom(crd, f"odd-{method.lower()}", spec={"name": "n"}, odd=1)
        if schema is OPEN:
            assert send(odd, method)["odd"] == 1
        else:
            with pytest.raises((BadRequest, Invalid)):
                send(odd, method)
            with pytest.raises(NotFound):
                world.get(kind, name_of(odd))
    world.delete("CustomResourceDefinition", name_of(crd))


EMBEDDED = {
    "type": "object",
    "x-kubernetes-preserve-unknown-fields": True,
    "properties": {
        "spec": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "x-kubernetes-embedded-resource": True,
        }
    },
}


def test_unknown_metadata_and_doubled_fields_of_a_custom_resource_are_refused(world: World) -> None:
    crd = definition(EMBEDDED)
    path = world.resource(served(world, crd)).path(world.ns)
    inner = {"apiVersion": "v1", "kind": "Any", "metadata": {"name": "inner", "odd": 1}}
    odd = custom(crd, spec=inner)
    odd["metadata"]["odd"] = 1
    with pytest.raises(BadRequest) as refused:
        world.raw("POST", path, odd, fieldValidation="Strict")
    assert 'unknown field "metadata.odd"' in refused.value.message
    assert 'unknown field "spec.metadata.odd"' in refused.value.message
    text = json.dumps(custom(crd, open=1)).replace('"open": 1', '"open": 1, "open": 2')

    async def send() -> tuple[int, dict]:
        headers = {"content-type": "application/json"}
        request = Request("POST", path, "fieldValidation=Strict", headers, text.encode())
        answer = await world.client._handler(request)
        return answer.status, json.loads(await answer.read())

    status, answer = world.run(send())
    assert status == 400
    assert 'duplicate field "open"' in answer["message"]
    world.delete("CustomResourceDefinition", name_of(crd))


def test_a_policy_with_variables_judges_deployments(world: World) -> None:
    name = unique("policy")
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}  # fmt: skip
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.ns}},
                "resourceRules": [rule],
            },
            "variables": [
                {"name": "replicas", "expression": "object.spec.replicas"},
                {"name": "odd", "expression": "variables.replicas % 2 == 1"},
            ],
            "validations": [
                {"expression": "variables.replicas > 1", "message": "too few"},
                {
                    "expression": "variables.odd",
                    "messageExpression": "'even: ' + string(variables.replicas)",
                },
            ],
        },
    }
    world.create(policy)
    binding = {
        **policy,
        "kind": "ValidatingAdmissionPolicyBinding",
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    world.create(binding)
    for replicas, complaint in ((1, "too few"), (2, "even: 2")):
        with pytest.raises(Invalid, match=complaint):
            world.create(workload("Deployment", replicas=replicas))
    world.create(workload("Deployment", replicas=3))
    world.delete("ValidatingAdmissionPolicyBinding", name)
    world.delete("ValidatingAdmissionPolicy", name)
