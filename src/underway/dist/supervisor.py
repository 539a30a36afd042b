"""The process that keeps the others running. It stays small: no event loop, no server.

The control plane is started first; the other processes once it is ready. A process that ends
is started again, after a pause that doubles while it keeps failing.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from underway.base import logs
from underway.base.errors import ServiceUnavailable, UnderwayError
from underway.base.home import Home
from underway.dist import processes

_log = logging.getLogger(__name__)

STOP_GRACE_S = 15.0
READY_TIMEOUT_S = 60.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STABLE_S = 60.0
_LOG_LIMIT = 16 * 1024 * 1024  # bytes; a log this long is set aside as .1 when its process starts
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}


class Child:
    """One supervised process, run as ``python -m underway.dist.process NAME``."""

    def __init__(self, home: Home, name: str) -> None:
        self.name = name
        self._home = home
        self._pause_s = _FIRST_PAUSE_S
        self._started_at = 0.0
        self.restart_at: float | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Start the process; gives the descriptor on which it will say that it is ready."""
        ready, told = os.pipe()
        log_file = self._home.logs / f"{self.name}.log"
        _set_aside(log_file)
        environment = {
            **os.environ,
            "UNDERWAY_HOME": str(self._home.root),
            processes.READY_FD: str(told),
        }
        with log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "underway.dist.process", self.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=[told],
            )
        os.close(told)
        processes.record(self._home, self.name, self.process.pid)
        self._started_at = time.monotonic()
        self.restart_at = None
        return ready

    def ended(self) -> bool:
        """Whether it runs no longer; if so, when to start it again is set."""
        if self.process is None or self.process.poll() is None:
            return False
        now = time.monotonic()
        if now - self._started_at > _STABLE_S:
            self._pause_s = _FIRST_PAUSE_S
        code = self.process.returncode
        _log.error("%s ended with %d; starting it again in %.1f s", self.name, code, self._pause_s)
        self.process = None
        self.restart_at = now + self._pause_s
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        return True

    def stop(self) -> None:
        """End the process."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                _log.warning("%s does not end; killing it", self.name)
                self.process.kill()
                self.process.wait()
        self.process = None
        processes.forget(self._home, self.name)


def run(home: Home, names: list[str]) -> None:
    """Keep the named processes running until SIGTERM or SIGINT.

    Raises:
        ServiceUnavailable: another supervisor holds this home, or a process could not start.
    """
    for directory in (home.run, home.logs):
        directory.mkdir(parents=True, exist_ok=True)
    with _lock(home):
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        processes.record(home, processes.SUPERVISOR, os.getpid())
        children = [Child(home, name) for name in names]
        try:
            _start_all(home, children)
            processes.tell_ready()
            _watch(children)
        except UnderwayError as error:
            processes.tell_ready(error.message)
            raise
        finally:
            for child in reversed(children):
                child.stop()
            processes.forget(home, processes.SUPERVISOR)


def _start_all(home: Home, children: list[Child]) -> None:
    for child in children:
        # One that outlived a killed supervisor would hold ports and the database.
        if stale := processes.running_pid(home, child.name):
            _log.info("ending %s (pid %d) of an earlier run", child.name, stale)
            processes.end(stale, grace_s=STOP_GRACE_S)
        processes.await_ready(child.start(), child.name, timeout_s=READY_TIMEOUT_S)


def _watch(children: list[Child]) -> None:
    while True:
        due = [child.restart_at for child in children if child.restart_at is not None]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else 3600.0
        info = signal.sigtimedwait(_SIGNALS, wait_s)
        if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
            return
        for child in children:
            if child.ended():
                continue
            if child.restart_at is not None and child.restart_at <= time.monotonic():
                os.close(child.start())


@contextlib.contextmanager
def _lock(home: Home) -> Iterator[None]:
    with (home.run / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServiceUnavailable(f"a platform is already running in {home.root}") from error
        yield


def _set_aside(log_file: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log_file.stat().st_size > _LOG_LIMIT:
            log_file.replace(log_file.with_suffix(".log.1"))


def main() -> None:
    """Run as ``python -m underway.dist.supervisor NAME...`` for the home in the environment."""
    logs.configure()
    try:
        run(Home.from_environment(), sys.argv[1:])
    except UnderwayError as error:
        _log.error("%s", error.message)  # the message is all there is to say
        sys.exit(1)


if __name__ == "__main__":
    main()
