"""Where steps work: an image's files, to be changed by one step, or only read.

There are two kinds: overlay mounts (here), with the rights of root or in a user namespace, and the
container's own root directory (``in_place``). Both give the same layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from underway.capabilities.build.backend import running
from underway.capabilities.build.backend.rooms import Room
from underway.capabilities.build.backend.stopping import Stop
from underway.capabilities.build.rules.keys import framed
from underway.linux import mounts
from underway.linux.layers import LayerStore, Scratch


class Grounds(Protocol):
    """What the steps of a build stand on. ``stages_at_once`` bounds how many stages may run."""

    stages_at_once: int

    def changing(
        self, diff_ids: Sequence[str], scratch: Scratch, room: Room, *, runs: bool
    ) -> contextlib.AbstractContextManager[Path]:
        """An image's files at a root directory that may be changed.

        Afterwards ``scratch.upper`` holds the changes as an overlay's upper directory does.
        ``runs`` says that a container will be mounted on it.
        """
        ...

    def reading(self, diff_ids: Sequence[str], room: Room) -> Path:
        """An image's files, for COPY --from; they stay as long as the build does."""
        ...

    def run(
        self, room: Room, root: Path, command: running.Command, tell: running.Tell, stop: Stop
    ) -> running.Ended:
        """Run a command there and wait for it; raises as ``running.run``."""
        ...


class Overlays:
    """Overlay mounts in a mount namespace of the build's own, and containers by runc."""

    stages_at_once = 4

    def __init__(self, layers: LayerStore) -> None:
        self._layers = layers

    @contextlib.contextmanager
    def changing(
        self, diff_ids: Sequence[str], scratch: Scratch, room: Room, *, runs: bool
    ) -> Iterator[Path]:
        """As ``Grounds``."""
        root, empty = scratch.root / "root", scratch.root / "empty"
        root.mkdir()
        empty.mkdir()
        lowers = [self._layers.path(diff_id) for diff_id in diff_ids][::-1]
        # What lies beneath is seen below the image's own layers and belongs to none.
        lowers.append(running.mount_points(room) if runs else empty)
        mounts.mount_overlay(lowers, scratch.upper, scratch.work, root, volatile=True)
        try:
            yield root
        finally:
            mounts.unmount(root)

    def reading(self, diff_ids: Sequence[str], room: Room) -> Path:
        """As ``Grounds``."""
        point = room.path / "from" / framed(list(diff_ids))[:16]
        if not point.exists():
            point.mkdir(parents=True)
            if diff_ids:
                self._layers.mount(diff_ids, point)
        return point

    def run(
        self, room: Room, root: Path, command: running.Command, tell: running.Tell, stop: Stop
    ) -> running.Ended:
        """As ``Grounds``."""
        return running.run(room, root, command, tell, stop)
