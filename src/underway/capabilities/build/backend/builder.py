"""The port ``image-builder``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from underway.base.clock import Clock, SystemClock
from underway.base.errors import BadRequest
from underway.base.home import Home
from underway.capabilities.build.backend import garbage, layout
from underway.capabilities.build.backend.execution import Execution, Job, Outcome
from underway.capabilities.build.backend.grounds import Grounds
from underway.capabilities.build.backend.lending import Lender
from underway.capabilities.build.backend.origins import Origins, push
from underway.capabilities.build.backend.outputs import Index, Made, push_index
from underway.capabilities.build.backend.rooms import room
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.backend.stopping import Stop
from underway.capabilities.build.backend.trees import Tree
from underway.capabilities.build.model import Packing
from underway.kit.ports import BuildRequest, BuildResult, Progress
from underway.linux.mounts import with_own_mounts
from underway.transport.registry import RegistryClient, repository_for
from underway.wire import oci
from underway.wire.dockerfile import parse
from underway.wire.dockerignore import IgnoreRules

if TYPE_CHECKING:
    from underway.capabilities.build.backend.bases import StandIns


@dataclass(frozen=True)
class Extras:
    """What the command line can ask for beyond a ``BuildRequest``.

    Attributes:
        layout: an OCI image layout to write besides.
        secrets: files or values by id.
        tags: further names.
        contexts: what ``--from`` and FROM mean by a name: a directory,
            ``oci-layout://DIRECTORY`` or ``docker-image://NAME``.
        agents: sockets of ssh agents by id.
        platform: ``linux/ARCH[/VARIANT]``; empty for this machine's.
        packing: how layers are compressed.
        annotations: of the manifest.
        entitlements: what steps may do beyond the usual: ``security.insecure``.
        step_timeout_s: how long one RUN may take; 0 is for ever.
        lenders: caches that steps are looked up in besides this machine's.
        inline_cache: keep the steps' keys in the manifest.
        grounds: what steps work on; by default overlay mounts.
        origins: where FROM looks; by default as README says.
    """

    layout: Path | None = None
    secrets: Mapping[str, Path | bytes] | None = None
    tags: Sequence[str] = ()
    contexts: Mapping[str, str] = field(default_factory=dict)
    agents: Mapping[str, Path] = field(default_factory=dict)
    platform: str = ""
    packing: Packing = field(default_factory=Packing)
    annotations: Mapping[str, str] = field(default_factory=dict)
    entitlements: frozenset[str] = frozenset()
    step_timeout_s: float = 0.0
    lenders: Sequence[Lender] = ()
    inline_cache: bool = False
    grounds: Grounds | None = None
    origins: Origins | None = None


class Builder:
    """Builds images on this machine. Blocking; several may build at once."""

    def __init__(self, home: Home, clock: Clock | None = None) -> None:
        self._home = home
        self._clock = clock or SystemClock()

    def build(
        self, request: BuildRequest, progress: Progress, extras: Extras | None = None
    ) -> BuildResult:
        """Build an image, keep it, and push it where asked to.

        Raises:
            BadRequest: an error in the Dockerfile, naming file and line.
            StepFailed: a RUN failed: file, line, command, exit code and its last lines.
            NotFound: a base image cannot be had.
        """
        reference = oci.Reference.parse(request.tag) if request.tag else None
        if reference is None and request.push:
            raise BadRequest("an image without a tag cannot be pushed", hint="give it one with -t")
        result, made = self.make(request, progress, extras)
        if extras and extras.layout:
            tag = reference.tag if reference else ""
            layout.write(extras.layout, made.documents, made.image.layers, made.shelf, tag)
        if request.push and reference:
            self.push(reference, made, progress)
        return result

    def make(
        self, request: BuildRequest, progress: Progress, extras: Extras | None = None
    ) -> tuple[BuildResult, Made]:
        """Build an image and keep it here; raises as ``build`` does."""
        extras = extras or Extras()
        shelf = Shelf(self._home)
        origins = extras.origins or Origins(
            self._home, self._home.load_settings(), shelf, self._stand_ins
        )
        job = _job(request, extras, shelf)
        stop = Stop()
        with garbage.in_use(self._home), room(self._home) as here, stop.on_signals():
            execution = Execution(
                shelf,
                here,
                job,
                origins.resolve,
                progress,
                self._clock,
                grounds=extras.grounds,
                lenders=extras.lenders,
                resolve_for=origins.resolver,
                stop=stop,
            )
            own_mounts = extras.grounds is None
            outcome = with_own_mounts(execution.run) if own_mounts else execution.run()
            annotations = dict(extras.annotations)
            if extras.inline_cache:
                from underway.capabilities.build.backend.caches import inline

                own = outcome.keys[len(outcome.keys) - outcome.own_keys :]
                annotations |= inline(own, outcome.image.layers)
            documents = layout.documents(outcome.image, job.epoch_s, annotations, job.platform)
            for name in [request.tag, *extras.tags]:
                full = str(oci.Reference.parse(name)) if name else documents.digest
                shelf.images.add(full, documents.manifest, documents.config)
            shelf.digests.save()
        made = Made(documents, outcome.image, shelf, outcome.keys, outcome.own_keys, job.platform)
        return _result(request, outcome, documents), made

    def _stand_ins(self) -> StandIns:
        from underway.capabilities.build.backend.bases import StandIns

        return StandIns(self._home, self._clock)

    def push(self, reference: oci.Reference, made: Made | Index, progress: Progress) -> None:
        """Push to the platform's registry, under the repository that serves this name."""
        with self.registry_of(reference) as (client, repository):
            if isinstance(made, Index):
                push_index(client, repository, reference.tag, made)
            else:
                push(client, repository, reference.tag, made.documents, made.image, made.shelf)
        progress(f"pushed {reference}")

    @contextlib.contextmanager
    def registry_of(self, reference: oci.Reference) -> Iterator[tuple[RegistryClient, str]]:
        """The platform's registry, and the repository that serves a name there."""
        settings = self._home.load_settings()
        with RegistryClient.of_platform(self._home, settings) as client:
            yield client, repository_for(reference, settings)


def image_builder(home: Home) -> Builder:
    """The provider of the port."""
    return Builder(home)


def _job(request: BuildRequest, extras: Extras, shelf: Shelf) -> Job:
    if not request.context.is_dir():
        raise BadRequest(f"{request.context} is no directory")
    try:
        text = request.dockerfile.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadRequest(f"there is no {request.dockerfile}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"cannot read {request.dockerfile}: {error}") from error
    try:
        name = str(request.dockerfile.relative_to(request.context))
    except ValueError:
        name = str(request.dockerfile)
    return Job(
        dockerfile=parse(text, name),
        context=Tree(
            request.context.resolve(), _ignore_rules(request), "build context", shelf.digests
        ),
        target=request.target,
        build_args=request.build_args,
        labels=request.labels,
        secrets=extras.secrets or {},
        agents=extras.agents,
        contexts=extras.contexts,
        no_cache=request.no_cache,
        platform=extras.platform,
        packing=extras.packing,
        entitlements=extras.entitlements,
        step_timeout_s=extras.step_timeout_s,
    )


def _ignore_rules(request: BuildRequest) -> IgnoreRules:
    """``Dockerfile.dockerignore`` beside the Dockerfile, else ``.dockerignore`` of the context."""
    own = request.dockerfile.with_name(f"{request.dockerfile.name}.dockerignore")
    for path in (own, request.context / ".dockerignore"):
        try:
            return IgnoreRules.parse(path.read_text(encoding="utf-8"), path.name)
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(f"cannot read {path}: {error}") from error
    return IgnoreRules(())


def _result(request: BuildRequest, outcome: Outcome, made: layout.Documents) -> BuildResult:
    ports = outcome.image.config.get("ExposedPorts") or {}
    tcp = sorted(int(p.partition("/")[0]) for p in ports if not p.endswith(("/udp", "/sctp")))
    return BuildResult(
        reference=request.tag,
        digest=made.digest,
        inputs_digest=outcome.inputs_digest,
        bases=outcome.bases,
        exposed_ports=tuple(tcp),
        size_bytes=sum(layer.size_bytes for layer in outcome.image.layers),
        steps_total=outcome.steps_total,
        steps_cached=outcome.steps_cached,
    )
