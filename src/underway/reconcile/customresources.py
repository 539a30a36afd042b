"""Custom resources: one typed model, and from it the resource, its CRD and its objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from underway.api.objects import Object, name_of
from underway.api.resources import Resource
from underway.base.errors import BadRequest, Cause, Invalid
from underway.reconcile.schemas import schema_of

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; ``path`` is a JSONPath such as ``.spec.colour``."""

    name: str
    path: str
    type: str = "string"
    description: str = ""
    priority: int = 0

    def as_dict(self) -> Object:
        """As it stands in ``additionalPrinterColumns``."""
        found: Object = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.description:
            found["description"] = self.description
        if self.priority:
            found["priority"] = self.priority
        return found


@dataclass(frozen=True, slots=True)
class Scale:
    """Where ``kubectl scale`` and autoscalers find and set the number of replicas."""

    spec_path: str = ".spec.replicas"
    status_path: str = ".status.replicas"
    selector_path: str = ""

    def as_dict(self) -> Object:
        """As it stands in ``subresources.scale``."""
        selector = {"labelSelectorPath": self.selector_path} if self.selector_path else {}
        return {
            "specReplicasPath": self.spec_path,
            "statusReplicasPath": self.status_path,
            **selector,
        }


@dataclass(frozen=True)
class CustomResource(Generic[S]):
    """One version of a custom resource.

    Attributes:
        group: a domain with a dot.
        version: ``v1``, ``v1alpha1`` …
        kind: CamelCase.
        spec: model of ``spec``, see ``schema_of``.
        status: model of ``status``; without one, any status is kept.
        plural: lower-case; by default the kind's, with an ``s``.
        rules: CEL rules of the whole object: expression and message.
        selectable: JSONPaths that field selectors may name.
    """

    group: str
    version: str
    kind: str
    spec: type[S]
    status: Any = None
    plural: str = ""
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    scale: Scale | None = None
    rules: tuple[tuple[str, str], ...] = ()
    selectable: tuple[str, ...] = ()
    deprecated: str = ""

    @cached_property
    def resource(self) -> Resource:
        """The REST resource."""
        return Resource(
            self.group,
            self.version,
            self.plural or f"{self.kind.lower()}s",
            self.kind,
            self.namespaced,
            self.kind.lower(),
            self.short_names,
            self.categories,
            subresources=("scale", "status") if self.scale else ("status",),
        )

    def crd(self) -> Object:
        """The CustomResourceDefinition with this one version."""
        return definition(self)

    def version_entry(self, *, storage: bool) -> Object:
        """This version's entry in ``spec.versions``.

        Raises:
            BadRequest: a model has no structural schema.
        """
        status = (
            schema_of(self.status)
            if self.status is not None
            else {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        )
        schema: Object = {
            "type": "object",
            "required": ["spec"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "spec": schema_of(self.spec),
                "status": status,
            },
        }
        if self.rules:
            schema["x-kubernetes-validations"] = [
                {"rule": expression, "message": message} for expression, message in self.rules
            ]
        entry: Object = {
            "name": self.version,
            "served": True,
            "storage": storage,
            "schema": {"openAPIV3Schema": schema},
            "subresources": {
                "status": {},
                **({"scale": self.scale.as_dict()} if self.scale else {}),
            },
        }
        if self.columns:
            entry["additionalPrinterColumns"] = [each.as_dict() for each in self.columns]
        if self.selectable:
            entry["selectableFields"] = [{"jsonPath": path} for path in self.selectable]
        if self.deprecated:
            entry |= {"deprecated": True, "deprecationWarning": self.deprecated}
        return entry

    def object(self, name: str, spec: S, namespace: str = "") -> Object:
        """An object of this kind, to be created or applied."""
        header = {"name": name, **({"namespace": namespace} if namespace else {})}
        return {
            "apiVersion": self.resource.api_version,
            "kind": self.kind,
            "metadata": header,
            "spec": msgspec.to_builtins(spec),
        }

    def spec_of(self, obj: Object) -> S:
        """The object's spec as the model; defaults are filled in.

        Raises:
            Invalid: it does not fit the model, naming the field.
        """
        return self._read(obj, "spec", self.spec)

    def status_of(self, obj: Object) -> Any:
        """The object's status as the model; None where it has none.

        Raises:
            Invalid: it does not fit the model, naming the field.
        """
        if self.status is None or not obj.get("status"):
            return obj.get("status")
        return self._read(obj, "status", self.status)

    def _read(self, obj: Object, part: str, model: type[T]) -> T:
        try:
            return msgspec.convert(obj.get(part) or {}, model)
        except msgspec.ValidationError as error:
            text, _, path = str(error).partition(" - at `$")
            cause = Cause(f"{part}{path.rstrip('`')}", text)
            raise Invalid(
                f"{self.kind} {name_of(obj)}: {cause.field}: {text}", causes=[cause]
            ) from error


def definition(
    *versions: CustomResource[Any], storage: str = "", conversion: Object | None = None
) -> Object:
    """A CustomResourceDefinition of several versions of one kind.

    Args:
        versions: the newest first.
        storage: the version objects are stored in; by default the first.
        conversion: ``spec.conversion``; see ``WebhookServer.conversion``.

    Raises:
        BadRequest: the versions are not of one kind, or a model has no structural schema.
    """
    if not versions:
        raise BadRequest("a CustomResourceDefinition needs a version")
    first = versions[0]
    named = {(v.group, v.kind, v.resource.plural, v.namespaced) for v in versions}
    if len(named) > 1:
        raise BadRequest(f"not versions of one kind: {sorted(map(str, named))}")
    chosen = storage or first.version
    if chosen not in {each.version for each in versions}:
        raise BadRequest(f"{first.kind} has no version {chosen} to be stored in")
    names: Object = {
        "kind": first.kind,
        "listKind": first.resource.list_kind,
        "plural": first.resource.plural,
        "singular": first.resource.singular,
    }
    names |= _lists(shortNames=first.short_names, categories=first.categories)
    spec: Object = {
        "group": first.group,
        "scope": "Namespaced" if first.namespaced else "Cluster",
        "names": names,
        "versions": [each.version_entry(storage=each.version == chosen) for each in versions],
    }
    if conversion is not None:
        spec["conversion"] = conversion
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": first.resource.group_resource},
        "spec": spec,
    }


def _lists(**values: Sequence[str]) -> Object:
    return {name: [*each] for name, each in values.items() if each}
