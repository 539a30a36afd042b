"""Stand-ins for well-known base images, assembled from Debian packages.

They are for networks where the usual registries cannot be reached. A recipe
(``bases/*.yaml``) is either a bootstrap of Debian or a Dockerfile on top of another stand-in.
Assembled images lie in ``UNDERWAY_BASE_CACHE`` (a directory several homes may share; by default
``builds/bases`` of the home), each with the list of its packages.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from underway.base.clock import Clock, SystemClock
from underway.base.errors import NotFound
from underway.base.files import write_atomic
from underway.base.home import Home
from underway.capabilities.build.backend import bootstrap, machine
from underway.capabilities.build.backend import layout as layouts
from underway.capabilities.build.backend.execution import Execution, Job
from underway.capabilities.build.backend.rooms import room
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.backend.trees import Tree
from underway.capabilities.build.model import DEFAULT_PATH, Image
from underway.capabilities.build.rules.keys import DEFAULT_EPOCH_S, framed
from underway.capabilities.build.rules.stages import plan
from underway.kit.ports import BaseImage, Progress
from underway.linux.mounts import with_own_mounts
from underway.wire import oci
from underway.wire.dockerfile import parse

CACHE_VARIABLE = "UNDERWAY_BASE_CACHE"
STAND_IN = "dev.underway.stand-in"
PACKAGES = "dev.underway.packages"
_PACKAGES_FILE = "packages.txt"
_RECIPES = "underway.capabilities.build.bases"


class Variant(msgspec.Struct, frozen=True):
    """One image of a recipe: ``tags`` is a pattern of the tags it stands in for."""

    tags: str
    bootstrap: bootstrap.Plan | None = None
    cmd: list[str] = []
    args: dict[str, str] = {}


class Recipe(msgspec.Struct, frozen=True):
    """A file of ``bases/``; ``offered`` tells users what can be had."""

    repository: str
    offered: str
    images: list[Variant]
    dockerfile: str = ""


@cache
def recipes() -> Mapping[str, Recipe]:
    """All recipes by repository."""
    folder = files(_RECIPES)
    names = (each.name for each in folder.iterdir() if each.name.endswith(".yaml"))
    found = [_recipe(name) for name in names]
    return {recipe.repository: recipe for recipe in found}


@cache
def _recipe(file: str) -> Recipe:
    import yaml  # recipes are read when a build needs one, not when the command line starts

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
    text = (files(_RECIPES) / file).read_text()
    return msgspec.convert(yaml.load(text, loader), type=Recipe)  # noqa: S506  # safe either way


def _recipe_for(repository: str) -> Recipe | None:
    """The recipe of a repository; it lies in a file of the repository's last name."""
    file = f"{repository.rpartition('/')[2]}.yaml"
    if not (files(_RECIPES) / file).is_file():
        return None
    found = _recipe(file)
    return found if found.repository == repository else None


@dataclass(frozen=True)
class StandIns:
    """The port ``base-images``."""

    home: Home
    clock: Clock

    def offers(self, reference: str) -> bool:
        """Whether a stand-in for this reference can be made."""
        try:
            self._variant(oci.Reference.parse(reference))
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
            NotFound: there is no recipe for it.
            StepFailed, ServiceUnavailable: assembling failed.
        """
        parsed = oci.Reference.parse(reference)
        recipe, variant = self._variant(parsed)
        base = ""
        if recipe.dockerfile:
            job = self._job(parsed, recipe, variant)
            needed = plan(job.dockerfile, "", job.build_args, machine.platform_args())
            base = layouts.digest(self.find_or_make(needed.stages[0].base_image, tell))
        recipe_bytes, variant_bytes = msgspec.json.encode(recipe), msgspec.json.encode(variant)
        key = framed(recipe_bytes, variant_bytes, base, machine.architecture())
        name = f"{parsed.repository.rpartition('/')[2]}-{key[:16]}"
        folder = self._cache() / name
        with _locked(self._cache() / f"{name}.lock"):
            if (folder / "layout" / "oci-layout").exists():
                return folder / "layout"
            tell(f"assembling {reference} from Debian packages (kept for later builds)")
            image = (
                self._from_dockerfile(parsed, recipe, variant, tell)
                if recipe.dockerfile
                else self._bootstrapped(variant, tell)
            )
            self._keep(folder, parsed, image)
        return folder / "layout"

    def _variant(self, reference: oci.Reference) -> tuple[Recipe, Variant]:
        recipe = _recipe_for(f"{reference.registry}/{reference.repository}")
        if recipe is None:
            known = ", ".join(sorted(r.rpartition("/")[2] for r in recipes()))
            raise NotFound(
                f"no registry is configured for {reference}, and there is no stand-in for it",
                hint=f"name a registry in registries.json; there are stand-ins for {known}",
            )
        if not reference.digest:
            for variant in recipe.images:
                if re.fullmatch(variant.tags, reference.tag):
                    return recipe, variant
        raise NotFound(
            f"no registry is configured for {reference}, and Debian's packages cannot stand in"
            " for it",
            hint=f"there are stand-ins for {recipe.offered}",
        )

    def _from_dockerfile(
        self, reference: oci.Reference, recipe: Recipe, variant: Variant, tell: Progress
    ) -> Image:
        shelf = Shelf(self.home)
        with room(self.home) as here:
            empty = here.path / "context"
            empty.mkdir()
            job = replace(self._job(reference, recipe, variant), context=Tree(empty))
            execution = Execution(shelf, here, job, self._base, tell, self.clock)
            return with_own_mounts(execution.run).image

    def _job(self, reference: oci.Reference, recipe: Recipe, variant: Variant) -> Job:
        dockerfile = parse(recipe.dockerfile, f"recipe of {reference}")
        return Job(
            dockerfile, Tree(self.home.builds), build_args=variant.args, no_cache=True, lint=False
        )

    def _base(self, name: str, tell: Progress) -> tuple[Image, BaseImage]:
        reference = oci.Reference.parse(name)
        image, documents = layouts.read(self.find_or_make(name, tell), Shelf(self.home))
        return image, BaseImage(str(reference), reference.name, documents.digest, "stand-in")

    def _bootstrapped(self, variant: Variant, tell: Progress) -> Image:
        assert variant.bootstrap is not None
        started_s = self.clock.now().timestamp()
        wanted, shelf = variant.bootstrap, Shelf(self.home)
        layer = with_own_mounts(lambda: bootstrap.make(wanted, shelf, started_s, tell))
        config = {"Env": [f"PATH={DEFAULT_PATH}"], "Cmd": variant.cmd}
        history = [{"created_by": f"Debian {wanted.suite} packages by mmdebstrap"}]
        return Image([layer], config, history)

    def _keep(self, folder: Path, reference: oci.Reference, image: Image) -> None:
        shelf = Shelf(self.home)
        packages = "".join(f"{line}\n" for line in _packages(image, shelf)).encode()
        annotations = {STAND_IN: "true", PACKAGES: f"sha256:{hashlib.sha256(packages).hexdigest()}"}
        made = layouts.documents(image, DEFAULT_EPOCH_S, annotations)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / _PACKAGES_FILE, packages)
        layouts.write(folder / "layout", made, image.layers, shelf, reference.tag, durable=True)

    def _cache(self) -> Path:
        chosen = os.environ.get(CACHE_VARIABLE)
        folder = Path(chosen) if chosen else self.home.builds / "bases"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def base_images(home: Home) -> StandIns:
    """The provider of the port."""
    return StandIns(home, SystemClock())


def _packages(image: Image, shelf: Shelf) -> Iterator[str]:
    """``name version architecture`` of each installed package, sorted."""
    for layer in reversed(image.layers):
        status = shelf.layers.path(layer.diff_id) / "var/lib/dpkg/status"
        if status.is_file():
            break
    else:
        return
    found = []
    for paragraph in status.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", paragraph, re.M))
        if fields.get("Status") == "install ok installed":
            found.append(f"{fields['Package']} {fields['Version']} {fields['Architecture']}")
    yield from sorted(found)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
