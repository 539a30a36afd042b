"""Validating admission policies: writes judged by expressions in CEL.

Source: Kubernetes "Validating Admission Policy"; API reference ``admissionregistration.k8s.io/v1``;
messages as apiserver ``pkg/admission/plugin/policy/validating`` gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from underway.api import selectors
from underway.api.cel import EvaluationError, compile_expression
from underway.api.cel.program import Program, largest
from underway.api.cel.rules import message_of
from underway.api.kinds.policies import VARIABLES
from underway.api.objects import Object, labels_of, name_of
from underway.base.errors import Cause, Forbidden, Invalid, TooLarge, Unauthorized, UnderwayError
from underway.server.admission.hooks import GROUP, Hook, Hooks
from underway.server.admission.write import Write
from underway.server.call import refused
from underway.server.catalog import Catalog, Served
from underway.server.store import Key, Store

POLICIES = f"validatingadmissionpolicies.{GROUP}"
BINDINGS = f"validatingadmissionpolicybindings.{GROUP}"
# They must stay changeable when a policy is too strict.
_EXCLUDED = frozenset(
    (
        *(POLICIES, BINDINGS),
        *(f"mutatingadmissionpolicies.{GROUP}", f"mutatingadmissionpolicybindings.{GROUP}"),
    )
)
_REASONS: dict[str, type[UnderwayError]] = {
    each.reason: each for each in (Forbidden, Invalid, TooLarge, Unauthorized)
}


@dataclass(frozen=True)
class _Scope:
    """What ``matchConstraints`` or ``matchResources`` choose."""

    wanted: Hook
    excluded: Hook | None


@dataclass(frozen=True)
class _Binding:
    name: str
    spec: Object
    scope: _Scope | None


@dataclass(frozen=True)
class _Policy:
    name: str
    spec: Object
    scope: _Scope

    @property
    def fails_open(self) -> bool:
        return self.spec.get("failurePolicy") == "Ignore"


@dataclass(frozen=True)
class _Failure:
    """A validation that does not hold, or could not be decided."""

    message: str
    reason: str = "Invalid"


class _UndecidedError(Exception):
    """An expression of a policy has no value; its failurePolicy says what that means."""


class Policies:
    """The registered policies, applied to writes."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog
        self._hooks = Hooks(store, catalog)
        self._parsed: dict[Key, tuple[int, Any]] = {}

    def validate(self, write: Write) -> None:
        """Apply every bound policy that matches.

        Raises:
            Invalid: a policy denies the write; or the error its ``reason`` names.
        """
        bindings = self._store.rows(BINDINGS)
        if not bindings or write.served.storage in _EXCLUDED:
            return
        values: Object | None = None
        for policy in self._policies():
            shown = self._in_scope(policy.scope, write)
            if shown is None:
                continue
            for row in bindings:
                binding = self._parse(row, _binding)
                if binding.spec.get("policyName") != policy.name:
                    continue
                if binding.scope is not None and self._in_scope(binding.scope, write) is None:
                    continue
                values = values or self._values(write, shown)
                for failure in self._failures(policy, binding, values, write):
                    _act(policy, binding, failure, write)

    def _policies(self) -> Iterator[_Policy]:
        for row in self._store.rows(POLICIES):
            yield self._parse(row, _policy)

    def _parse(self, row: Any, parse: Any) -> Any:
        known = self._parsed.get(row.key)
        if known is None or known[0] != row.rv:
            known = self._parsed[row.key] = (row.rv, parse(row.decode()))
        return known[1]

    def _in_scope(self, scope: _Scope, write: Write) -> Served | None:
        """The API version the scope names the write's resource in; None if it is not meant."""
        wanted = _named(scope.wanted, write)
        shown = self._hooks.wanted(wanted, write)
        if shown is None or scope.excluded is None:
            return shown
        excluded = self._hooks.wanted(_named(scope.excluded, write), write)
        return shown if excluded is None else None

    def _values(self, write: Write, shown: Served) -> Object:
        space = None
        if write.namespace:
            row = self._store.latest(Key("namespaces", "", write.namespace))
            space = row.decode() if row else None
        return {
            "object": _shown(shown, write.new),
            "oldObject": _shown(shown, write.old),
            "request": _request(write, shown),
            "namespaceObject": space,
        }

    # -- one policy with one binding -------------------------------------------------------

    def _failures(
        self, policy: _Policy, binding: _Binding, values: Object, write: Write
    ) -> Iterator[_Failure]:
        try:
            if not _conditions_hold(policy, values):
                return
            for params in self._params(policy, binding, write):
                yield from _judge(policy, {**values, "params": params})
        except _UndecidedError as error:
            if not policy.fails_open:
                yield _Failure(str(error))

    def _params(self, policy: _Policy, binding: _Binding, write: Write) -> list[Object | None]:
        """The parameter objects the policy is applied with, each by itself."""
        kind = policy.spec.get("paramKind")
        reference = binding.spec.get("paramRef")
        if not kind or not reference:
            return [None]
        served = self._catalog.of_kind(kind.get("apiVersion", ""), kind.get("kind", ""))
        if served is None:
            api_version = f"{kind.get('apiVersion')}, Kind={kind.get('kind')}"
            text = f"failed to find resource referenced by paramKind: '{api_version}'"
            raise _UndecidedError(f"failed to configure binding: {text}")
        namespace = ""
        if served.resource.namespaced:
            namespace = reference.get("namespace") or write.namespace
            if not namespace:
                text = "cannot use namespaced paramRef in policy binding that matches"
                text += " cluster-scoped resources"
                raise _UndecidedError(f"failed to configure binding: {text}")
        found = self._find_params(served, namespace, reference)
        if not found and reference.get("parameterNotFoundAction") != "Allow":
            text = "no params found for policy binding with `Deny` parameterNotFoundAction"
            raise _UndecidedError(f"failed to configure binding: {text}")
        return found

    def _find_params(
        self, served: Served, namespace: str, reference: Object
    ) -> list[Object | None]:
        if reference.get("name"):
            row = self._store.get(Key(served.storage, namespace, reference["name"]))
            return [_shown(served, row.decode())] if row else []
        chosen = selectors.from_object(reference.get("selector"))
        rows = (row.decode() for row in self._store.rows(served.storage, namespace))
        return [_shown(served, obj) for obj in rows if chosen.matches(labels_of(obj))]


def _policy(obj: Object) -> _Policy:
    spec = obj.get("spec") or {}
    return _Policy(name_of(obj), spec, _scope(name_of(obj), spec.get("matchConstraints") or {}))


def _binding(obj: Object) -> _Binding:
    spec = obj.get("spec") or {}
    given = spec.get("matchResources")
    return _Binding(name_of(obj), spec, _scope(name_of(obj), given) if given else None)


def _scope(name: str, given: Object) -> _Scope:
    everything = selectors.from_object({})
    policy = given.get("matchPolicy")
    rules = given.get("resourceRules")
    if not rules:  # a binding without rules of its own takes its policy's
        every = ["*"]
        rules = [
            {
                "operations": every,
                "apiGroups": every,
                "apiVersions": every,
                "resources": ["*", "*/*"],
            }
        ]
    wanted = Hook(
        name,
        {"rules": rules, "matchPolicy": policy},
        selectors.from_object(given.get("namespaceSelector") or {}),
        selectors.from_object(given.get("objectSelector") or {}),
    )
    excluded = None
    if given.get("excludeResourceRules"):
        spec = {"rules": given["excludeResourceRules"], "matchPolicy": policy}
        excluded = Hook(name, spec, everything, everything)
    return _Scope(wanted, excluded)


def _named(hook: Hook, write: Write) -> Hook:
    """The hook with those of its rules that take objects of the write's name."""
    rules = hook.spec["rules"]
    if not any(rule.get("resourceNames") for rule in rules):
        return hook
    fitting = [
        rule
        for rule in rules
        if not rule.get("resourceNames") or write.name in rule["resourceNames"]
    ]
    return replace(hook, spec={**hook.spec, "rules": fitting})


def _shown(served: Served, obj: Object | None) -> Object | None:
    if obj is None:
        return None
    shown = served.to_shown(obj) if served.to_shown else obj
    return {**shown, "apiVersion": served.resource.api_version, "kind": served.resource.kind}


def _request(write: Write, shown: Served) -> Object:
    asked = write.served.resource
    request: Object = {
        "name": write.name,
        "operation": write.operation,
        "userInfo": write.user.info(),
        "dryRun": write.dry_run,
        "options": write.options or None,
        "subResource": write.subresource,
        "requestSubResource": write.subresource,
    }
    for prefix, resource in (("", shown.resource), ("request", asked)):
        version = {"group": resource.group, "version": resource.version}
        kind, plural = ("requestKind", "requestResource") if prefix else ("kind", "resource")
        request[kind] = {**version, "kind": resource.kind}
        request[plural] = {**version, "resource": resource.plural}
    if write.namespace or asked.plural == "namespaces":
        request["namespace"] = write.namespace or write.name
    return request


# -- evaluation --------------------------------------------------------------------------


def _compile(text: str) -> Program:
    try:
        return compile_expression(text, VARIABLES)
    except Invalid as error:
        raise _UndecidedError(f"compilation error: {error.message}") from error


class _Evaluator:
    """The expressions of a policy over one set of values; its variables once, when used."""

    def __init__(self, policy: _Policy, values: Object) -> None:
        self._given = {
            each["name"]: each.get("expression") or ""
            for each in policy.spec.get("variables") or ()
        }
        self._size = largest(list(values.values()))
        self._values: Object = {"params": None, **values, "variables": {}}

    def value(self, text: str) -> Any:
        """An expression's value.

        Raises:
            _UndecidedError: it has none.
        """
        program = _compile(text)
        try:
            return program.evaluate(self._ready(program), self._largest())
        except EvaluationError as error:
            raise _UndecidedError(
                f"expression '{text.strip()}' resulted in error: {error.message}"
            ) from error

    def message(self, text: str) -> str:
        """What a message expression says; empty where it has nothing to say."""
        try:
            program = _compile(text)
            return message_of(program, self._ready(program), self._largest())
        except _UndecidedError:
            return ""

    def _largest(self) -> tuple[int, int]:
        text, items = largest(self._values["variables"])
        return max(text, self._size[0]), max(items, self._size[1])

    def _ready(self, program: Program) -> Object:
        """The values, with the variables the program uses computed."""
        for name in sorted(program.fields_of("variables")):
            if name in self._given and name not in self._values["variables"]:
                # Variables see only those before them, so this ends.
                self._values["variables"][name] = self.value(self._given[name])
        return self._values


def _conditions_hold(policy: _Policy, values: Object) -> bool:
    evaluator = _Evaluator(policy, values)
    undecided = None
    for condition in policy.spec.get("matchConditions") or ():
        try:
            if evaluator.value(condition.get("expression") or "") is not True:
                return False  # whatever the others say
        except _UndecidedError as error:
            undecided = error
    if undecided is not None:
        raise undecided
    return True


def _judge(policy: _Policy, values: Object) -> Iterator[_Failure]:
    evaluator = _Evaluator(policy, values)
    for validation in policy.spec.get("validations") or ():
        text = validation.get("expression") or ""
        try:
            holds = evaluator.value(text) is True
        except _UndecidedError as error:
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


def _act(policy: _Policy, binding: _Binding, failure: _Failure, write: Write) -> None:
    actions = binding.spec.get("validationActions") or ()
    names = f"ValidatingAdmissionPolicy '{policy.name}' with binding '{binding.name}'"
    if "Deny" in actions:
        why = f"{names} denied request: {failure.message}"
        kind = _REASONS.get(failure.reason, Invalid)
        error = refused(kind, write.served, write.name, why)
        error.causes = [Cause("", why, "")]
        raise error
    if "Warn" in actions:
        write.warn(f"Validation failed for {names}: {failure.message}")
