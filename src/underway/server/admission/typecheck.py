"""What a validating policy's expressions get wrong about the kinds they are for.

A warning in the policy's status, never a refusal: a field may come with a later version.

Source: Kubernetes "Validating Admission Policy", type checking; API reference
``admissionregistration.k8s.io/v1`` TypeChecking.
"""

from __future__ import annotations

from collections.abc import Iterator

from underway.api.cel import compile_expression, cost
from underway.api.kinds.policies import VARIABLES
from underway.api.objects import Object, meta
from underway.base.errors import Invalid
from underway.server.admission.hooks import GROUP
from underway.server.catalog import Catalog, Served

POLICIES = f"validatingadmissionpolicies.{GROUP}"
_KINDS_LIMIT = 10  # upstream's
_FIELDS = (
    ("matchConditions", ("expression",)),
    ("variables", ("expression",)),
    ("validations", ("expression", "messageExpression")),
    ("auditAnnotations", ("valueExpression",)),
)


def status(policy: Object, catalog: Catalog) -> Object:
    """The status of a policy as it is about to be stored."""
    warnings = [
        {"fieldRef": f"spec.{field}", "warning": "\n".join(texts)}
        for field, text in _expressions(policy.get("spec") or {})
        if (texts := list(_wrong(text, policy, catalog)))
    ]
    checked: Object = {"expressionWarnings": warnings} if warnings else {}
    before = policy.get("status") or {}
    found: Object = {"observedGeneration": meta(policy).get("generation") or 1}
    if before.get("conditions"):
        found["conditions"] = before["conditions"]
    return {**found, "typeChecking": checked}


def _expressions(spec: Object) -> Iterator[tuple[str, str]]:
    for group, names in _FIELDS:
        for number, each in enumerate(spec.get(group) or ()):
            for name in names:
                if isinstance(each, dict) and each.get(name):
                    yield f"{group}[{number}].{name}", str(each[name])


def _wrong(text: str, policy: Object, catalog: Catalog) -> Iterator[str]:
    spec = policy.get("spec") or {}
    param_kind = spec.get("paramKind") or {}
    params = catalog.of_kind(str(param_kind.get("apiVersion")), str(param_kind.get("kind")))
    for served in _kinds(spec, catalog):
        known: dict[str, cost.Bound] = dict.fromkeys(VARIABLES, cost.UNKNOWN)
        known["object"] = known["oldObject"] = cost.Typed(served.schema)
        if params is not None:
            known["params"] = cost.Typed(params.schema)
        try:
            compile_expression(text, VARIABLES).estimate(known)
        except cost.UndefinedFieldError as error:
            resource = served.resource
            kind = f"{resource.api_version}, Kind={resource.kind}"
            yield f"{kind}: ERROR: <input>: undefined field '{error}'"
        except Invalid:
            continue  # said when the policy is checked


def _kinds(spec: Object, catalog: Catalog) -> list[Served]:
    """The kinds a policy names without wildcards, the first few."""
    found: dict[tuple[str, str], Served] = {}
    for rule in (spec.get("matchConstraints") or {}).get("resourceRules") or ():
        for group in rule.get("apiGroups") or ():
            for version in rule.get("apiVersions") or ():
                for plural in rule.get("resources") or ():
                    served = catalog.find(group, version, plural)
                    if served is not None and len(found) < _KINDS_LIMIT:
                        found[served.resource.api_version, served.resource.kind] = served
    return list(found.values())
