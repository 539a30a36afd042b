"""Admission policies written in CEL: which concern a write, and what their expressions say of it.

What validating and mutating policies share. Source: Kubernetes "Validating Admission Policy" and
"Mutating Admission Policy"; API reference ``admissionregistration.k8s.io/v1``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from underway.api import selectors
from underway.api.cel import EvaluationError, compile_expression
from underway.api.cel.authorizer import authorizer_of
from underway.api.cel.program import Program, largest
from underway.api.cel.rules import message_of
from underway.api.kinds.policies import VARIABLES
from underway.api.objects import Object, labels_of, name_of
from underway.base.errors import Invalid
from underway.server.admission.hooks import GROUP, Hook, Hooks
from underway.server.admission.write import Write
from underway.server.catalog import Catalog, Served
from underway.server.store import Key, Row, Store

_KINDS = ("validatingadmissionpolicies", "mutatingadmissionpolicies")
# They must stay changeable when a policy is too strict.
_EXCLUDED = frozenset(
    f"{name}.{GROUP}" for kind in _KINDS for name in (kind, f"{kind.removesuffix('ies')}ybindings")
)


@dataclass(frozen=True)
class Scope:
    """What ``matchConstraints`` or ``matchResources`` choose."""

    wanted: Hook
    excluded: Hook | None


@dataclass(frozen=True)
class Binding:
    """What a policy is applied to, with which parameters and what consequences."""

    name: str
    spec: Object
    scope: Scope | None


@dataclass(frozen=True)
class Policy:
    """One policy."""

    name: str
    spec: Object
    scope: Scope

    @property
    def fails_open(self) -> bool:
        """Whether an expression without a value is passed over."""
        return self.spec.get("failurePolicy") == "Ignore"


class UndecidedError(Exception):
    """An expression of a policy has no value; its failurePolicy says what that means."""


class Policies:
    """The registered policies of one kind, with their bindings.

    Args:
        plural: ``validatingadmissionpolicies`` or ``mutatingadmissionpolicies``.
    """

    def __init__(self, store: Store, catalog: Catalog, plural: str) -> None:
        self._store = store
        self._catalog = catalog
        self._hooks = Hooks(store, catalog)
        self._policies = f"{plural}.{GROUP}"
        self._bindings = f"{plural.removesuffix('ies')}ybindings.{GROUP}"
        self._parsed: dict[Key, tuple[int, Any]] = {}

    def any(self) -> bool:
        """Whether any policy is bound at all."""
        return bool(self._store.rows(self._bindings))

    def bound(self, write: Write) -> Iterator[tuple[Policy, Binding, Served]]:
        """Every policy and binding that match, with the API version the policy sees."""
        if write.served.storage in _EXCLUDED:
            return
        bindings = self._store.rows(self._bindings)
        for row in self._store.rows(self._policies) if bindings else ():
            policy = self._parse(row, _policy)
            shown = self._in_scope(policy.scope, write)
            if shown is None:
                continue
            for each in bindings:
                binding = self._parse(each, _binding)
                if binding.spec.get("policyName") != policy.name:
                    continue
                if binding.scope is None or self._in_scope(binding.scope, write) is not None:
                    yield policy, binding, shown

    def _parse(self, row: Row, parse: Any) -> Any:
        known = self._parsed.get(row.key)
        if known is None or known[0] != row.rv:
            known = self._parsed[row.key] = (row.rv, parse(row.decode()))
        return known[1]

    def _in_scope(self, scope: Scope, write: Write) -> Served | None:
        """The API version the scope names the write's resource in; None if it is not meant."""
        wanted = _named(scope.wanted, write)
        shown = self._hooks.wanted(wanted, write)
        if shown is None or scope.excluded is None:
            return shown
        excluded = self._hooks.wanted(_named(scope.excluded, write), write)
        return shown if excluded is None else None

    def values(self, write: Write, shown: Served) -> Object:
        """What the expressions see."""
        space = None
        if write.namespace:
            row = self._store.latest(Key("namespaces", "", write.namespace))
            space = row.decode() if row else None
        return {
            "object": shown_as(shown, write.new),
            "oldObject": shown_as(shown, write.old),
            "request": _request(write, shown),
            "namespaceObject": space,
            "authorizer": authorizer_of(write.user.info(), asked(write)),
        }

    def params(self, policy: Policy, binding: Binding, write: Write) -> list[Object | None]:
        """The parameter objects the policy is applied with, each by itself.

        Raises:
            UndecidedError: there are none.
        """
        kind = policy.spec.get("paramKind")
        reference = binding.spec.get("paramRef")
        if not kind or not reference:
            return [None]
        served = self._catalog.of_kind(kind.get("apiVersion", ""), kind.get("kind", ""))
        if served is None:
            api_version = f"{kind.get('apiVersion')}, Kind={kind.get('kind')}"
            text = f"failed to find resource referenced by paramKind: '{api_version}'"
            raise UndecidedError(f"failed to configure binding: {text}")
        namespace = ""
        if served.resource.namespaced:
            namespace = reference.get("namespace") or write.namespace
            if not namespace:
                text = "cannot use namespaced paramRef in policy binding that matches"
                text += " cluster-scoped resources"
                raise UndecidedError(f"failed to configure binding: {text}")
        found = self._find_params(served, namespace, reference)
        if not found and reference.get("parameterNotFoundAction") != "Allow":
            text = "no params found for policy binding with `Deny` parameterNotFoundAction"
            raise UndecidedError(f"failed to configure binding: {text}")
        return found

    def _find_params(
        self, served: Served, namespace: str, reference: Object
    ) -> list[Object | None]:
        if reference.get("name"):
            row = self._store.get(Key(served.storage, namespace, reference["name"]))
            return [shown_as(served, row.decode())] if row else []
        chosen = selectors.from_object(reference.get("selector"))
        rows = (row.decode() for row in self._store.rows(served.storage, namespace))
        return [shown_as(served, obj) for obj in rows if chosen.matches(labels_of(obj))]


def _policy(obj: Object) -> Policy:
    spec = obj.get("spec") or {}
    return Policy(name_of(obj), spec, _scope(name_of(obj), spec.get("matchConstraints") or {}))


def _binding(obj: Object) -> Binding:
    spec = obj.get("spec") or {}
    given = spec.get("matchResources")
    return Binding(name_of(obj), spec, _scope(name_of(obj), given) if given else None)


def _scope(name: str, given: Object) -> Scope:
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
    return Scope(wanted, excluded)


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


def shown_as(served: Served, obj: Object | None) -> Object | None:
    """A stored object as an API version shows it."""
    if obj is None:
        return None
    shown = served.to_shown(obj) if served.to_shown else obj
    return {**shown, "apiVersion": served.resource.api_version, "kind": served.resource.kind}


def asked(write: Write) -> Object:
    """What the request is about, for ``authorizer.requestResource``."""
    resource = write.served.resource
    return {
        "group": resource.group,
        "version": resource.version,
        "resource": resource.plural,
        "subresource": write.subresource,
        "namespace": write.namespace,
        "name": write.name,
    }


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
        raise UndecidedError(f"compilation error: {error.message}") from error


class Evaluator:
    """The expressions of a policy over one set of values; its variables once, when used."""

    def __init__(self, policy: Policy, values: Object) -> None:
        self._given = {
            each["name"]: each.get("expression") or ""
            for each in policy.spec.get("variables") or ()
        }
        self._size = largest(list(values.values()))
        self._values: Object = {"params": None, **values, "variables": {}}

    def value(self, text: str) -> Any:
        """An expression's value.

        Raises:
            UndecidedError: it has none.
        """
        program = _compile(text)
        try:
            return program.evaluate(self._ready(program), self._largest())
        except EvaluationError as error:
            raise UndecidedError(
                f"expression '{text.strip()}' resulted in error: {error.message}"
            ) from error

    def message(self, text: str) -> str:
        """What a message expression says; empty where it has nothing to say."""
        try:
            program = _compile(text)
            return message_of(program, self._ready(program), self._largest())
        except UndecidedError:
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


def conditions_hold(policy: Policy, values: Object) -> bool:
    """Whether all ``matchConditions`` hold.

    Raises:
        UndecidedError: one has no value, and no other says no.
    """
    evaluator = Evaluator(policy, values)
    undecided = None
    for condition in policy.spec.get("matchConditions") or ():
        try:
            if evaluator.value(condition.get("expression") or "") is not True:
                return False  # whatever the others say
        except UndecidedError as error:
            undecided = error
    if undecided is not None:
        raise undecided
    return True
