"""What an upstream's OpenAPI has that another lacks: groups, kinds, fields, paths and verbs.

Source: OpenAPI 2.0 and 3.0 as Kubernetes publishes them (``definitions`` or ``components.schemas``,
``x-kubernetes-group-version-kind``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_METHODS = frozenset({"get", "put", "post", "delete", "patch", "options", "head"})
_PARAMETER = re.compile(r"\{[^}]*\}")
_Kind = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Surface:
    """What one or more OpenAPI documents describe.

    ``kinds`` maps (group, version, kind) to its definition's name, ``fields`` a definition to its
    field names, ``paths`` a path, its parameters written ``{}``, to its methods.
    """

    kinds: dict[_Kind, str] = field(default_factory=dict)
    fields: dict[str, frozenset[str]] = field(default_factory=dict)
    uses: dict[str, frozenset[str]] = field(default_factory=dict)
    paths: dict[str, frozenset[str]] = field(default_factory=dict)

    def add(self, document: Mapping[str, Any]) -> None:
        """Take in an OpenAPI v2 or v3 document; what is no such document adds nothing."""
        components = _mapping(_mapping(document.get("components")).get("schemas"))
        for name, node in {**_mapping(document.get("definitions")), **components}.items():
            self._add_definition(name, _mapping(node))
        for path, operations in _mapping(document.get("paths")).items():
            plain = _PARAMETER.sub("{}", path)
            methods = _METHODS & _mapping(operations).keys()
            self.paths[plain] = self.paths.get(plain, frozenset()) | methods

    def _add_definition(self, name: str, node: Mapping[str, Any]) -> None:
        properties = _mapping(node.get("properties"))
        self.fields[name] = self.fields.get(name, frozenset()) | properties.keys()
        self.uses[name] = self.uses.get(name, frozenset()) | frozenset(_references(node))
        named = node.get("x-kubernetes-group-version-kind")
        kinds = [_mapping(each) for each in named] if isinstance(named, list) else []
        if len(kinds) == 1:  # options and the like belong to every group
            gvk = kinds[0]
            key = (str(gvk.get("group", "")), str(gvk.get("version", "")), str(gvk.get("kind", "")))
            self.kinds[key] = name

    @property
    def groups(self) -> set[str]:
        """Groups with versions, ``apps/v1``, or ``v1`` of the core group."""
        found = {f"{group}/{version}".lstrip("/") for group, version, _ in self.kinds}
        for path in self.paths:
            match path.split("/")[1:]:
                case ["api", version, _, *_]:
                    found.add(version)
                case ["apis", group, version, _, *_]:
                    found.add(f"{group}/{version}")
        return {each for each in found if each}


@dataclass(frozen=True, slots=True)
class Missing:
    """What the other lacks, each list sorted. Of a missing group nothing below it is listed."""

    groups: list[str]
    kinds: list[str]
    fields: list[str]
    operations: list[str]

    @property
    def count(self) -> int:
        """How many differences there are."""
        return len(self.groups) + len(self.kinds) + len(self.fields) + len(self.operations)


def missing(upstream: Surface, ours: Surface) -> Missing:
    """What upstream has and ours lacks. A field is listed once, under the type that has it."""
    groups = upstream.groups - ours.groups
    kinds, definitions = [], set()
    for (group, version, kind), name in upstream.kinds.items():
        api_version = f"{group}/{version}".lstrip("/")
        if api_version in groups:
            continue
        if (group, version, kind) in ours.kinds:
            definitions |= _reached(upstream, name)
        else:
            kinds.append(f"{api_version} {kind}")
    fields = [
        f"{name}.{each}"
        for name in definitions & ours.fields.keys()
        for each in upstream.fields.get(name, frozenset()) - ours.fields[name]
    ]
    operations = [
        f"{method.upper()} {path}"
        for path, methods in upstream.paths.items()
        if not any(_within(path, group) for group in groups)
        for method in methods - ours.paths.get(path, frozenset())
    ]
    return Missing(sorted(groups), sorted(kinds), sorted(fields), sorted(operations))


def _within(path: str, api_version: str) -> bool:
    root = "/apis/" if "/" in api_version else "/api/"
    return path == root + api_version or path.startswith(f"{root}{api_version}/")


def _reached(surface: Surface, name: str) -> set[str]:
    found, pending = set(), [name]
    while pending:
        current = pending.pop()
        if current not in found:
            found.add(current)
            pending.extend(surface.uses.get(current, ()))
    return found


def _references(node: Any) -> Iterable[str]:
    if isinstance(node, Mapping):
        for key, child in node.items():
            if key == "$ref" and isinstance(child, str):
                yield child.rpartition("/")[2]
            else:
                yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
