"""Types of built-in kinds and of custom resources, and what objects make of them."""

import pytest

from underway.api import resources, schema
from underway.api.schema import builtin, from_openapi, prune, unknown_fields, validate

WIDGET = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 9},
                "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 4},
                "ratio": {"type": "number", "multipleOf": 0.5},
                "port": {"x-kubernetes-int-or-string": True},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "maybe": {"type": "string", "nullable": True, "default": "x"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "when": {"type": "string", "format": "date-time"},
                "tags": {
                    "type": "array",
                    "maxItems": 2,
                    "x-kubernetes-list-type": "set",
                    "items": {"type": "string"},
                },
                "parts": {
                    "type": "array",
                    "minItems": 1,
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name", "kind"],
                    "items": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string"},
                            "kind": {"type": "string", "default": "a"},
                            "n": {"type": "integer", "default": 1},
                        },
                    },
                },
                "pod": {
                    "type": "object",
                    "x-kubernetes-embedded-resource": True,
                    "x-kubernetes-preserve-unknown-fields": True,
                },
                "choice": {
                    "type": "object",
                    "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                    "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                },
            },
        }
    },
}


def widget(**spec: object) -> dict:
    return {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w"},
        "spec": {"size": 3, **spec},
    }


def problems(**spec: object) -> list[tuple[str, str, str]]:
    return [(c.field, c.message, c.reason) for c in validate(from_openapi(WIDGET), widget(**spec))]


def test_every_built_in_resource_has_a_type() -> None:
    missing = [r.kind for r in resources.BUILTIN if builtin(r.api_version, r.kind) is None]
    assert missing == []
    assert builtin("example.com/v1", "Widget") is None


def test_patch_keys_and_list_keys_are_two_tables() -> None:
    deployment = builtin("apps/v1", "Deployment")
    assert deployment is not None
    ports = deployment.at("spec", "template", "spec", "containers", "[]", "ports")
    assert ports is not None
    assert ports.patch_merge_key == "containerPort"
    assert ports.list_map_keys == ["containerPort", "protocol"]
    assert ports.at("[]", "protocol").default == "TCP"
    assert deployment.at("spec", "strategy").patch_strategies == ["retainKeys"]
    assert deployment.at("spec", "selector").atomic_map
    assert deployment.at("spec", "no", "such") is None


def test_unknown_fields_of_built_in_kinds_are_named_by_path() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "labels": {"any": "label"}, "labelz": {}},
        "spec": {"containers": [{"name": "c"}, {"name": "d", "imagee": "x"}], "volumes": []},
    }
    kind = builtin("v1", "Pod")
    assert unknown_fields(kind, pod) == ["metadata.labelz", "spec.containers[1].imagee"]
    prune(kind, pod)
    assert unknown_fields(kind, pod) == []
    assert pod["spec"]["containers"][1] == {"name": "d"}


def test_recursive_types_do_not_end_in_recursion() -> None:
    kind = builtin("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    node: dict = {"type": "string"}
    for _ in range(30):
        node = {"type": "object", "properties": {"x": node}, "not": {"bogus": 1}}
    crd = {"spec": {"versions": [{"schema": {"openAPIV3Schema": node}}]}}
    found = unknown_fields(kind, crd)
    assert len(found) == 30
    assert found[0].endswith(".not.bogus")


def test_free_values_are_left_alone() -> None:
    kind = builtin("apps/v1", "ControllerRevision")
    assert unknown_fields(kind, {"data": {"spec": {"what": ["ever"]}}, "revision": 1}) == []
    managed = {"metadata": {"managedFields": [{"fieldsV1": {"f:spec": {}}}]}}
    assert unknown_fields(kind, managed) == []


def test_pruning_of_custom_resources_keeps_what_is_preserved() -> None:
    obj = widget(bogus=1, free={"any": {"thing": 1}}, labels={"a": "b"}, parts=[{"z": 1}])
    obj["metadata"]["bogus"] = 1
    obj["status"] = {}
    kind = from_openapi(WIDGET)
    assert unknown_fields(kind, obj) == [
        "metadata.bogus",
        "spec.bogus",
        "spec.parts[0].z",
        "status",
    ]
    prune(kind, obj)
    assert obj == widget(free={"any": {"thing": 1}}, labels={"a": "b"}, parts=[{}])


def test_embedded_resources_have_metadata() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "no": 1}, "spec": {"a": 1}}
    assert unknown_fields(from_openapi(WIDGET), widget(pod=pod)) == ["spec.pod.metadata.no"]
    assert problems(pod={"spec": {}}) == [
        (f"spec.pod.{name}", "Required value: must not be empty", "FieldValueRequired")
        for name in ("apiVersion", "kind")
    ]


def test_defaults_fill_missing_fields_and_impossible_nulls() -> None:
    obj = widget(color=None, maybe=None, size=None, parts=[{"name": "x"}])
    schema.apply_schema_defaults(from_openapi(WIDGET), obj)
    assert obj["spec"] == {
        "color": "red",
        "maybe": None,
        "parts": [{"name": "x", "kind": "a", "n": 1}],
    }


def test_defaults_are_not_shared_between_objects() -> None:
    kind = from_openapi({"properties": {"spec": {"type": "object", "default": {"a": []}}}})
    one: dict = {}
    other: dict = {}
    schema.apply_schema_defaults(kind, one)
    one["spec"]["a"].append(1)
    schema.apply_schema_defaults(kind, other)
    assert other == {"spec": {"a": []}}


def test_a_valid_object_has_no_causes() -> None:
    assert (
        problems(
            color="blue",
            name="abc",
            ratio=1.5,
            port="http",
            free={"x": 1},
            maybe=None,
            labels={"a": "b"},
            when="2026-01-02T03:04:05.5+01:00",
            tags=["a", "b"],
            parts=[{"name": "a"}, {"name": "a", "kind": "b"}],
            choice={"a": "1"},
        )
        == []
    )


@pytest.mark.parametrize(
    ("spec", "field", "message", "reason"),
    [
        (
            {"size": "3"},
            "spec.size",
            'Invalid value: "string": spec.size in body must be of type integer: "string"',
            "FieldValueTypeInvalid",
        ),
        (
            {"size": None},
            "spec.size",
            'Invalid value: "null": spec.size in body must be of type integer: "null"',
            "FieldValueTypeInvalid",
        ),
        (
            {"size": 0},
            "spec.size",
            "Invalid value: 0: spec.size in body should be greater than or equal to 1",
            "FieldValueInvalid",
        ),
        (
            {"size": 10},
            "spec.size",
            "Invalid value: 10: spec.size in body should be less than or equal to 9",
            "FieldValueInvalid",
        ),
        (
            {"color": "green"},
            "spec.color",
            'Unsupported value: "green": supported values: "red", "blue"',
            "FieldValueNotSupported",
        ),
        (
            {"name": "A1"},
            "spec.name",
            "Invalid value: \"A1\": spec.name in body should match '^[a-z]+$'",
            "FieldValueInvalid",
        ),
        (
            {"name": "a"},
            "spec.name",
            'Invalid value: "a": spec.name in body should be at least 2 chars long',
            "FieldValueInvalid",
        ),
        (
            {"name": "abcde"},
            "spec.name",
            "Too long: may not be more than 4 bytes",
            "FieldValueTooLong",
        ),
        (
            {"ratio": 0.7},
            "spec.ratio",
            "Invalid value: 0.7: spec.ratio in body should be a multiple of 0.5",
            "FieldValueInvalid",
        ),
        (
            {"port": True},
            "spec.port",
            'Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean"',
            "FieldValueTypeInvalid",
        ),
        (
            {"labels": {"a": 1}},
            "spec.labels.a",
            'Invalid value: "integer": spec.labels.a in body must be of type string: "integer"',
            "FieldValueTypeInvalid",
        ),
        (
            {"when": "noon"},
            "spec.when",
            'Invalid value: "noon": spec.when in body must be of type date-time: "noon"',
            "FieldValueTypeInvalid",
        ),
        (
            {"tags": ["a", "b", "c"]},
            "spec.tags",
            "Too many: 3: must have at most 2 items",
            "FieldValueTooMany",
        ),
        ({"tags": ["a", "a"]}, "spec.tags[1]", 'Duplicate value: "a"', "FieldValueDuplicate"),
        (
            {"parts": []},
            "spec.parts",
            "Invalid value: 0: spec.parts in body should have at least 1 items",
            "FieldValueInvalid",
        ),
        (
            {"parts": [{"name": "a"}, {"name": "a", "kind": "a"}]},
            "spec.parts[1]",
            'Duplicate value: {"name":"a","kind":"a"}',
            "FieldValueDuplicate",
        ),
        (
            {"choice": {}},
            "<nil>",
            (
                'Invalid value: "": "spec.choice" must validate one and only one schema (oneOf). '
                "Found none valid"
            ),
            "FieldValueInvalid",
        ),
    ],
)
def test_causes_are_worded_as_upstream(spec: dict, field: str, message: str, reason: str) -> None:
    assert problems(**spec) == [(field, message, reason)]


def test_required_fields_are_named() -> None:
    kind = from_openapi(WIDGET)
    assert [c.field for c in validate(kind, {"metadata": {}})] == ["spec"]
    (cause,) = validate(kind, {"spec": {}})
    assert cause.as_dict() == {
        "field": "spec.size",
        "message": "Required value",
        "reason": "FieldValueRequired",
    }


def test_built_in_kinds_take_quantities_and_nulls() -> None:
    pod = {
        "metadata": {"name": "a", "creationTimestamp": None},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 0.5, "m": "1Gi"}}}]},
    }
    assert validate(builtin("v1", "Pod"), pod) == []
    pod["spec"]["containers"][0]["name"] = 5
    (cause,) = validate(builtin("v1", "Pod"), pod)
    assert cause.field == "spec.containers[0].name"


def test_a_pattern_only_go_understands_is_passed_over() -> None:
    kind = from_openapi({"properties": {"a": {"type": "string", "pattern": r"(?i:[[:word:]"}}})
    assert validate(kind, {"a": "x"}) == []
    posix = from_openapi({"properties": {"a": {"type": "string", "pattern": "^[[:alpha:]-]+$"}}})
    assert validate(posix, {"a": "x-y"}) == []
    assert validate(posix, {"a": "x1"}) != []
    end = from_openapi({"properties": {"a": {"type": "string", "pattern": "^x$"}}})
    assert validate(end, {"a": "x\n"}) != []


def test_the_types_are_those_of_the_release():
    assert schema.builtin_version() == resources.RELEASE
