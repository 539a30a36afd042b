"""Mutating admission policies: writes changed by expressions in CEL.

An ``ApplyConfiguration`` is merged as server-side apply merges, but may not touch what is owned
whole: setting one field of it would drop the others. A ``JSONPatch`` is applied as RFC 6902 says.

Source: Kubernetes "Mutating Admission Policy", KEP-3962; messages as apiserver
``pkg/admission/plugin/policy/mutating`` gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from underway.api import fieldsets
from underway.api import schema as schemas
from underway.api.objects import Object, meta
from underway.api.patches import copy_json, json_patch
from underway.api.schema import Schema
from underway.base.errors import Forbidden, Invalid, UnderwayError
from underway.server.admission.policy import (
    Binding,
    Evaluator,
    Policies,
    Policy,
    UndecidedError,
    conditions_hold,
    shown_as,
)
from underway.server.admission.write import DELETE, Write
from underway.server.call import refused
from underway.server.catalog import Catalog, Served
from underway.server.store import Store

Complete = Callable[[Object], None]


@dataclass(slots=True)
class Round:
    """What one pass over the policies did: changes made, and how many there were before each."""

    changes: int = 0
    ran: dict[tuple[str, str], int] = field(default_factory=dict)


class MutatingPolicies:
    """The registered mutating policies, applied to writes."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._policies = Policies(store, catalog, "mutatingadmissionpolicies")

    def any(self) -> bool:
        """Whether any policy is bound at all."""
        return self._policies.any()

    def mutate(self, write: Write, complete: Complete, last: Round | None = None) -> Round:
        """Apply every bound policy that matches, one after another, to ``write.new``.

        Args:
            complete: brings a changed object into its kind's shape.
            last: the first pass, if this is the second one: then only policies are applied that
                want to be again (``reinvocationPolicy: IfNeeded``) where others changed the object
                after them.

        Raises:
            Forbidden: an expression that must have a value has none, or none that can be applied.
        """
        now = Round()
        if write.operation == DELETE or write.new is None:
            return now
        for policy, binding, shown in self._policies.bound(write):
            key = (policy.name, binding.name)
            if last is not None and not _again(policy, last, key):
                continue
            now.changes += self._apply(policy, binding, shown, write, complete)
            now.ran[key] = now.changes
        return now

    def _apply(
        self, policy: Policy, binding: Binding, shown: Served, write: Write, complete: Complete
    ) -> int:
        """Apply one policy; how often it changed the object."""
        changes = 0
        try:
            if not conditions_hold(policy, self._policies.values(write, shown)):
                return 0
            for params in self._policies.params(policy, binding, write):
                for mutation in policy.spec.get("mutations") or ():
                    values = {**self._policies.values(write, shown), "params": params}
                    changed = _mutated(policy, mutation, values, shown)
                    changes += _replaced(write, changed, complete, shown)
        except UndecidedError as error:
            if not policy.fails_open:
                names = f"policy '{policy.name}' with binding '{binding.name}'"
                why = f"{names} denied request: {error}"
                raise refused(Forbidden, write.served, write.name, why) from error
        return changes


def _again(policy: Policy, last: Round, key: tuple[str, str]) -> bool:
    if policy.spec.get("reinvocationPolicy") != "IfNeeded":
        return False
    return last.ran.get(key) != last.changes


def _mutated(policy: Policy, mutation: Object, values: Object, shown: Served) -> Object:
    """The object as one mutation leaves it.

    Raises:
        UndecidedError: it cannot be made.
    """
    kind = mutation.get("patchType")
    name = "applyConfiguration" if kind == "ApplyConfiguration" else "jsonPatch"
    text = (mutation.get(name) or {}).get("expression") or ""
    found = Evaluator(policy, values).value(text)
    live = copy_json(values["object"])
    try:
        if kind == "ApplyConfiguration":
            return _merged(shown.schema, live, found)
        if not isinstance(found, list):
            raise UndecidedError(
                f"unsupported return type from JSONPatch expression: {type(found).__name__}"
            )
        return json_patch(live, found)
    except UnderwayError as error:
        raise UndecidedError(f"error applying patch: {error.message}") from error


def _merged(schema: Schema, live: Object, patch: Any) -> Object:
    if not isinstance(patch, dict):
        raise UndecidedError(
            "unsupported return type from ApplyConfiguration expression: " + type(patch).__name__
        )
    for name in ("apiVersion", "kind"):
        if patch.setdefault(name, live[name]) != live[name]:
            raise Invalid(f"invalid ApplyConfiguration: {name} may not be changed")
    if unknown := schemas.unknown_fields(schema, patch):
        why = "; ".join(f".{name}: field not declared in schema" for name in unknown)
        raise Invalid(f"failed to convert patch object to typed object: {why}")
    if whole := list(_owned_whole(schema, patch, "")):
        why = f"may not mutate atomic arrays, maps or structs: {', '.join(whole)}"
        raise Invalid(f"invalid ApplyConfiguration: {why}")
    merged: Object = fieldsets.merge(schema, live, patch)
    return merged


def _owned_whole(schema: Schema, value: Any, path: str) -> Iterator[str]:
    """The places of a patch that are lists, maps or objects owned as a whole."""
    if isinstance(value, dict):
        if schema.atomic_map:
            yield path
            return
        for name, item in value.items():
            child = schema.field(name)
            if child is not None:
                yield from _owned_whole(child, item, f"{path}.{name}")
    elif isinstance(value, list):
        if schema.list_type == "atomic":
            yield path
        elif schema.items is not None:
            for number, item in enumerate(value):
                yield from _owned_whole(schema.items, item, f"{path}[{number}]")


def _replaced(write: Write, changed: Object, complete: Complete, shown: Served) -> bool:
    """Put the changed object in the place of the one to be written; whether it differs."""
    new = write.new
    assert new is not None
    if changed == shown_as(shown, new):
        return False
    stored = shown.to_stored(changed) if shown.to_stored else changed
    stored["apiVersion"], stored["kind"] = new.get("apiVersion"), new.get("kind")
    for name in ("name", "namespace", "uid"):
        if meta(stored).get(name) != meta(new).get(name):
            raise UndecidedError(f"error applying patch: metadata.{name} may not be changed")
    try:
        complete(stored)
    except UnderwayError as error:
        raise UndecidedError(f"error applying patch: {error.message}") from error
    if stored == new:
        return False
    new.clear()
    new.update(stored)
    return True
