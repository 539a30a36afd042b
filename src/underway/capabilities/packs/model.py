"""What is known of a source directory, and what is to be written for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MARKER = "# underway-pack: "
"""Begins the line by which a Dockerfile of ours tells what it was made for."""

LANGUAGES = ("python", "node", "go", "java", "rust", "dotnet", "php", "ruby", "static")
"""The languages known here, in the order in which a source is asked for them."""


@dataclass(frozen=True)
class Listing:
    """Names of files below a directory (with ``/``), and the text of those worth reading."""

    files: frozenset[str]
    texts: Mapping[str, str] = field(default_factory=dict)

    def text(self, path: str) -> str:
        """The text of a file; empty where it is missing, large or no text."""
        return self.texts.get(path, "")

    def first(self, *paths: str) -> str:
        """The first of these files that is there, or empty."""
        return next((path for path in paths if path in self.files), "")

    def folder(self, path: str) -> bool:
        """Whether there is such a folder with files in it."""
        return any(name.startswith(f"{path}/") for name in self.files)

    def matching(self, pattern: str) -> list[str]:
        """Files whose whole path matches a pattern, sorted."""
        expression = re.compile(pattern)
        return sorted(name for name in self.files if expression.fullmatch(name))


@dataclass(frozen=True)
class Plan:
    """How a source is turned into an image.

    ``template`` names the Dockerfile's template, empty where the source brings its own. ``values``
    fill it in. ``command`` is the exec form of what the image runs. ``go_package`` is what has to
    be compiled before the image is built.
    """

    language: str
    evidence: str
    port: int
    template: str = ""
    command: tuple[str, ...] = ()
    values: Mapping[str, object] = field(default_factory=dict)
    go_package: str = ""


@dataclass(frozen=True)
class Lacking:
    """It looks like a source of some language, and yet cannot be run for a reason."""

    language: str
    reason: str
    hint: str = ""


DEPLOYMENTS = ("manifests", "kustomize", "helm")
FEATURES = ("ingress", "hpa", "pdb")
SERVICES = ("NodePort", "ClusterIP", "LoadBalancer")


@dataclass(frozen=True)
class Options:
    """How an application is deployed.

    ``deploy`` is one of ``DEPLOYMENTS``, ``features`` some of ``FEATURES``, ``service`` the type of
    its Service, ``host`` the host name of its Ingress, ``pipeline`` empty or ``github``.
    """

    deploy: str = "manifests"
    features: tuple[str, ...] = ()
    service: str = "NodePort"
    host: str = ""
    pipeline: str = ""


@dataclass(frozen=True)
class Environment:
    """What an environment of a ``draft.toml`` says that matters here."""

    name: str = ""
    namespace: str = ""
    dockerfile: str = "Dockerfile"
    build_args: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Variable:
    """A variable of a Draft pack; without a default it has to be given."""

    name: str
    default: str | None = None
    description: str = ""


@dataclass(frozen=True)
class Finding:
    """Something in a manifest that a safeguard is against; ``level`` is error or warning."""

    level: str
    rule: str
    object: str
    message: str
