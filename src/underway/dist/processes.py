"""The platform's processes: how they are started, found, told apart and ended.

A process is known by its pid together with its start time, so that a pid used again by somebody
else is never mistaken for ours.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

import msgspec

from underway.base.errors import ServiceUnavailable
from underway.base.files import write_atomic
from underway.base.home import Home

SUPERVISOR = "supervisor"
READY_FD = "UNDERWAY_READY_FD"


class Record(msgspec.Struct, frozen=True):
    """A process as its record file names it; ``start_ticks`` is since boot (proc(5), field 22)."""

    name: str
    pid: int
    start_ticks: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Component:
    """One of the platform's processes: its name, and the pid while it runs."""

    name: str
    pid: int | None


def _start_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    # A zombie has ended already: it only waits for its parent.
    return None if fields[0] == "Z" else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _record_file(home: Home, name: str) -> Path:
    return home.run / f"{name}.json"


def record(home: Home, name: str, pid: int) -> None:
    """Note that the process ``name`` runs as ``pid``."""
    ticks = _start_ticks(pid)
    if ticks is not None:
        entry = Record(name, pid, ticks, _boot_id())
        write_atomic(_record_file(home, name), msgspec.json.encode(entry), durable=False)


def forget(home: Home, name: str) -> None:
    """Note that the process ``name`` has ended."""
    _record_file(home, name).unlink(missing_ok=True)


def running_pid(home: Home, name: str) -> int | None:
    """The pid of the process ``name``, if it runs."""
    try:
        entry = msgspec.json.decode(_record_file(home, name).read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    if entry.boot_id != _boot_id() or _start_ticks(entry.pid) != entry.start_ticks:
        return None
    return entry.pid


def components(home: Home) -> list[Component]:
    """Every process that has a record, running or not."""
    names = sorted(path.stem for path in home.run.glob("*.json"))
    return [Component(name, running_pid(home, name)) for name in names]


def end(pid: int, *, grace_s: float) -> None:
    """Ask a process to end, wait, and kill it when it has not after ``grace_s`` seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            if select.select([handle], [], [], grace_s)[0]:
                return
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], grace_s)
    finally:
        os.close(handle)


def tell_ready(message: str = "") -> None:
    """Tell whoever started this process that it is ready, or why it cannot be."""
    descriptor = os.environ.pop(READY_FD, "")
    if not descriptor:
        return
    with contextlib.suppress(BrokenPipeError), os.fdopen(int(descriptor), "wb") as stream:
        stream.write(f"error {message}".encode() if message else b"ready")


def await_ready(descriptor: int, name: str, *, timeout_s: float) -> None:
    """Wait for what ``tell_ready`` says at the other end of a pipe; closes ``descriptor``.

    Raises:
        ServiceUnavailable: the process could not start; its own words say why.
    """
    with os.fdopen(descriptor, "rb") as stream:
        if not select.select([stream], [], [], timeout_s)[0]:
            raise ServiceUnavailable(f"{name} is not ready after {timeout_s:g} s")
        answer = stream.read().decode("utf-8", "replace")
    if answer == "ready":
        return
    reason = answer.removeprefix("error ").strip()
    raise ServiceUnavailable(reason or f"{name} ended before it was ready")
