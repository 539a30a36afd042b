"""A new operator project: whether its names are good ones, and the text of its files."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import jinja2

from underway.base.errors import BadRequest

_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,51}[a-z0-9])?")  # room for -system within 63 characters
_GROUP = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+")
_KIND = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
_VERSION = re.compile(r"v[1-9][0-9]*((alpha|beta)[1-9][0-9]*)?")


@dataclass(frozen=True)
class Project:
    """The names in a project."""

    name: str
    group: str
    kind: str
    version: str
    plural: str

    @property
    def package(self) -> str:
        """The Python package."""
        return self.name.replace("-", "_")

    @property
    def singular(self) -> str:
        """The kind in lower case."""
        return self.kind.lower()


def project(name: str, group: str, kind: str, version: str, plural: str = "") -> Project:
    """The names of a new project.

    Raises:
        BadRequest: one cannot be used, and why.
    """
    plural = plural or plural_of(kind)
    for what, value, pattern, form in (
        ("name", name, _LABEL, "lower-case letters, digits and dashes, at most 53"),
        ("group", group, _GROUP, "a domain with a dot, such as example.com"),
        ("kind", kind, _KIND, "CamelCase, such as Widget"),
        ("version", version, _VERSION, "such as v1 or v1alpha1"),
        ("plural", plural, _LABEL, "lower-case letters, digits and dashes"),
    ):
        if not pattern.fullmatch(value):
            raise BadRequest(f"{what} {value!r} cannot be used", hint=f"{what}: {form}")
    if group.endswith((".k8s.io", ".kubernetes.io")):
        raise BadRequest(f"group {group} belongs to Kubernetes", hint="use a domain of your own")
    made = Project(name, group, kind, version, plural)
    taken = made.package in sys.stdlib_module_names or made.package in ("underway", "tests")
    if taken or keyword.iskeyword(made.package):
        raise BadRequest(
            f"name {name!r} is taken by a Python module", hint=f"for example {name}-operator"
        )
    return made


def plural_of(kind: str) -> str:
    """The usual plural in lower case."""
    word = kind.lower()
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def render(made: Project, templates: Mapping[str, str]) -> dict[str, str]:
    """The project's files: path to text, of templates with the same paths and ``.j2``."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # Python and YAML, no HTML
    )
    names = {
        "name": made.name,
        "package": made.package,
        "group": made.group,
        "kind": made.kind,
        "version": made.version,
        "plural": made.plural,
        "singular": made.singular,
    }
    files = {}
    for path, text in sorted(templates.items()):
        path = path.removesuffix(".j2")
        target = path.replace("package/", f"{made.package}/").replace("{{package}}", made.package)
        target = {"dockerignore": ".dockerignore"}.get(target, target)
        files[target] = environment.from_string(text).render(names)
    return files
