"""Writing what a source lacks; what is there is never touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from underway.api.objects import Object, name_of
from underway.base.errors import BadRequest, NotFound
from underway.base.files import write_atomic
from underway.base.home import Home
from underway.capabilities.packs.backend import drafts, rendering
from underway.capabilities.packs.backend.golang import compile_go
from underway.capabilities.packs.backend.listing import read_listing
from underway.capabilities.packs.model import Options, Plan
from underway.capabilities.packs.rules import detect, dns_label
from underway.kit.ports import FittedSource, SourceFitter


def make(home: Home) -> SourceFitter:
    """The provider of the port ``source-fitter``."""
    del home  # sources lie outside the platform's directory
    return Fitter()


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a source is, and the files it lacks: path below the source -> text."""

    root: Path
    name: str
    plan: Plan
    files: Mapping[str, str]
    dockerfile: str = "Dockerfile"


class Fitter:
    """Detects what a source is and writes what it lacks."""

    def propose(
        self, root: Path, name: str, port: int | None, options: Options | None = None
    ) -> Proposal:
        """What ``fit`` would write; nothing is written.

        Raises:
            NotFound: there is no such directory.
            BadRequest: nothing was recognised, saying what was looked for; a Dockerfile or
                draft.toml has an error.
        """
        root = root.absolute()
        options = options or Options()
        environment = drafts.environment(root)
        label = dns_label(name or environment.name or root.name)
        plan = detect(read_listing(root, environment.dockerfile), port, environment.dockerfile)
        wanted = rendering.image_files(plan, label)
        if not _deployed(root, options):
            wanted |= rendering.deployment_files(label, plan.port, options)
        wanted |= rendering.pipeline_files(label, options)
        return Proposal(root, label, plan, missing(root, wanted), environment.dockerfile)

    def fit(
        self, root: Path, name: str, port: int | None, options: Options | None = None
    ) -> FittedSource:
        """Detect what the source is and write what it lacks.

        Args:
            root: the source's directory.
            name: the application's; made a DNS label.
            port: the port it shall listen on; otherwise what it says itself, or the habit of
                its language.
            options: in which form it is deployed, and with what besides; manifests by default.

        Raises:
            NotFound: there is no such directory.
            BadRequest: nothing was recognised, saying what was looked for; a Dockerfile has an
                error; a Go program does not compile, or there is no Go to compile it.
        """
        proposal = self.propose(root, name, port, options)
        if proposal.plan.go_package:
            compile_go(proposal.root, proposal.plan.go_package)
        written = write(proposal.root, proposal.files)
        return FittedSource(
            root=proposal.root,
            language=proposal.plan.language,
            dockerfile=proposal.root / proposal.dockerfile,
            manifests=tuple(manifests_of(proposal.root)),
            port=proposal.plan.port,
            written=tuple(written),
            evidence=proposal.plan.evidence,
        )


def _deployed(root: Path, options: Options) -> bool:
    """Whether the source says already how it is deployed, in the form asked for."""
    if options.deploy == "helm":
        return (root / "charts" / "Chart.yaml").exists()
    if options.deploy == "kustomize":
        return (root / "base" / "kustomization.yaml").exists()
    return bool(manifests_of(root))


def manifests_of(root: Path) -> list[Path]:
    """The manifests of a source: those below ``.underway``, or else those below ``k8s``."""
    for folder in (rendering.FOLDER, "k8s"):
        found = sorted(
            path
            for suffix in ("*.yaml", "*.yml")
            for path in (root / folder).glob(suffix)
            if path.is_file()
        )
        if found:
            return found
    return []


def additions(root: Path, name: str, options: Options) -> dict[str, str]:
    """The files that add features to what a source has already: manifests or overlays.

    Raises:
        NotFound: it has no manifests yet.
        BadRequest: a manifest is no Kubernetes object; it has a chart, whose values decide.
    """
    if (root / "charts" / "Chart.yaml").exists():
        raise BadRequest("a chart has these already", hint="set enabled in charts/values.yaml")
    base = (root / "base" / "kustomization.yaml").exists()
    documents = read_objects(root / "base" if base else root)
    workloads = [each for each in documents if each.get("kind") == "Deployment"]
    if not workloads:
        raise NotFound(f"{root} has no Deployment yet", hint="underway pack create")
    label = dns_label(name) if name else name_of(workloads[0])
    files = rendering.feature_files(label, options)
    folder = "base" if base else manifests_of(root)[0].parent.name
    return missing(root, {f"{folder}/{each}": text for each, text in files.items()})


def read_objects(path: Path) -> list[Object]:
    """The Kubernetes objects in a file, or in the manifests of a source.

    Raises:
        NotFound: there are no manifests.
        BadRequest: a file is no YAML, or a document in it no object.
    """
    files = [path] if path.is_file() else manifests_of(path) or sorted(path.glob("*.yaml"))
    if not files:
        raise NotFound(f"{path} has no manifests", hint="underway pack create")
    found: list[Object] = []
    for file in files:
        try:
            documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise BadRequest(f"{file}: {error}") from error
        for document in documents:
            if document is None:
                continue
            if not isinstance(document, dict) or not document.get("kind"):
                raise BadRequest(f"{file}: a document is no Kubernetes object")
            if document["kind"] != "Kustomization":
                found.append(document)
    return found


def missing(root: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Those of the files that are not there yet."""
    there = {each for each in files if (root / each).exists() or (root / each).is_symlink()}
    return {path: text for path, text in files.items() if path not in there}


def write(root: Path, files: Mapping[str, str]) -> list[Path]:
    """Write files below a source; gives their paths.

    Raises:
        BadRequest: one cannot be written, or a link would take it out of the source.
    """
    written: list[Path] = []
    for relative, text in files.items():
        path = root / relative
        if not path.parent.resolve().is_relative_to(root.resolve()):
            raise BadRequest(f"{path} would be written outside of {root}: its folder is a link")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
        except OSError as error:
            raise BadRequest(
                f"{path} cannot be written: {error.strerror}",
                hint="make the source's directory writable, or write the file yourself",
            ) from error
        written.append(path)
    return written
