"""Draft's own files: ``draft.toml`` of Draft 0.x, ``draft.yaml`` of the packs of today.

Source: Azure/draft-classic docs/reference/dep-006.md (draft.toml); Azure/draft docs/template
reference (draft.yaml: ``variables`` with ``name``, ``default.value``, ``description``).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from underway.base.errors import BadRequest
from underway.capabilities.packs.model import Environment, Variable

_PLACEHOLDER = re.compile(
    r"\{\{-?\s*(?:\.Config\.GetVariableValue\s+\"(?P<call>\w+)\"|\.?(?P<name>[A-Z][A-Z0-9_]*))\s*-?\}\}"
)


def environment(text: str, chosen: str) -> Environment:
    """One environment of a ``draft.toml``.

    Raises:
        BadRequest: it is no TOML, or has no such environment, or names a file outside the source.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"draft.toml: {error}") from error
    environments = table.get("environments") or {}
    if chosen not in environments:
        raise BadRequest(
            f"draft.toml has no environment {chosen}",
            hint=f"set DRAFT_ENV to one of {', '.join(environments) or 'its environments'}",
        )
    found = environments[chosen]
    dockerfile = str(found.get("dockerfile") or "Dockerfile")
    path = PurePosixPath(dockerfile)
    if path.is_absolute() or ".." in path.parts:
        raise BadRequest(f"draft.toml: the dockerfile {dockerfile} lies outside of the source")
    return Environment(
        name=str(found.get("name") or ""),
        namespace=str(found.get("namespace") or ""),
        dockerfile=path.as_posix(),
        build_args=_build_args(found.get("image-build-args")),
    )


def _build_args(value: object) -> dict[str, str]:
    if isinstance(value, dict):
        return {str(name): str(each) for name, each in value.items()}
    pairs = [str(each).partition("=") for each in value] if isinstance(value, list) else []
    return {name: text for name, mark, text in pairs if mark}


def variables(document: Any) -> list[Variable]:
    """The variables a ``draft.yaml`` declares.

    Raises:
        BadRequest: it does not have the form of one.
    """
    entries = document.get("variables", []) if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise BadRequest("draft.yaml: variables is not a list")
    found = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise BadRequest("draft.yaml: a variable has no name")
        default = entry.get("default")
        value = default.get("value") if isinstance(default, dict) else default
        found.append(
            Variable(
                entry["name"],
                None if value is None else str(value),
                str(entry.get("description") or ""),
            )
        )
    return found


def resolve(declared: Iterable[Variable], given: Mapping[str, str]) -> dict[str, str]:
    """The value of every variable: the one given, or its default.

    Raises:
        BadRequest: one has neither, or one is given that is not declared.
    """
    known = {each.name: each for each in declared}
    for name in given:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise BadRequest(f"--variable {name}: the pack has no such variable (it has: {listed})")
    values: dict[str, str] = {}
    for name, variable in known.items():
        value = given.get(name, variable.default)
        if value is None:
            about = f" ({variable.description})" if variable.description else ""
            raise BadRequest(f"the pack's variable {name}{about} has no default",
                             hint=f"--variable {name}=VALUE")  # fmt: skip
        values[name] = value
    return values


def substitute(text: str, values: Mapping[str, str]) -> str:
    """A pack's file with its variables in place; braces of other kinds stay as they are."""
    return _PLACEHOLDER.sub(
        lambda match: values.get(match["call"] or match["name"], match[0]), text
    )
