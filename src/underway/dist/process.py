"""Entry point of every supervised process: ``python -m underway.dist.process NAME``."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping

from underway.base import logs
from underway.base.errors import UnderwayError
from underway.base.home import Home
from underway.dist import processes
from underway.kit import registry

_log = logging.getLogger(__name__)

OWN: Mapping[str, str] = {
    "control-plane": "underway.dist.control_plane:main",
    "node": "underway.dist.node:main",
}


def names() -> list[str]:
    """The processes a platform consists of, in the order they start."""
    return [*OWN, *(each.name for cap in registry.installed() for each in cap.processes)]


def _target(name: str) -> str:
    if name in OWN:
        return OWN[name]
    for capability in registry.installed():
        for process in capability.processes:
            if process.name == name:
                return process.main
    sys.exit(f"there is no process called {name}")


def main() -> None:
    """Run one process until SIGTERM."""
    # The supervisor blocks the signals it waits for, and a child inherits that.
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    logs.configure()
    home = Home.from_environment()
    try:
        registry.load(_target(sys.argv[1]))(home)
    except UnderwayError as error:
        processes.tell_ready(error.message)
        _log.critical("%s", error.message)
        sys.exit(1)


if __name__ == "__main__":
    main()
