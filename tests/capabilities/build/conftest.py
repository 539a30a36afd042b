"""A home for builds, and a builder with the progress it told."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from underway.base.home import Home
from underway.capabilities.build.backend import rooms
from underway.capabilities.build.backend.bases import CACHE_VARIABLE
from underway.capabilities.build.backend.builder import Builder, Extras
from underway.kit.ports import BuildRequest, BuildResult
from underway.linux import mounts
from underway.linux.images import ImageStore
from underway.linux.layers import LayerStore


@dataclass
class Yard:
    """Builds Dockerfiles in a context directory and looks at what came of them."""

    home: Home
    context: Path
    told: list[str] = field(default_factory=list)

    def write(self, **files):
        for name, content in files.items():
            self.put(name, content)

    def put(self, name, content, mode=0o644):
        path = self.context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return path

    def build(self, dockerfile, *, layout=None, secrets=None, **options) -> BuildResult:
        file = self.context.parent / "Dockerfile"
        file.write_text(dockerfile)
        self.told.clear()
        request = BuildRequest(
            context=self.context,
            dockerfile=file,
            tag=options.pop("tag", "test/image:1"),
            push=options.pop("push", False),
            **options,
        )
        extras = Extras(layout, secrets)
        return Builder(self.home).build(request, self.told.append, extras)

    def image(self, name="docker.io/test/image:1"):
        return ImageStore(self.home.builds / "images", LayerStore(self.home.layers)).get(name)

    def config(self, name="docker.io/test/image:1"):
        return self.image(name).config["config"]

    def look(self, see, name="docker.io/test/image:1"):
        """What ``see`` makes of the image's mounted root."""
        image, store = self.image(name), LayerStore(self.home.layers)
        point = self.home.root / "look"
        point.mkdir(exist_ok=True)

        def work():
            store.mount(image.diff_ids, point)
            try:
                return see(point)
            finally:
                mounts.unmount(point)

        return mounts.with_own_mounts(work)

    def read(self, path, name="docker.io/test/image:1"):
        return self.look(lambda root: (root / path.lstrip("/")).read_text(), name)


def yard_at(folder):
    home = Home(folder / "home")
    context = folder / "context"
    context.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        if CACHE_VARIABLE not in os.environ:
            patch.setenv(CACHE_VARIABLE, "/var/cache/underway/bases")
        yield Yard(home, context)
    rooms.sweep(home)
    assert not list((home.builds / "run").glob("*"))


@pytest.fixture
def yard(tmp_path):
    yield from yard_at(tmp_path)


@pytest.fixture(scope="module")
def shared_yard(tmp_path_factory):
    """One yard for tests whose base images take long to unpack."""
    yield from yard_at(tmp_path_factory.mktemp("shared"))
