"""A base image by declaration: what a file says, and what it means with all it includes.

``apiVersion: base.underway.dev/v1alpha1``, ``kind: BaseImage``. A declaration starts from nothing
or from another (``base``, whose layers it shares), takes over others (``include``), and may have
variants that add to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from underway.base.errors import BadRequest

API_VERSION = "base.underway.dev/v1alpha1"
KIND = "BaseImage"
NESTING_MAX = 8
_REPLACED = frozenset({"entrypoint", "cmd", "architectures"})  # other lists grow
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=\S+)?|[?~][^\s;|&]+")
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class User(_Strict, frozen=True):
    """An account; ``group`` is its first group's name, by default one of its own name and id."""

    name: str
    uid: int
    group: str = ""
    home: str = "/nonexistent"
    shell: str = "/usr/sbin/nologin"
    comment: str = ""


class Group(_Strict, frozen=True):
    """A group of accounts."""

    name: str
    gid: int
    members: list[str] = []


class PathEntry(_Strict, frozen=True):
    """Something that stands at a path once all packages are unpacked.

    ``permissions`` changes what is there, below it too with ``recursive``; ``absent`` takes it away
    (a glob may name several). ``owner`` is ``USER[:GROUP]`` by name or number.
    """

    path: str
    type: Literal["file", "directory", "symlink", "permissions", "absent"] = "file"
    content: str = ""
    target: str = ""
    mode: int | None = None
    owner: str = ""
    recursive: bool = False


class Spec(_Strict, frozen=True):
    """What an image is made of.

    ``packages`` are names, ``NAME=VERSION`` or apt's patterns (``?essential``). ``exclude`` are
    globs of paths left out of packages, less those that match ``keep``. ``steps`` are Dockerfile
    instructions for what only maintainer scripts or programs can do; they run on top.
    """

    suite: str = "bookworm"
    packages: list[str] = []
    users: list[User] = []
    groups: list[Group] = []
    paths: list[PathEntry] = []
    exclude: list[str] = []
    keep: list[str] = []
    environment: dict[str, str] = {}
    entrypoint: list[str] = []
    cmd: list[str] = []
    workdir: str = ""
    user: str = ""
    ports: list[str | int] = []
    volumes: list[str] = []
    labels: dict[str, str] = {}
    stopSignal: str = ""  # noqa: N815  # as OCI's config calls it
    architectures: list[str] = []
    steps: str = ""


class Metadata(_Strict, frozen=True):
    """What the declaration is called."""

    name: str


class StandsFor(_Strict, frozen=True):
    """The well-known image that this one stands in for; ``offered`` tells users what can be had."""

    repository: str
    offered: str


class Variant(_Strict, frozen=True):
    """One image of a declaration: ``tags`` is a pattern of the tags it stands in for."""

    name: str = ""
    tags: str = ""
    base: str = ""
    spec: dict[str, Any] = {}


class Document(_Strict, frozen=True):
    """A declaration's file."""

    apiVersion: str  # noqa: N815  # as in Kubernetes
    kind: str
    metadata: Metadata
    base: str = ""
    include: list[str] = []
    standsFor: StandsFor | None = None  # noqa: N815
    spec: dict[str, Any] = {}
    variants: list[Variant] = []


@dataclass(frozen=True)
class Declaration:
    """An image to be made. ``where`` says for each package the file and line that asks for it."""

    name: str
    variant: str
    base: str
    spec: Spec
    where: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """``NAME`` or ``NAME#VARIANT``."""
        return f"{self.name}#{self.variant}" if self.variant else self.name

    def content(self) -> bytes:
        """What identifies it: everything but file names and lines."""
        return msgspec.json.encode([self.name, self.variant, self.base, self.spec])


Reader = Callable[[str], tuple[str, str]]
"""Gives the text and the shown name of another declaration's file, by the name used for it."""


def parse(text: str, file: str) -> Document:
    """Read a declaration's file.

    Raises:
        BadRequest: it is no declaration; names file and line.
    """
    return _parsed(text, file)[0]


def is_declaration(text: str) -> bool:
    """Whether a YAML text is meant as one."""
    return re.search(rf"^apiVersion:\s*{re.escape(API_VERSION)}\s*$", text, re.M) is not None


def resolve(text: str, file: str, variant: str, read: Reader) -> Declaration:
    """A declaration's variant with all it includes.

    Raises:
        BadRequest: something in it is wrong; names file and line.
        NotFound: it includes what is not there.
    """
    document, lines = _parsed(text, file)
    merged, where = _collected(text, file, read, ())
    base = document.base
    if variant or document.variants:
        chosen = next((each for each in document.variants if each.name == variant), None)
        if chosen is None:
            known = ", ".join(each.name or "(none)" for each in document.variants) or "none"
            raise BadRequest(f"{file}: there is no variant {variant!r}", hint=f"it has {known}")
        at = document.variants.index(chosen)
        merged = merge(merged, chosen.spec)
        where |= _packages(chosen.spec, file, lines, ("variants", at, "spec"))
        base = chosen.base or base
    spec = _converted(merged, file, lines)
    _check(spec, where, file)
    return Declaration(document.metadata.name, variant, base, spec, where)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two specs as one: lists and mappings grow, single values give way to those above."""
    merged = dict(below)
    for key, value in above.items():
        was = merged.get(key)
        if key == "steps" and was:
            merged[key] = f"{was.rstrip()}\n{value}"
        elif isinstance(value, list) and isinstance(was, list) and key not in _REPLACED:
            merged[key] = was + [each for each in value if each not in was]
        elif isinstance(value, dict) and isinstance(was, dict):
            merged[key] = was | value
        else:
            merged[key] = value
    return merged


def _collected(
    text: str, file: str, read: Reader, above: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, str]]:
    if file in above or len(above) >= NESTING_MAX:
        raise BadRequest(f"{file}: declarations include one another in a circle")
    document, lines = _parsed(text, file)
    merged: dict[str, Any] = {}
    where: dict[str, str] = {}
    for name in document.include:
        found, shown = read(name)
        theirs, their_where = _collected(found, shown, read, (*above, file))
        merged = merge(merged, theirs)
        where |= their_where
    where |= _packages(document.spec, file, lines, ("spec",))
    return merge(merged, document.spec), where


Lines = Mapping[tuple[str | int, ...], int]


def _parsed(text: str, file: str) -> tuple[Document, Lines]:
    import yaml  # declarations are read when an image is made, not when the command line starts

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        node = yaml.compose(text, loader)
        value = yaml.load(text, loader)  # noqa: S506  # safe either way
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise BadRequest(f"{file}{line}: {getattr(error, 'problem', error)}") from error
    lines = dict(_positions(node, ()))
    if not isinstance(value, dict) or (value.get("apiVersion"), value.get("kind")) != (
        API_VERSION, KIND,
    ):  # fmt: skip
        raise BadRequest(f"{file}: it must say apiVersion: {API_VERSION} and kind: {KIND}")
    document: Document = _converted(value, file, lines, Document)
    _converted(document.spec, file, lines, Spec, ("spec",))
    for at, variant in enumerate(document.variants):
        _converted(variant.spec, file, lines, Spec, ("variants", at, "spec"))
    return document, lines


def _positions(
    node: Any, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], int]]:
    if node is None:
        return
    yield path, node.start_mark.line + 1
    if node.id == "mapping":
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from (
                (found, line) for found, line in _positions(value, (*path, key.value))
                if found != (*path, key.value)
            )  # fmt: skip
    elif node.id == "sequence":
        for at, value in enumerate(node.value):
            yield from _positions(value, (*path, at))


def _converted(
    value: Any, file: str, lines: Lines, kind: Any = Spec, prefix: tuple[str | int, ...] = ()
) -> Any:
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        message, _, pointed = str(error).partition(" - at `$")
        path: tuple[str | int, ...] = prefix
        for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", pointed):
            path = (*path, name or int(index))
        unknown = re.search(r"unknown field `([^`]+)`", message)
        if unknown and (*path, unknown[1]) in lines:
            path = (*path, unknown[1])
        shown = ".".join(str(part) for part in path) or "the file"
        line = lines.get(path, lines.get(prefix, 1))
        raise BadRequest(f"{file}:{line}: {shown}: {message}") from error


def _packages(
    spec: Mapping[str, Any], file: str, lines: Lines, prefix: tuple[str | int, ...]
) -> dict[str, str]:
    named = spec.get("packages") or []
    return {
        name: f"{file}:{lines.get((*prefix, 'packages', at), 0)}" for at, name in enumerate(named)
    }


def _check(spec: Spec, where: Mapping[str, str], file: str) -> None:
    for name in spec.packages:
        if not _PACKAGE.fullmatch(name):
            raise BadRequest(f"{where.get(name, file)}: {name!r} is no package's name")
    for account in [*spec.users, *spec.groups]:
        if not _NAME.fullmatch(account.name):
            raise BadRequest(f"{file}: {account.name!r} is no name for a user or group")
    for user in spec.users:
        for text in (user.home, user.shell, user.comment):
            if ":" in text or "\n" in text:
                raise BadRequest(f"{file}: user {user.name}: {text!r} must not hold a colon")
    for entry in spec.paths:
        if not entry.path.startswith("/") or ".." in entry.path.split("/") or "\0" in entry.path:
            raise BadRequest(f"{file}: the path {entry.path!r} must be absolute, without ..")
