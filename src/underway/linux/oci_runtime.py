"""Driving an OCI runtime (runc, crun) under conmon, so that containers outlive who started them.

One conmon process per container holds its output, writes it to a log in the CRI format and leaves
its exit code in a file. All calls block for milliseconds.

Source: opencontainers/runtime-tools ``docs/command-line-interface.md``; conmon(8) and the JSON it
writes to ``_OCI_SYNCPIPE``; the attach socket's framing (one packet, its first byte naming the
stream) and the ``ctl`` pipe (``1 rows columns`` resizes, ``2 0 0`` reopens the log).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from underway.base.errors import InternalError, NotFound, RequestTimeout, ServiceUnavailable

ATTACH_STDOUT, ATTACH_STDERR = 2, 3
LOG_SIZE_MAX = 64 * 1024 * 1024  # bytes; conmon starts the file anew beyond it
_CREATE_TIMEOUT_S = 60.0
_COMMAND_TIMEOUT_S = 30.0
_TAIL_CHARS = 2_000
_PACKET_BYTES = 32 * 1024
_LAST_CAP = Path("/proc/sys/kernel/cap_last_cap")
_CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]


class RuntimeFailure(InternalError):
    """The runtime refused; the message is its own."""


@dataclass(frozen=True, slots=True)
class Created:
    """A created container: its first process and the conmon that holds it."""

    pid: int
    shim_pid: int


def bounding_capabilities() -> frozenset[str]:
    """The capabilities this process can pass on, as ``CAP_...``."""
    mask = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            mask = int(line.split()[1], 16)
    return frozenset(f"CAP_{name}" for bit, name in enumerate(_CAPABILITIES) if mask >> bit & 1)


def oom_score_floor() -> int:
    """The lowest ``oom_score_adj`` that may be given to a container."""
    if "CAP_SYS_RESOURCE" in bounding_capabilities():
        return -1000
    return int(Path("/proc/self/oom_score_adj").read_text())


def find_runtime(*, hybrid: bool) -> str | None:
    """The OCI runtime to use: runc, or crun where it can work (cgroup v2 alone)."""
    runc = shutil.which("runc")
    return runc or (None if hybrid else shutil.which("crun"))


class OciRuntime:
    """One runtime and its state directory.

    Args:
        binary: path of runc or crun.
        root: the runtime's own state (``--root``).
        exits: where exit codes are left, a file per container.
        shim: path of conmon.
    """

    def __init__(self, binary: str, root: Path, exits: Path, shim: str = "conmon") -> None:
        self.binary = shutil.which(binary) or binary  # conmon takes a path only
        self.root = root
        self._exits = exits
        self._shim = shim

    def version(self) -> str:
        """``runc 1.1.5``."""
        words = self._run("--version").split()
        return f"{words[0]} {words[2].partition('+')[0]}" if len(words) > 2 else self.binary

    def create(
        self, container_id: str, bundle: Path, log: Path, *, stdin: str = "", tty: bool = False
    ) -> Created:
        """Create a container from a bundle, held by a conmon of its own; it does not run yet.

        Args:
            container_id: how the runtime and conmon know it.
            bundle: the directory with ``config.json``; conmon puts its sockets there.
            log: where output goes.
            stdin: empty for none, ``open`` for one that stays open when a client detaches,
                ``once`` for one that ends then.
            tty: whether it has a terminal.

        Raises:
            RuntimeFailure: the runtime's own words, for example that the program does not exist.
            ServiceUnavailable: conmon is not installed.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        self._exits.mkdir(parents=True, exist_ok=True)
        shim_pid_file = bundle / "conmon.pid"
        argv = [
            self._shim,
            "--api-version", "1",
            "--cid", container_id,
            "--cuuid", container_id,
            "--runtime", self.binary,
            "--runtime-arg", "--root", "--runtime-arg", str(self.root),
            "--bundle", str(bundle),
            "--container-pidfile", str(bundle / "pid"),
            "--conmon-pidfile", str(shim_pid_file),
            "--log-path", f"k8s-file:{log}",
            "--log-size-max", str(LOG_SIZE_MAX),
            "--exit-dir", str(self._exits),
            "--full-attach",
            "--log-level", "error",
        ]  # fmt: skip
        if tty:
            argv.append("--terminal")
        if stdin:
            argv.append("--stdin")
        if stdin == "open":
            argv.append("--leave-stdin-open")
        reader, writer = os.pipe()
        try:
            environment = {**os.environ, "_OCI_SYNCPIPE": str(writer)}
            try:
                subprocess.run(
                    argv,
                    env=environment,
                    cwd=bundle,  # where conmon leaves a file when the container runs out of memory
                    pass_fds=(writer,),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    timeout=_CREATE_TIMEOUT_S,
                    check=False,
                )
            except FileNotFoundError as error:
                raise ServiceUnavailable(
                    f"{self._shim} is not installed", hint="apt-get install conmon"
                ) from error
            except subprocess.TimeoutExpired as error:
                raise RequestTimeout(f"{self._shim} did not go to the background") from error
            finally:
                os.close(writer)
            answer = _read_answer(reader)
        finally:
            os.close(reader)
        pid = int(answer.get("data", answer.get("pid", -1)))
        if pid <= 0:
            message = str(answer.get("message") or f"{self._shim} ended without a word")
            raise RuntimeFailure(_reason(message))
        return Created(pid, int(shim_pid_file.read_text()))

    def start(self, container_id: str) -> None:
        """Run what was created."""
        self._run("start", container_id)

    def kill(self, container_id: str, signal_name: str) -> None:
        """Signal the container's first process; one that has ended is no error."""
        with contextlib.suppress(RuntimeFailure):
            self._run("kill", container_id, signal_name)

    def delete(self, container_id: str) -> None:
        """Remove a container, ending it if it runs; one that is not there is no error."""
        if (self.root / container_id).exists():
            self._run("delete", "--force", container_id)

    def state(self, container_id: str) -> str:
        """``created``, ``running``, ``paused`` or ``stopped``.

        Raises:
            NotFound: the runtime does not know it.
        """
        if not (self.root / container_id).exists():
            raise NotFound(f"container {container_id} does not exist")
        try:
            status: str = msgspec.json.decode(self._run("state", container_id))["status"]
        except RuntimeFailure as error:
            raise NotFound(f"container {container_id}: {error.message}") from error
        return status

    def ids(self) -> list[str]:
        """Every container the runtime knows."""
        return sorted(p.name for p in self.root.iterdir()) if self.root.is_dir() else []

    def exec_argv(self, container_id: str, process_file: Path, pid_file: Path) -> list[str]:
        """The command that runs a process in a container and ends with its exit code.

        The process's id on the machine is written to ``pid_file``.
        """
        head = [self.binary, "--root", str(self.root), "exec"]
        return [*head, "--pid-file", str(pid_file), "--process", str(process_file), container_id]

    def exit_code(self, container_id: str) -> int | None:
        """The code conmon left, or None where it left none."""
        try:
            return int((self._exits / container_id).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def forget_exit(self, container_id: str) -> None:
        """Remove the file with the exit code."""
        (self._exits / container_id).unlink(missing_ok=True)

    def _run(self, *args: str) -> str:
        argv = [self.binary, "--root", str(self.root), *args]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False
            )
        except FileNotFoundError as error:
            raise ServiceUnavailable(
                f"{self.binary} is not installed", hint="apt-get install runc"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise RequestTimeout(
                f"{self.binary} {args[0]} did not end within {_COMMAND_TIMEOUT_S:g} s"
            ) from error
        if done.returncode:
            told = (done.stderr or done.stdout).strip()[-_TAIL_CHARS:]
            raise RuntimeFailure(_reason(told or f"{args[0]}: exit status {done.returncode}"))
        return done.stdout


def shim_alive(shim_pid: int, container_id: str) -> bool:
    """Whether that process still is the conmon of that container."""
    if shim_pid <= 0:
        return False
    try:
        return container_id.encode() in Path(f"/proc/{shim_pid}/cmdline").read_bytes()
    except OSError:
        return False


def end_shim(shim_pid: int, container_id: str) -> None:
    """Kill a container's conmon, if it is still that."""
    if shim_alive(shim_pid, container_id):
        with contextlib.suppress(ProcessLookupError):
            os.kill(shim_pid, signal.SIGKILL)


def reopen_log(bundle: Path) -> None:
    """Have conmon write to a new file of the log's name."""
    _control(bundle, "2 0 0\n")


def resize(bundle: Path, rows: int, columns: int) -> None:
    """Set the size of a container's terminal."""
    _control(bundle, f"1 {rows} {columns}\n")


def attach(bundle: Path) -> socket.socket:
    """A connection to a running container's streams; each packet's first byte names the stream.

    Raises:
        NotFound: nothing listens: the container has ended.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    # A socket's address holds 108 bytes; by way of a descriptor any directory will do.
    try:
        directory = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/attach")
        finally:
            os.close(directory)
    except OSError as error:
        connection.close()
        raise NotFound(f"the container's streams are closed: {error.strerror}") from error
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PACKET_BYTES)
    return connection


def _control(bundle: Path, text: str) -> None:
    try:
        pipe = os.open(bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # the container has ended
    try:
        os.write(pipe, text.encode())
    finally:
        os.close(pipe)


def _read_answer(reader: int) -> dict[str, Any]:
    """The one line of JSON that conmon writes once the runtime has answered."""
    data = b""
    end = time.monotonic() + _CREATE_TIMEOUT_S
    while b"\n" not in data:
        left_s = end - time.monotonic()
        if left_s <= 0 or not select.select([reader], [], [], left_s)[0]:
            raise RequestTimeout("the runtime did not create the container in time")
        piece = os.read(reader, 65_536)
        if not piece:
            break
        data += piece
    try:
        return msgspec.json.decode(data, type=dict[str, Any]) if data.strip() else {}
    except msgspec.DecodeError:
        return {"message": data.decode("utf-8", "replace")}


def _reason(message: str) -> str:
    """The runtime's last words without its log prefix."""
    line = message.strip().splitlines()[-1] if message.strip() else message
    if 'msg="' in line:
        line = line.split('msg="', 1)[1].rstrip('"').replace('\\"', '"')
    return line[-_TAIL_CHARS:]
