"""Sockets inside a network namespace.

Source: setns(2).
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from pathlib import Path

from underway.base.errors import InternalError, ServiceUnavailable

_CLONE_NEWNET = 0x40000000
_LOCALHOSTS = ("127.0.0.1", "::1")

_libc = ctypes.CDLL(None, use_errno=True)


def connect_localhost(netns: Path | None, port: int, *, timeout_s: float = 10.0) -> socket.socket:
    """Connect to a port on localhost as seen inside a namespace (None: the machine's own).

    Blocking. The socket stays in that namespace, wherever it is used.

    Raises:
        ServiceUnavailable: nothing listens there.
        InternalError: the namespace cannot be entered.
    """
    made: list[socket.socket] = []
    failure: list[Exception] = []

    def work() -> None:
        try:
            if netns is not None:
                _enter(netns)
            made.append(_connect(port, timeout_s))
        except (OSError, InternalError) as error:
            failure.append(error)

    # A thread of its own, because it stays in the namespace until it ends.
    thread = threading.Thread(target=work, name="netns", daemon=True)
    thread.start()
    thread.join()
    if made:
        return made[0]
    error = failure[0]
    if isinstance(error, InternalError):
        raise error
    raise ServiceUnavailable(f"connect to localhost:{port} in the pod: {error}") from error


def _connect(port: int, timeout_s: float) -> socket.socket:
    first: OSError | None = None
    for host in _LOCALHOSTS:
        try:
            return socket.create_connection((host, port), timeout_s)
        except OSError as error:
            first = first or error
    assert first is not None
    raise first


def _enter(netns: Path) -> None:
    try:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InternalError(f"network namespace {netns}: {error.strerror}") from error
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise InternalError(f"network namespace {netns}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)
