"""A RUN step in a container of its own.

The image's files are an overlay; /proc, /dev and /sys are the container's; the network is the
machine's, with its resolver and certificates. None of what is lent stays in the layer: mount
points that the image lacked are removed again.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from underway.base.errors import ServiceUnavailable, UnderwayError
from underway.capabilities.build.backend import machine
from underway.capabilities.build.backend.paths import inside, read_text
from underway.capabilities.build.backend.rooms import RUNTIME, Room
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
from underway.linux.oci_runtime import bounding_capabilities

TAIL_LINES = 20
LINE_CHARS_MAX = 4096
_LENT_FILES = (Path("/etc/resolv.conf"), Path("/etc/hosts"))


class StepFailed(UnderwayError):
    """A command of the Dockerfile ended with an error; ``exit_code`` is the command's own."""

    reason = "StepFailed"
    code = 422
    exit_code = 1


@dataclass(frozen=True)
class Command:
    """What a RUN runs, and as whom."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: str
    user: str
    binds: Sequence[Bind] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    network: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended; ``tail`` are its last lines."""

    exit_code: int
    tail: tuple[str, ...]


def run(room: Room, root: Path, command: Command, tell: Callable[[str], object]) -> Ended:
    """Run a command in the image mounted at ``root`` and wait for it.

    Args:
        room: the build it belongs to.
        root: the image's mounted, writable root.
        command: what to run.
        tell: called with each line of output.

    Raises:
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
    )
    bundle = room.path / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_bytes(msgspec.json.encode(configuration(container)))
    targets = ["/proc", "/dev", "/sys", *command.tmpfs, *(bind.target for bind in binds)]
    with _without_traces(root, [t for t in targets if not t.startswith("/dev/")]):
        return _watch(room, bundle, tell)


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


def _watch(room: Room, bundle: Path, tell: Callable[[str], object]) -> Ended:
    log = room.path / "runtime.log"
    name = f"build-{room.id}"
    head = [RUNTIME, "--root", str(room.runtime_state), "--log", str(log), "--log-format", "json"]
    try:
        process = subprocess.Popen(
            [*head, "run", "--bundle", str(bundle), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except FileNotFoundError as error:
        raise ServiceUnavailable("runc is not installed", hint="apt-get install runc") from error
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        assert process.stdout is not None
        while raw := process.stdout.readline(LINE_CHARS_MAX):
            # What a progress bar overwrote is not worth showing.
            line = raw.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2]
            tail.append(line)
            tell(line)
        code = process.wait()
    except BaseException:
        subprocess.run([*head, "delete", "--force", name], capture_output=True, check=False)
        process.kill()
        process.wait()
        raise
    finally:
        if process.stdout:
            process.stdout.close()
    _raise_own_failure(log)
    return Ended(code, tuple(tail))


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
