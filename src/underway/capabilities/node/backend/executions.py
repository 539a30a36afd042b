"""Commands run in a container through the OCI runtime's ``exec``."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from underway.base.errors import InternalError
from underway.base.threads import run_blocking
from underway.capabilities.node.backend import descriptors
from underway.capabilities.node.backend.containers import Containers
from underway.capabilities.node.model import ContainerRecord


class Execution:
    """One running command. ``stdin`` is -1 where it has none; with a terminal all are one.

    ``stderr`` is -1 where it goes to the terminal, or into ``stdout``.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], stdin: int, stdout: int, stderr: int, pid_file: Path
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self._process = process
        self._pid_file = pid_file
        self._pidfd = os.pidfd_open(process.pid)

    async def wait(self) -> int:
        """The exit code, as a shell would give it."""
        if self._process.poll() is None:
            await descriptors.readable(self._pidfd)
        code = self._process.wait()
        return 128 - code if code < 0 else code

    def resize(self, columns: int, rows: int) -> None:
        """Set the size of the command's terminal."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.stdout, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            self._process.send_signal(signal.SIGWINCH)

    def close_stdin(self) -> None:
        """Nothing more will be written to the command."""
        if self.stdin >= 0 and self.stdin != self.stdout:
            os.close(self.stdin)
        self.stdin = -1

    def end(self) -> None:
        """Kill the command if it still runs, and close everything."""
        if self._process.poll() is None:
            # The runtime does not take its command with it.
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(self._pid_file.read_text()), signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        self.close_stdin()
        for descriptor in (self.stdout, self.stderr, self._pidfd):
            if descriptor >= 0:
                os.close(descriptor)


@contextlib.asynccontextmanager
async def execution(
    containers: Containers,
    record: ContainerRecord,
    command: Sequence[str],
    *,
    stdin: bool = False,
    tty: bool = False,
    merge: bool = False,
) -> AsyncIterator[Execution]:
    """Run a command in a container; it does not outlive the block.

    Args:
        stdin: whether it gets an input.
        tty: whether it gets a terminal.
        merge: whether its error output goes where its output goes.

    Raises:
        NotFound: the container does not run.
    """
    spec = await run_blocking(containers.process_spec, record, command, tty=tty)
    scratch = Path(tempfile.mkdtemp(prefix="underway-exec-"))
    try:
        process_file, pid_file = scratch / "process.json", scratch / "pid"
        process_file.write_bytes(msgspec.json.encode(spec))
        argv = containers.runtime.exec_argv(record.id, process_file, pid_file)
        running = await run_blocking(_launch, argv, pid_file, stdin=stdin, tty=tty, merge=merge)
        try:
            yield running
        finally:
            running.end()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _launch(
    argv: Sequence[str], pid_file: Path, *, stdin: bool, tty: bool, merge: bool
) -> Execution:
    kept: list[int] = []
    given: list[int] = []
    try:
        if tty:
            ours, theirs = os.openpty()
            kept, given = [ours], [theirs]
            ends = (theirs, theirs, theirs)
            streams = (ours if stdin else -1, ours, -1)
        else:
            child_in, our_in = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY), -1)
            our_out, child_out = os.pipe()
            our_err, child_err = (-1, child_out) if merge else os.pipe()
            kept = [fd for fd in (our_in, our_out, our_err) if fd >= 0]
            given = list({child_in, child_out, child_err})
            ends = (child_in, child_out, child_err)
            streams = (our_in, our_out, our_err)
        for descriptor in kept:
            os.set_blocking(descriptor, False)
        process = subprocess.Popen(
            argv, stdin=ends[0], stdout=ends[1], stderr=ends[2], start_new_session=True
        )
    except OSError as error:
        for descriptor in kept:
            os.close(descriptor)
        raise InternalError(f"cannot run {argv[0]}: {error.strerror}") from error
    finally:
        for descriptor in given:
            os.close(descriptor)
    return Execution(process, *streams, pid_file)
