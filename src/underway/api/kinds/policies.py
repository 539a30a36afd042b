"""The rules of admission policies written in CEL, and of their bindings.

Source: API reference ``admissionregistration.k8s.io/v1``; Kubernetes
``pkg/apis/admissionregistration/validation``.
"""

from __future__ import annotations

from collections.abc import Iterator

from underway.api.cel import compile_expression
from underway.api.kinds.causes import bad, duplicate, one_of, required
from underway.api.objects import Object
from underway.api.shape import items, mapping, text
from underway.base.errors import Cause, Invalid

VARIABLES = (
    *("object", "oldObject", "request", "params", "namespaceObject", "variables"),
    "authorizer",
)
_PATCHES = {"ApplyConfiguration": "applyConfiguration", "JSONPatch": "jsonPatch"}
_ACTIONS = ("Audit", "Deny", "Warn")
_EXPRESSIONS_LIMIT = 64


def check_policy(obj: Object) -> list[Cause]:
    """What is wrong with a ValidatingAdmissionPolicy."""
    spec = mapping(obj, "spec")
    found: list[Cause] = []
    if not mapping(spec, "matchConstraints").get("resourceRules"):
        found.append(required("spec.matchConstraints.resourceRules"))
    if not items(spec, "validations") and not items(spec, "auditAnnotations"):
        both = "validations or auditAnnotations must contain at least one item"
        found.append(required("spec.validations", both))
    if spec.get("failurePolicy") is not None:
        found += one_of("spec.failurePolicy", spec["failurePolicy"], ("Fail", "Ignore"))
    for field in ("validations", "variables", "matchConditions", "auditAnnotations"):
        if len(items(spec, field)) > _EXPRESSIONS_LIMIT:
            message = f"must have at most {_EXPRESSIONS_LIMIT} items"
            found.append(bad(f"spec.{field}", len(items(spec, field)), message))
            return found
    return [*found, *_check_expressions(spec)]


def _check_expressions(spec: Object) -> Iterator[Cause]:
    names: set[str] = set()
    for index, variable in enumerate(items(spec, "variables")):
        name, path = text(variable, "name"), f"spec.variables[{index}]"
        if not name.isidentifier():
            yield bad(f"{path}.name", name, "name is not a valid CEL identifier")
        if name in names:
            yield duplicate(f"{path}.name", name)
        # A variable sees those before it.
        yield from _check_expression(variable, "expression", path, "", names)
        names.add(name)
    for index, condition in enumerate(items(spec, "matchConditions")):
        path = f"spec.matchConditions[{index}]"
        if not text(condition, "name"):
            yield required(f"{path}.name")
        yield from _check_expression(condition, "expression", path, "bool", names)
    for index, validation in enumerate(items(spec, "validations")):
        path = f"spec.validations[{index}]"
        yield from _check_expression(validation, "expression", path, "bool", names)
        if validation.get("messageExpression"):
            yield from _check_expression(validation, "messageExpression", path, "string", names)
    for index, annotation in enumerate(items(spec, "auditAnnotations")):
        path = f"spec.auditAnnotations[{index}]"
        yield from _check_expression(annotation, "valueExpression", path, "", names)


def _check_expression(
    holder: Object, field: str, path: str, wanted: str, known: set[str]
) -> Iterator[Cause]:
    """``wanted`` is the type the value must have; empty for any."""
    written = text(holder, field)
    if not written.strip():
        yield required(f"{path}.{field}", f"{field} is not specified")
        return
    try:
        program = compile_expression(written, VARIABLES)
    except Invalid as error:
        yield bad(f"{path}.{field}", written, f"compilation failed: {error.message}")
        return
    for name in sorted(program.fields_of("variables") - known):
        message = f"compilation failed: ERROR: <input>: undefined field '{name}'"
        yield bad(f"{path}.{field}", written, message)
    if wanted and program.returns.lower().partition("<")[0] not in (wanted, "dyn"):
        yield bad(f"{path}.{field}", written, f"must evaluate to {wanted}")


def check_mutating_policy(obj: Object) -> list[Cause]:
    """What is wrong with a MutatingAdmissionPolicy."""
    spec = mapping(obj, "spec")
    found: list[Cause] = []
    if not mapping(spec, "matchConstraints").get("resourceRules"):
        found.append(required("spec.matchConstraints.resourceRules"))
    if not items(spec, "mutations"):
        found.append(required("spec.mutations", "mutations must contain at least one item"))
    if spec.get("failurePolicy") is not None:
        found += one_of("spec.failurePolicy", spec["failurePolicy"], ("Fail", "Ignore"))
    policy = spec.get("reinvocationPolicy")
    if not policy:
        found.append(required("spec.reinvocationPolicy"))
    else:
        found += one_of("spec.reinvocationPolicy", policy, ("Never", "IfNeeded"))
    for field in ("mutations", "variables", "matchConditions"):
        if len(items(spec, field)) > _EXPRESSIONS_LIMIT:
            message = f"must have at most {_EXPRESSIONS_LIMIT} items"
            found.append(bad(f"spec.{field}", len(items(spec, field)), message))
            return found
    found += _check_expressions(spec)
    names = {text(each, "name") for each in items(spec, "variables")}
    for index, mutation in enumerate(items(spec, "mutations")):
        found += _check_mutation(mutation, f"spec.mutations[{index}]", names)
    return found


def _check_mutation(mutation: Object, path: str, names: set[str]) -> Iterator[Cause]:
    kind = text(mutation, "patchType")
    if not kind:
        yield required(f"{path}.patchType")
        return
    if kind not in _PATCHES:
        yield from one_of(f"{path}.patchType", kind, tuple(_PATCHES))
        return
    for each, field in _PATCHES.items():
        if each == kind and not isinstance(mutation.get(field), dict):
            yield required(f"{path}.{field}", f"{field} is required when patchType is {kind}")
        elif each != kind and mutation.get(field) is not None:
            message = f"must not be set when patchType is {kind}"
            yield bad(f"{path}.{field}", mutation[field], message)
    holder = mutation.get(_PATCHES[kind])
    if isinstance(holder, dict):
        wanted = "list" if kind == "JSONPatch" else ""
        yield from _check_expression(
            holder, "expression", f"{path}.{_PATCHES[kind]}", wanted, names
        )


def check_mutating_binding(obj: Object) -> list[Cause]:
    """What is wrong with a MutatingAdmissionPolicyBinding."""
    spec = mapping(obj, "spec")
    found = [] if text(spec, "policyName") else [required("spec.policyName")]
    return found + _check_param_ref(spec)


def _check_param_ref(spec: Object) -> list[Cause]:
    reference = spec.get("paramRef")
    if not isinstance(reference, dict):
        return []
    found: list[Cause] = []
    if bool(reference.get("name")) == (reference.get("selector") is not None):
        found.append(required("spec.paramRef.name", "name or selector must be specified"))
    policy = reference.get("parameterNotFoundAction")
    return found + one_of("spec.paramRef.parameterNotFoundAction", policy, ("Allow", "Deny"))


def check_binding(obj: Object) -> list[Cause]:
    """What is wrong with a ValidatingAdmissionPolicyBinding."""
    spec = mapping(obj, "spec")
    found = [] if text(spec, "policyName") else [required("spec.policyName")]
    actions = items_of_text(spec.get("validationActions"))
    if not actions:
        found.append(required("spec.validationActions"))
    for index, action in enumerate(actions):
        found += one_of(f"spec.validationActions[{index}]", action, _ACTIONS)
        if action in actions[:index]:
            found.append(duplicate(f"spec.validationActions[{index}]", action))
    if "Deny" in actions and "Warn" in actions:
        message = "must not contain both Deny and Warn (repeating the same validation failure"
        message += " information in the API response and headers serves no purpose)"
        found.append(bad("spec.validationActions", actions, message))
    return found + _check_param_ref(spec)


def items_of_text(value: object) -> list[str]:
    """A list of strings, whatever is given."""
    return [str(each) for each in value] if isinstance(value, list) else []
