"""What the server serves: the built-in resources and, live, those of CustomResourceDefinitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from underway.api import schema as schemas
from underway.api.apply import Versions
from underway.api.cel.rules import RuleSet
from underway.api.objects import Object
from underway.api.patches import copy_json
from underway.api.resources import (
    BUILTIN,
    EVENTS,
    EVENTS_CORE,
    HORIZONTALPODAUTOSCALERS,
    HORIZONTALPODAUTOSCALERS_V1,
    Resource,
)
from underway.api.schema import Schema
from underway.server import autoscaling, conversion

Convert = Callable[[Object], Object]


@dataclass(frozen=True, slots=True)
class Custom:
    """What a CustomResourceDefinition's version says of its resource.

    ``rules`` are the schema's rules in CEL; ``defaulted`` says whether it has defaults;
    ``columns`` are its additionalPrinterColumns; ``scale`` the scale subresource's paths or None;
    ``status`` whether the status subresource is there.
    """

    definition: str
    schema: Schema
    openapi: Object
    rules: RuleSet
    defaulted: bool = False
    columns: tuple[Object, ...] = ()
    status: bool = False
    scale: Object | None = None
    selectable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Served:
    """One resource as one API version shows it.

    ``storage`` names where its objects lie; APIs with the same storage show the same objects.
    ``to_stored`` and ``to_shown`` convert between the two shapes; None where they are equal. Those
    of custom resources take an object of any version, and raise ``versions.Unconverted`` where a
    webhook has to be asked first. Built-in kinds are worked on in their stored shape, custom
    resources in the version the request speaks. ``convert`` is ``to_shown`` of a custom resource,
    there even where all that is stored is of this version.
    """

    resource: Resource
    storage: str
    stored_version: str
    to_stored: Convert | None = None
    to_shown: Convert | None = None
    custom: Custom | None = None
    convert: Convert | None = None

    @property
    def schema(self) -> Schema:
        """The type of the objects as shown."""
        if self.custom is not None:
            return self.custom.schema
        found = schemas.builtin(self.resource.api_version, self.resource.kind)
        assert found is not None, f"no schema for {self.resource.kind}"
        return found

    @property
    def hub(self) -> bool:
        """Whether a write works on the version asked for, and converts to the stored one last."""
        return self.custom is not None and self.to_shown is not None

    @property
    def as_stored(self) -> bool:
        """Whether objects are shown just as they are stored."""
        return self.to_shown is None and not (self.custom is not None and self.custom.defaulted)

    def shown(self, data: bytes) -> bytes:
        """A stored object's JSON in this API's shape."""
        if self.as_stored:
            return data
        obj = msgspec.json.decode(data)
        if self.to_shown is not None:
            obj = self.to_shown(obj)
        if self.custom is not None and self.custom.defaulted:
            # It was stored before the schema had them, perhaps.
            schemas.apply_schema_defaults(self.schema, obj)
        return msgspec.json.encode(obj)


# Group order of discovery: kubectl resolves an ambiguous name to the group listed first.
# Source: kubernetes pkg/controlplane, API group priorities.
_GROUP_ORDER = (
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "resource.k8s.io",
    "storagemigration.k8s.io",
)


BUILTIN_GROUPS = frozenset(resource.group for resource in BUILTIN)


def builtin(resource: Resource) -> Served:
    """How a built-in resource is served."""
    if resource == EVENTS:
        return Served(
            resource, EVENTS_CORE.group_resource, "v1", conversion.to_core, conversion.to_events_api
        )
    if resource == HORIZONTALPODAUTOSCALERS_V1:
        stored = HORIZONTALPODAUTOSCALERS.api_version
        return Served(
            resource, resource.group_resource, stored, autoscaling.to_v2, autoscaling.to_v1
        )
    return Served(resource, resource.group_resource, resource.api_version)


class Catalog:
    """Finds served resources by path or kind. ``generation`` grows with every change."""

    def __init__(self, resources: Iterable[Resource] = BUILTIN) -> None:
        self.generation = 1
        self._by_path: dict[tuple[str, str, str], Served] = {}
        self._by_kind: dict[tuple[str, str], Served] = {}
        self._of_definition: dict[str, list[Served]] = {}
        for resource in resources:
            self._add(builtin(resource))

    def __iter__(self) -> Iterator[Served]:
        return iter(self._by_path.values())

    def find(self, group: str, version: str, plural: str) -> Served | None:
        """The resource at a path."""
        return self._by_path.get((group, version, plural))

    def of(self, resource: Resource) -> Served:
        """The served form of a resource that is known to be served."""
        return self._by_path[resource.group, resource.version, resource.plural]

    def of_kind(self, api_version: str, kind: str) -> Served | None:
        """The resource whose objects are of this kind."""
        return self._by_kind.get((api_version, kind))

    def by_group_resource(self, group: str, plural: str) -> Served | None:
        """A served version of a resource, whichever comes first."""
        for served in self._by_path.values():
            if served.resource.group == group and served.resource.plural == plural:
                return served
        return None

    def groups(self) -> dict[str, list[str]]:
        """Group -> versions, both in the order of discovery."""
        found: dict[str, list[str]] = {}
        for group, version, _ in self._by_path:
            versions = found.setdefault(group, [])
            if version not in versions:
                versions.append(version)
        for versions in found.values():
            versions.sort(key=version_priority)
        rank = {group: index for index, group in enumerate(_GROUP_ORDER)}
        return {g: found[g] for g in sorted(found, key=lambda g: (rank.get(g, len(rank)), g))}

    def in_version(self, group: str, version: str) -> list[Served]:
        """The resources of one group and version, by name."""
        return sorted(
            (s for (g, v, _), s in self._by_path.items() if (g, v) == (group, version)),
            key=lambda s: s.resource.plural,
        )

    def versions_of(self, served: Served) -> Versions:
        """Converts objects of a kind from any version that is served to any other."""

        def convert(obj: Object, version: str) -> tuple[Schema, Object] | None:
            kind = served.resource.kind
            other = self._by_kind.get((version, kind))
            if other is None or other.storage != served.storage:
                return None
            if not obj:
                return other.schema, {}
            if other.custom is not None:
                return other.schema, other.convert(obj) if other.convert else obj
            given = self._by_kind.get((str(obj.get("apiVersion")), kind))
            obj = copy_json(obj)
            if given is not None and given.to_stored is not None:
                obj = given.to_stored(obj)
            return other.schema, other.to_shown(obj) if other.to_shown else obj

        return convert

    def set_custom(self, definition: str, versions: list[Served]) -> None:
        """Serve these versions of a CustomResourceDefinition, and no others of it."""
        for old in self._of_definition.pop(definition, []):
            resource = old.resource
            self._by_path.pop((resource.group, resource.version, resource.plural), None)
            self._by_kind.pop((resource.api_version, resource.kind), None)
        for served in versions:
            self._add(served)
        if versions:
            self._of_definition[definition] = versions
        self.generation += 1

    def _add(self, served: Served) -> None:
        resource = served.resource
        self._by_path[resource.group, resource.version, resource.plural] = served
        self._by_kind.setdefault((resource.api_version, resource.kind), served)


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Sort key that puts v2 before v1 before v1beta2 before v1alpha1 before other names.

    Source: Kubernetes, "Versions in CustomResourceDefinitions", version priority.
    """
    stages = {"": 0, "beta": 1, "alpha": 2}
    text = version[1:]
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    rest = text[len(digits) :]
    stage = rest.rstrip("0123456789")
    number = rest[len(stage) :]
    if (
        not version.startswith("v")
        or not digits
        or stage not in stages
        or bool(stage) != bool(number)
    ):
        return (3, 0, 0, version)
    return (stages[stage], -int(digits), -int(number or 0), "")
