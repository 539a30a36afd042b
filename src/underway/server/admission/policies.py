"""Validating admission policies: writes judged by expressions in CEL.

Source: Kubernetes "Validating Admission Policy"; messages as apiserver
``pkg/admission/plugin/policy/validating`` gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from underway.api.objects import Object
from underway.base.errors import Cause, Forbidden, Invalid, TooLarge, Unauthorized, UnderwayError
from underway.server.admission.policy import (
    Binding,
    Evaluator,
    Policies,
    Policy,
    UndecidedError,
    conditions_hold,
)
from underway.server.admission.write import Write
from underway.server.call import refused
from underway.server.catalog import Catalog
from underway.server.store import Store

_FAILURES = "validation.policy.admission.k8s.io/validation_failure"  # upstream's annotation
_ANNOTATION_LIMIT = 10 * 1024  # characters; upstream's
_REASONS: dict[str, type[UnderwayError]] = {
    each.reason: each for each in (Forbidden, Invalid, TooLarge, Unauthorized)
}


@dataclass(frozen=True)
class _Failure:
    """A validation that does not hold, or could not be decided."""

    message: str
    reason: str = "Invalid"


class ValidatingPolicies:
    """The registered validating policies, applied to writes."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._policies = Policies(store, catalog, "validatingadmissionpolicies")

    def validate(self, write: Write) -> None:
        """Apply every bound policy that matches.

        Raises:
            Invalid: a policy denies the write; or the error its ``reason`` names.
        """
        seen: dict[str, Object] = {}
        for policy, binding, shown in self._policies.bound(write):
            version = shown.resource.api_version
            values = seen.get(version)
            if values is None:
                values = seen[version] = self._policies.values(write, shown)
            for failure in self._failures(policy, binding, values, write):
                _act(policy, binding, failure, write)

    def _failures(
        self, policy: Policy, binding: Binding, values: Object, write: Write
    ) -> Iterator[_Failure]:
        try:
            if not conditions_hold(policy, values):
                return
            for params in self._policies.params(policy, binding, write):
                yield from _judge(policy, {**values, "params": params}, write)
        except UndecidedError as error:
            if not policy.fails_open:
                yield _Failure(str(error))


def _judge(policy: Policy, values: Object, write: Write) -> Iterator[_Failure]:
    evaluator = Evaluator(policy, values)
    for validation in policy.spec.get("validations") or ():
        text = validation.get("expression") or ""
        try:
            holds = evaluator.value(text) is True
        except UndecidedError as error:
            if not policy.fails_open:
                yield _Failure(str(error))
            continue
        if holds:
            continue
        message = (validation.get("message") or "").strip()
        if validation.get("messageExpression"):
            message = evaluator.message(validation["messageExpression"]) or message
        yield _Failure(
            message or f"failed expression: {text.strip()}", validation.get("reason") or "Invalid"
        )
    for annotation in policy.spec.get("auditAnnotations") or ():
        try:
            value = evaluator.value(annotation.get("valueExpression") or "")
        except UndecidedError as error:
            if not policy.fails_open:
                yield _Failure(str(error))
            continue
        if isinstance(value, str) and value.strip():
            _note(write, f"{policy.name}/{annotation.get('key')}", value.strip())


def _note(write: Write, key: str, value: str) -> None:
    """Keep an annotation for the audit log; what several bindings say of one key is joined."""
    value = value[:_ANNOTATION_LIMIT]
    present = write.annotations.get(key)
    if present is None:
        write.annotations[key] = value
    elif value not in present.split(", "):
        write.annotations[key] = f"{present}, {value}"


def _act(policy: Policy, binding: Binding, failure: _Failure, write: Write) -> None:
    actions = binding.spec.get("validationActions") or ()
    names = f"ValidatingAdmissionPolicy '{policy.name}' with binding '{binding.name}'"
    if "Audit" in actions:
        told = {
            "message": failure.message,
            "policy": policy.name,
            "binding": binding.name,
            "validationActions": list(actions),
        }
        failures = msgspec.json.decode(write.annotations.get(_FAILURES, "[]"))
        if told not in failures:
            write.annotations[_FAILURES] = msgspec.json.encode([*failures, told]).decode()
    if "Deny" in actions:
        why = f"{names} denied request: {failure.message}"
        kind = _REASONS.get(failure.reason, Invalid)
        error = refused(kind, write.served, write.name, why)
        error.causes = [Cause("", why, "")]
        raise error
    if "Warn" in actions:
        write.warn(f"Validation failed for {names}: {failure.message}")
