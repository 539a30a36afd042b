"""The ports through which capabilities use one another, as Protocols.

A capability names the ports it provides and requires in its manifest; it gets those it requires
from ``kit.registry.Ports`` and never imports the capability behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Progress = Callable[[str], None]
"""Called with a line of text for the user each time something worth telling happened."""


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image that a build starts from or a pod runs.

    ``origin`` is ``registry`` (pulled from a configured upstream registry), ``stand-in``
    (assembled here from Debian packages) or ``layout`` (an OCI layout named for the build).
    ``repository`` is its repository in the built-in registry, ``digest`` its manifest's.
    """

    reference: str
    repository: str
    digest: str
    origin: str


class BaseImages(Protocol):
    """Port ``base-images``: images that no one pushed to the built-in registry."""

    def offers(self, reference: str) -> bool:
        """Whether a stand-in for this reference (``docker.io/library/redis:7``) can be made."""
        ...

    def provide(self, reference: str, layout: Path, progress: Progress) -> BaseImage:
        """Assemble the stand-in, or find it assembled, as an OCI image layout at ``layout``.

        Blocking; may take a minute. Raises UnderwayError with the failing command's last lines.
        """
        ...


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build.

    ``dockerfile`` lies inside or outside ``context``. ``tag`` is the full reference to push to.
    """

    context: Path
    dockerfile: Path
    tag: str
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    push: bool = True


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What came of a build.

    ``inputs_digest`` identifies everything the image was made from: the same inputs give the
    same image ``digest``. ``steps_cached`` counts steps taken from the cache.
    """

    reference: str
    digest: str
    inputs_digest: str
    bases: tuple[BaseImage, ...] = ()
    exposed_ports: tuple[int, ...] = ()
    size_bytes: int = 0
    steps_total: int = 0
    steps_cached: int = 0


class ImageBuilder(Protocol):
    """Port ``image-builder``."""

    def build(self, request: BuildRequest, progress: Progress) -> BuildResult:
        """Build an image and push it.

        Blocking; runs untrusted steps in containers of their own. Raises BadRequest naming file
        and line for a Dockerfile with an error, UnderwayError for a step that failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class FittedSource:
    """A source directory with all it needs to be shipped.

    ``language`` is ``dockerfile``, ``python``, ``node``, ``static`` or ``go``. ``written`` are the
    files made now; files that were there are kept. ``manifests`` are Kubernetes objects as files
    below the source, with ``$(IMAGE)`` where the image belongs.
    """

    root: Path
    language: str
    dockerfile: Path
    manifests: tuple[Path, ...]
    port: int
    written: tuple[Path, ...] = ()
    evidence: str = ""


class SourceFitter(Protocol):
    """Port ``source-fitter``: from a source directory to Dockerfile and manifests."""

    def fit(self, root: Path, name: str, port: int | None) -> FittedSource:
        """Detect what the source is and write what it lacks.

        Raises BadRequest when nothing is recognised, saying what was looked for.
        """
        ...
