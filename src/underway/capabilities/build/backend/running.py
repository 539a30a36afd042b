"""A RUN step in a container of its own.

The image's files are an overlay; /proc, /dev and /sys are the container's; the network is the
machine's, with its resolver and certificates. None of what is lent stays in the layer: mount
points that the image lacked are removed again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from underway.base.errors import ServiceUnavailable, UnderwayError
from underway.capabilities.build.backend import machine
from underway.capabilities.build.backend.delivery import DISK_BYTES_MIN
from underway.capabilities.build.backend.paths import inside, read_text
from underway.capabilities.build.backend.rooms import RUNTIME, Room
from underway.capabilities.build.backend.stopping import Stop
from underway.capabilities.build.rules.container import (
    APT_FILE,
    CA_FILE,
    JAVA_OPTIONS,
    TRUST_FILE,
    Bind,
    Container,
    configuration,
)
from underway.capabilities.build.rules.identity import identity
from underway.linux.mounts import in_user_namespace, mapped_groups
from underway.linux.oci_runtime import bounding_capabilities

TAIL_LINES = 20
LINE_CHARS_MAX = 4096
Tell = Callable[[str], object]
_GLANCE_S = 1.0
_LENT_FILES = (Path("/etc/resolv.conf"), Path("/etc/hosts"))


class StepFailed(UnderwayError):
    """A command of the Dockerfile ended with an error; ``exit_code`` is the command's own."""

    reason = "StepFailed"
    code = 422
    exit_code = 1


@dataclass(frozen=True)
class Command:
    """What a RUN runs, and as whom; ``timeout_s`` 0 is no limit."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: str
    user: str
    binds: Sequence[Bind] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    network: str = ""
    insecure: bool = False
    timeout_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended; ``tail`` are its last lines."""

    exit_code: int
    tail: tuple[str, ...]


def run(room: Room, root: Path, command: Command, tell: Tell, stop: Stop) -> Ended:
    """Run a command in the image mounted at ``root`` and wait for it.

    Args:
        room: the build it belongs to.
        root: the image's mounted, writable root.
        command: what to run.
        tell: called with each line of output.
        stop: what ends the build early.

    Raises:
        StepFailed: it took longer than it may, or filled the disk.
        Stopped: the build was ended.
        ValueError: the image has no such user.
        ServiceUnavailable: runc is missing or cannot start containers here.
    """
    who = identity(command.user, read_text(root, "etc/passwd"), read_text(root, "etc/group"))
    binds = [*_lent(room), *command.binds]
    environment = {"HOME": who.home, **command.environment}
    if "JAVA_HOME" in environment and machine.ca_bundle():
        binds.append(_java_trust(room))
        given = environment.get("JAVA_TOOL_OPTIONS", "")
        environment["JAVA_TOOL_OPTIONS"] = f"{given} {JAVA_OPTIONS}".lstrip()
    container = Container(
        argv=command.argv,
        environment=environment,
        cwd=command.cwd,
        who=who,
        rootfs=str(root),
        cgroup=f"{room.cgroup_parent}/build-{room.id}",
        bounding=bounding_capabilities(),
        binds=binds,
        tmpfs=command.tmpfs,
        own_network=command.network == "none",
        architecture=machine.architecture(),
        insecure=command.insecure,
        rootless=in_user_namespace(),
        gids=mapped_groups() if in_user_namespace() else 1 << 32,
    )
    bundle = room.path / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_bytes(msgspec.json.encode(configuration(container)))
    targets = ["/proc", "/dev", "/sys", *command.tmpfs, *(bind.target for bind in binds)]
    with _without_traces(root, [t for t in targets if not t.startswith("/dev/")]):
        return _watch(room, bundle, command, tell, stop)


def mount_points(room: Room) -> Path:
    """A directory that has what every container mounts on.

    Laid beneath an image it keeps the runtime from creating those files in the image's layer.
    """
    points = room.path / "points"
    for target in ("proc", "dev", "sys", "etc"):
        (points / target).mkdir(parents=True, exist_ok=True)
        (points / target).chmod(0o755)
    for path in _LENT_FILES:
        (points / str(path).lstrip("/")).touch(mode=0o644)
    return points


def _lent(room: Room) -> list[Bind]:
    """Copies of the machine's files: a step may write to them, and the machine keeps its own."""
    lent = room.path / "lent"
    lent.mkdir(exist_ok=True)
    binds = []
    for path in _LENT_FILES:
        if path.is_file():
            shutil.copyfile(path, lent / path.name)
            binds.append(Bind(str(lent / path.name), str(path)))
    (lent / "apt.conf").write_text(machine.apt_configuration())
    binds.append(Bind(str(lent / "apt.conf"), APT_FILE, read_only=True))
    bundle = machine.ca_bundle()
    if bundle:
        binds.append(Bind(str(bundle.resolve()), CA_FILE, read_only=True))
    return binds


def _java_trust(room: Room) -> Bind:
    path = room.path / "lent" / "cacerts.p12"
    path.write_bytes(machine.java_trust_store())
    return Bind(str(path), TRUST_FILE, read_only=True)


@contextlib.contextmanager
def _without_traces(root: Path, targets: Sequence[str]) -> Iterator[None]:
    """Remove afterwards what the runtime creates to mount on, where it is still empty."""
    missing: list[Path] = []
    for target in targets:
        path = inside(root, target)
        while path != root and not path.exists() and path not in missing:
            missing.append(path)
            path = path.parent
    try:
        yield
    finally:
        for path in sorted(missing, key=lambda each: len(each.parts), reverse=True):
            with contextlib.suppress(OSError):
                if path.is_dir():
                    path.rmdir()
                elif path.stat().st_size == 0:
                    path.unlink()


def _watch(room: Room, bundle: Path, command: Command, tell: Tell, stop: Stop) -> Ended:
    log = room.path / "runtime.log"
    name = f"build-{room.id}"
    head = [RUNTIME, "--root", str(room.runtime_state), "--log", str(log), "--log-format", "json"]

    def end() -> None:
        subprocess.run([*head, "delete", "--force", name], capture_output=True, check=False)

    ended = watch([*head, "run", "--bundle", str(bundle), name], room, command, tell, stop, end)
    _raise_own_failure(log)
    return ended


def watch(
    argv: Sequence[str],
    room: Room,
    command: Command,
    tell: Tell,
    stop: Stop,
    end: Callable[[], object],
    started: Callable[[int], object] = lambda _pid: None,
    **options: Any,
) -> Ended:
    """Start a process and follow it to its end; ``end`` is what stops it and all it started.

    ``started`` is told its process id, ``options`` are of ``subprocess.Popen``.

    Raises:
        StepFailed: it took longer than it may, or filled the disk.
        ServiceUnavailable: the program is missing.
        Stopped: the build was ended.
    """
    guard = _Guard(command.timeout_s, room.path, end)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with stop.ending(end):
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                **options,
            )
        except FileNotFoundError as error:
            raise ServiceUnavailable(
                f"{argv[0]} is not installed", hint=f"apt-get install {argv[0]}"
            ) from error
        started(process.pid)
        with process, guard:
            try:
                assert process.stdout is not None
                while raw := process.stdout.readline(LINE_CHARS_MAX):
                    # What a progress bar overwrote is not worth showing.
                    line = raw.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2]
                    tail.append(line)
                    tell(line)
                code = process.wait()
            except BaseException:
                end()
                process.kill()
                raise
    stop.check()
    if guard.reason:
        raise StepFailed(f"{guard.reason}; its last lines:\n" + "\n".join(f"  {t}" for t in tail))
    return Ended(code, tuple(tail))


class _Guard:
    """Ends a step that takes too long, or that leaves the machine's disk no room."""

    def __init__(self, timeout_s: float, path: Path, end: Callable[[], object]) -> None:
        self._timeout_s, self._path, self._end = timeout_s, path, end
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._guard, daemon=True, name="step-guard")
        self.reason = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _guard(self) -> None:
        left_s = self._timeout_s
        while not self._over.wait(min(left_s, _GLANCE_S) if self._timeout_s else _GLANCE_S):
            left_s -= _GLANCE_S
            disk = os.statvfs(self._path)
            if disk.f_bavail * disk.f_frsize < DISK_BYTES_MIN:
                self.reason = f"it left less than {DISK_BYTES_MIN >> 20} MiB on the disk"
            elif self._timeout_s and left_s <= 0:
                self.reason = f"it did not end within {self._timeout_s:g} s"
            else:
                continue
            self._end()
            return


def _raise_own_failure(log: Path) -> None:
    """The runtime's own error, as distinct from the command's exit code."""
    try:
        lines = log.read_text().splitlines()
        log.unlink()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            entry = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if entry.get("level") == "error":
            message = str(entry.get("msg", ""))
            if "executable file not found" in message or "no such file or directory" in message:
                raise StepFailed(f"the image cannot run it: {message}")
            raise ServiceUnavailable(f"runc: {message}")
