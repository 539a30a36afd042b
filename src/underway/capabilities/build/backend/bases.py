"""Base images by declaration, and those of them that stand in for well-known images.

A declaration (``bases/*.yaml``, or a user's file) is locked to exact packages, which are assembled
without running their scripts; its ``steps``, if any, run on top. Stand-ins are for networks where
the usual registries cannot be reached. What is made lies in ``UNDERWAY_BASE_CACHE`` (a directory
several homes may share; by default ``builds/bases`` of the home) with its lock, its list of
packages and its bill of materials.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from underway.base.clock import Clock, SystemClock
from underway.base.errors import BadRequest, NotFound, ServiceUnavailable
from underway.base.files import write_atomic
from underway.base.home import Home
from underway.capabilities.build.backend import layout as layouts
from underway.capabilities.build.backend import machine, origins
from underway.capabilities.build.backend.debian import archives, assembly
from underway.capabilities.build.backend.debian.unpacking import MERGED
from underway.capabilities.build.backend.execution import Execution, Job
from underway.capabilities.build.backend.rooms import room
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.backend.trees import Tree
from underway.capabilities.build.model import Image
from underway.capabilities.build.rules import declaration as declarations
from underway.capabilities.build.rules.debian import (
    Lock,
    cyclonedx,
    installed,
    read_lock,
    write_lock,
)
from underway.capabilities.build.rules.declaration import Declaration, Document
from underway.capabilities.build.rules.keys import DEFAULT_EPOCH_S, framed
from underway.kit.ports import BaseImage, Progress
from underway.linux.mounts import with_own_mounts
from underway.transport.registry import RegistryClient, repository_for
from underway.wire import oci
from underway.wire.dockerfile import parse

CACHE_VARIABLE = "UNDERWAY_BASE_CACHE"
STAND_IN = "dev.underway.stand-in"
PACKAGES = "dev.underway.packages"
PACKAGES_FILE = "packages.txt"
LOCK_FILE = "lock.json"
SBOM_FILE = "sbom.cdx.json"
SBOM_MEDIA_TYPE = "application/vnd.cyclonedx+json"
_SCRIPTLESS = "underway.invalid/scriptless"
_DECLARATIONS = "underway.capabilities.build.bases"


@dataclass(frozen=True)
class Made:
    """An image made of a declaration, with what it was made of."""

    image: Image
    documents: layouts.Documents
    lock: Lock
    packages: str
    sbom: bytes

    @property
    def digest(self) -> str:
        """Its manifest's digest."""
        return self.documents.digest


@cache
def shipped() -> Mapping[str, Document]:
    """The declarations that come with the product, by name."""
    names = (each.name for each in files(_DECLARATIONS).iterdir() if each.name.endswith(".yaml"))
    found = [declarations.parse(*_shipped(name.removesuffix(".yaml"))) for name in sorted(names)]
    return {each.metadata.name: each for each in found}


@cache
def _shipped(name: str) -> tuple[str, str]:
    file = files(_DECLARATIONS) / f"{name}.yaml"
    if not re.fullmatch(r"[a-z0-9-]+", name) or not file.is_file():
        known = sorted(
            e.name[:-5] for e in files(_DECLARATIONS).iterdir() if e.name[-5:] == ".yaml"
        )
        raise NotFound(f"there is no base {name}", hint=f"there are {', '.join(known)}")
    return file.read_text(), f"{name}.yaml"


@cache
def _document(name: str) -> Document:
    return declarations.parse(*_shipped(name))


def chain_of(name: str) -> list[Declaration]:
    """A shipped base (``NAME`` or ``NAME#VARIANT``) or a file's, with those below it, lowest first.

    Raises:
        NotFound: there is none of that name.
        BadRequest: a declaration is wrong; names file and line.
    """
    plain, _, variant = name.partition("#")
    return _chain(plain, variant, Path.cwd(), ())


def _chain(name: str, variant: str, folder: Path, above: tuple[str, ...]) -> list[Declaration]:
    text, shown, folder = _text(name, folder)
    identity = f"{shown}#{variant}"
    if identity in above:
        raise BadRequest(f"{shown}: declarations are based on one another in a circle")

    def read(other: str) -> tuple[str, str]:
        return _text(other, folder)[:2]

    top = declarations.resolve(text, shown, variant, read)
    if not top.base:
        return [top]
    below, _, below_variant = top.base.partition("#")
    return [*_chain(below, below_variant, folder, (*above, identity)), top]


def _text(name: str, folder: Path) -> tuple[str, str, Path]:
    """A declaration's text, the name it is shown by, and what its own names are relative to."""
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        return *_shipped(name), folder
    path = folder / name
    try:
        return path.read_text(), str(path), path.parent
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"{path}: {error}") from error


@dataclass(frozen=True)
class StandIns:
    """The port ``base-images``."""

    home: Home
    clock: Clock
    shared: archives.Packages | None = None

    def offers(self, reference: str) -> bool:
        """Whether a stand-in for this reference can be made."""
        try:
            self._name(oci.Reference.parse(reference))
        except NotFound:
            return False
        return True

    def provide(self, reference: str, layout: Path, progress: Progress) -> BaseImage:
        """Assemble the stand-in, or find it assembled, as an OCI image layout at ``layout``.

        Raises:
            NotFound: Debian has nothing that could stand in; says what can be had.
            ServiceUnavailable: a package could not be had; carries the last lines.
        """
        parsed = oci.Reference.parse(reference)
        made = self.find_or_make(reference, progress)
        shelf = Shelf(self.home)
        image, documents = layouts.read(made, shelf)
        layouts.write(layout, documents, image.layers, shelf, parsed.tag)
        repository = f"{parsed.registry}/{parsed.repository}"
        return BaseImage(str(parsed), repository, documents.digest, "stand-in")

    def find_or_make(self, reference: str, tell: Progress) -> Path:
        """The assembled image's layout in the cache.

        Raises:
            NotFound: there is no declaration for it.
            StepFailed, ServiceUnavailable: assembling failed.
        """
        parsed = oci.Reference.parse(reference)
        return self.kept(chain_of(self._name(parsed)), tell, reference) / "layout"

    def kept(self, chain: Sequence[Declaration], tell: Progress, shown: str = "") -> Path:
        """The folder of an image in the cache, locked and made when it is first asked for."""
        key = framed(assembly.FORMAT, assembly.chain_digest(chain), machine.architecture())
        name = f"{chain[-1].name}-{key[:16]}"
        folder = self._cache() / name
        below, start = None, Image()
        if len(chain) > 1:  # made by itself, so that all that stand on it share its layers
            under = self.kept(chain[:-1], tell)
            below = read_lock((under / LOCK_FILE).read_bytes(), str(under / LOCK_FILE))
            start, _ = layouts.read(under / "layout", Shelf(self.home))
        with _locked(self._cache() / f"{name}.lock"):
            if (folder / "layout" / "oci-layout").exists():
                return folder
            tell(f"assembling {shown or chain[-1].title} (kept for later builds)")
            try:
                locked = self.lock(chain, tell, below)
            except (BadRequest, ServiceUnavailable):
                if below is None:
                    raise
                tell(
                    f"{chain[-2].title} as kept here is older than the archives: made anew with it"
                )
                below, start = None, Image()
                locked = self.lock(chain, tell)
            first = len(below.layers) if below else 0
            made = self._made(chain, first, start, locked, tell, cached=False)
            self._keep(folder, made, shown)
        return folder

    def lock(self, chain: Sequence[Declaration], tell: Progress, below: Lock | None = None) -> Lock:
        """Choose the versions of all packages; with ``below``, those under the top as there.

        Raises:
            NotFound: a package does not exist; names file and line.
            ServiceUnavailable: the archives cannot be read, or are not signed as they must be.
        """
        sources = archives.of_machine(chain[-1].spec.suite)
        with TemporaryDirectory(prefix="underway-base-") as scratch:
            return assembly.lock(chain, sources, Path(scratch), tell, below=below)

    def make(
        self, chain: Sequence[Declaration], locked: Lock, tell: Progress, *, cached: bool = True
    ) -> Made:
        """Make the image that a lock describes; with ``cached``, of layers that are there.

        Raises:
            ServiceUnavailable: a package cannot be had, or is not what was locked.
            BadRequest, StepFailed: it cannot be assembled.
        """
        return self._made(chain, 0, Image(), locked, tell, cached=cached)

    def _made(
        self, chain: Sequence[Declaration], start: int, image: Image, locked: Lock,
        tell: Progress, *, cached: bool,
    ) -> Made:  # fmt: skip
        shelf, started_s = Shelf(self.home), self.clock.now().timestamp()
        stock = assembly.Stock(archives.of_machine(chain[-1].spec.suite), self.packages())
        for at in range(start, len(chain)):
            one = chain[at]
            image = assembly.assemble(
                one, at, locked, image, stock, shelf, started_s, tell, cached=cached
            )
            if one.spec.steps:
                image = self._with_steps(one, image, tell, cached=cached)
        return _described(chain[-1], image, locked, shelf)

    def packages(self) -> archives.Packages:
        """The packages fetched so far."""
        return self.shared or archives.Packages(self._cache() / "packages")

    def _name(self, reference: oci.Reference) -> str:
        """The shipped base, with its variant, that stands in for a reference."""
        repository = f"{reference.registry}/{reference.repository}"
        try:
            document = _document(repository.rpartition("/")[2])
        except NotFound:
            document = None
        if document is None or document.standsFor is None:
            found = None
        else:
            found = document.standsFor if document.standsFor.repository == repository else None
        if document is None or found is None:
            raise NotFound(
                f"no registry is configured for {reference}, and there is no stand-in for it",
                hint="name a registry in registries.json; there are stand-ins for "
                + ", ".join(name for name, each in shipped().items() if each.standsFor),
            )
        if not reference.digest:
            for variant in document.variants:
                if variant.tags and re.fullmatch(variant.tags, reference.tag):
                    return f"{document.metadata.name}#{variant.name}"
        raise NotFound(
            f"no registry is configured for {reference}, and Debian's packages cannot stand in"
            " for it",
            hint=f"there are stand-ins for {found.offered}",
        )

    def _with_steps(
        self, declaration: Declaration, below: Image, tell: Progress, *, cached: bool
    ) -> Image:
        text = f"FROM {_SCRIPTLESS}\n{declaration.spec.steps}"
        dockerfile = parse(text, f"steps of {declaration.title}")

        def base(name: str, _: Progress) -> tuple[Image, BaseImage]:
            return below, BaseImage(name, name, "", "stand-in")

        with room(self.home) as here:
            empty = here.path / "context"
            empty.mkdir()
            job = Job(dockerfile, Tree(empty), no_cache=not cached, lint=False)
            execution = Execution(Shelf(self.home), here, job, base, tell, self.clock)
            return with_own_mounts(execution.run).image

    def _keep(self, folder: Path, made: Made, shown: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in ((PACKAGES_FILE, made.packages.encode()), (SBOM_FILE, made.sbom),
                              (LOCK_FILE, write_lock(made.lock))):  # fmt: skip
            write_atomic(folder / name, content)
        tag = oci.Reference.parse(shown).tag if shown else "latest"
        shelf = Shelf(self.home)
        layouts.write(
            folder / "layout", made.documents, made.image.layers, shelf, tag, durable=True
        )

    def _cache(self) -> Path:
        chosen = os.environ.get(CACHE_VARIABLE)
        folder = Path(chosen) if chosen else self.home.builds / "bases"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def base_images(home: Home) -> StandIns:
    """The provider of the port."""
    return StandIns(home, SystemClock())


def _described(top: Declaration, image: Image, locked: Lock, shelf: Shelf) -> Made:
    found = list(installed_in(image, shelf))
    listed = sorted(f"{e['Package']} {e['Version']} {e['Architecture']}" for e in found)
    packages = "".join(f"{line}\n" for line in listed)
    sums = {(e.name, e.version): e.sha256 for e in locked.packages()}
    for each in found:
        each["SHA256"] = sums.get((each["Package"], each["Version"]), "")
    digest = hashlib.sha256(packages.encode()).hexdigest()
    annotations = {STAND_IN: "true", PACKAGES: f"sha256:{digest}"}
    documents = layouts.documents(image, locked.epoch or DEFAULT_EPOCH_S, annotations)
    sbom = cyclonedx(top.title, locked.epoch or DEFAULT_EPOCH_S, top.spec.suite, found)
    return Made(image, documents, locked, packages, msgspec.json.format(msgspec.json.encode(sbom)))


def installed_in(image: Image, shelf: Shelf) -> Iterator[dict[str, str]]:
    """The fields of each installed package: of dpkg's database, or the short form without it."""
    parts: dict[str, dict[str, str]] = {}
    for layer in reversed(image.layers):
        tree = shelf.layers.path(layer.diff_id)
        status = tree / "var/lib/dpkg/status"
        if status.is_file():
            yield from installed(status.read_text(encoding="utf-8"))
            return
        for file in (tree / "var/lib/dpkg/status.d").glob("*"):
            if file.suffix != ".md5sums" and file.is_file():
                for each in installed(file.read_text(encoding="utf-8")):
                    parts.setdefault(each["Package"], each)
    yield from parts.values()


@dataclass(frozen=True)
class Verified:
    """What checking an image found; ``changed`` are files other than those in their packages."""

    packages: int
    digest: str
    again: str
    files: int
    changed: tuple[str, ...]


def verify(
    stand_ins: StandIns, chain: Sequence[Declaration], locked: Lock, tell: Progress
) -> Verified:
    """Check packages against their lock, and the image against what they make once more.

    Raises:
        ServiceUnavailable: a package cannot be had, or is not what was locked.
    """
    store, sources = stand_ins.packages(), archives.of_machine(chain[-1].spec.suite)
    store.fetch(locked.packages(), sources, tell)
    for each in locked.packages():
        archives.verified(store.path(each), each)
    made = stand_ins.make(chain, locked, tell)
    with TemporaryDirectory(prefix="underway-verify-", dir=stand_ins.home.root) as folder:
        other = replace(stand_ins, home=Home(Path(folder)), shared=store)
        again = other.make(chain, locked, tell, cached=False).digest
    shelf = Shelf(stand_ins.home)
    files_seen, changed = _compared(made.image, shelf)
    return Verified(len(locked.packages()), made.digest, again, files_seen, tuple(changed))


def _compared(image: Image, shelf: Shelf) -> tuple[int, list[str]]:
    """Compare files in the layers with the MD5 sums their packages came with."""
    trees = [shelf.layers.path(layer.diff_id) for layer in reversed(image.layers)]
    count, changed = 0, []
    for tree in trees:
        for sums in (tree / "var/lib/dpkg").glob("*/*md5sums"):
            for line in sums.read_text(errors="surrogateescape").splitlines():
                digest, _, name = line.partition("  ")
                top, _, rest = name.partition("/")
                at = f"usr/{name}" if top in MERGED else name
                file = tree / at
                if not rest or file.is_symlink() or not file.is_file():
                    continue  # left out, diverted, or taken over by a layer above
                count += 1
                if hashlib.md5(file.read_bytes()).hexdigest() != digest:  # noqa: S324  # dpkg's
                    changed.append(f"/{name}")
    return count, changed


def push(home: Home, reference: oci.Reference, made: Made) -> None:
    """Push an image to the platform's registry, and attach its bill of materials to it.

    Raises:
        UnderwayError: the registry refused, or cannot be reached.
    """
    settings = home.load_settings()
    repository = repository_for(reference, settings)
    empty = b"{}"
    with RegistryClient.of_platform(home, settings) as client:
        origins.push(client, repository, reference.tag, made.documents, made.image, Shelf(home))
        manifest = layouts.encode({
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "artifactType": SBOM_MEDIA_TYPE,
            "config": oci.Descriptor.of(oci.EMPTY, empty).as_dict(),
            "layers": [oci.Descriptor.of(SBOM_MEDIA_TYPE, made.sbom).as_dict()],
            "subject": oci.Descriptor.of(oci.MANIFEST, made.documents.manifest).as_dict(),
        })  # fmt: skip
        for data in (empty, made.sbom):
            client.push_blob(repository, oci.digest_of(data), [data], len(data))
        client.push_manifest(repository, oci.digest_of(manifest), manifest, oci.MANIFEST)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
