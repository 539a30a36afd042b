"""A directory of its own for each build under way, and what killed builds left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from underway.base.home import Home
from underway.linux.cgroups import Cgroups

RUNTIME = "runc"
_DELETE_TIMEOUT_S = 30
_STATE = "runc"


@dataclass(frozen=True, slots=True)
class Room:
    """``runtime_state`` is the OCI runtime's ``--root`` for this build's containers."""

    id: str
    path: Path
    cgroup_parent: str
    runtime_state: Path

    def within(self, name: str) -> Room:
        """A part of the room, for one stage; its containers have names of their own."""
        path = self.path / name
        path.mkdir(mode=0o700)
        return Room(f"{self.id}-{name}", path, self.cgroup_parent, self.runtime_state)


@contextlib.contextmanager
def room(home: Home) -> Iterator[Room]:
    """A build's directory, locked as long as the build lives and gone afterwards."""
    rooms = home.builds / "run"
    rooms.mkdir(parents=True, exist_ok=True)
    path = rooms / secrets.token_hex(6)
    made = Room(secrets.token_hex(6), path, cgroup_of(home), path / _STATE)
    # A new directory is not swept before its owner holds it.
    with _alone(home):
        _sweep(home)
        made.path.mkdir(mode=0o700)
        held = os.open(made.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield made
    finally:
        _clear(made.path)
        os.close(held)
        sweep(home)


def cgroup_of(home: Home) -> str:
    """The group that holds the containers of all builds of a home; the last build removes it."""
    return f"/underway-{home.id}-builds"


@contextlib.contextmanager
def _alone(home: Home) -> Iterator[None]:
    """While no other build of this home begins or ends."""
    with (home.builds / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep(home: Home) -> None:
    """End the containers and remove the directories of builds that no longer live.

    Where none is left, their cgroup goes too.
    """
    if not (home.builds / "run").is_dir():
        return
    with _alone(home):
        if not _sweep(home):
            Cgroups().remove(cgroup_of(home))


def _sweep(home: Home) -> bool:
    """The same, while no other build begins or ends; says whether builds are left."""
    rooms = home.builds / "run"
    for path in rooms.iterdir():
        try:
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(path)
        except BlockingIOError:
            continue
        finally:
            os.close(held)
    return any(rooms.iterdir())


def _clear(path: Path) -> None:
    state = path / _STATE
    for container in state.iterdir() if state.is_dir() else ():
        subprocess.run(
            [RUNTIME, "--root", str(state), "delete", "--force", container.name],
            capture_output=True,
            timeout=_DELETE_TIMEOUT_S,
            check=False,
        )
    shutil.rmtree(path, ignore_errors=True)
