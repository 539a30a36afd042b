"""The HTTP front: a handler behind a listening socket.

``serve`` opens the socket and returns its ``Server``, which owns every connection's task. HTTP/1.1
lives in ``http1``, HTTP/2 in ``http2``, both over the same ``Owner`` and ``answers.answer``; the
TLS handshake chooses.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from underway.base.clock import Clock, SystemClock
from underway.base.errors import Conflict, Forbidden, ServiceUnavailable, UnderwayError
from underway.base.ports import holder_of
from underway.base.threads import run_blocking
from underway.transport.http1 import Connection, Served, http_date
from underway.transport.limits import Limits
from underway.wire.http import Handler

__all__ = ["Limits", "Server", "serve"]

log = logging.getLogger(__name__)

_BACKLOG = 1024
_SWEEP_S = 1.0
_HANDSHAKE_TIMEOUT_S = 15.0


class Server:
    """A socket being served.

    All its tasks (one a connection, and one that ends what is overdue) live in one TaskGroup,
    entered when the server starts and left in ``close``. A connection's task handles its own
    failures, so the group never cancels whoever started the server.
    """

    def __init__(self, handler: Handler, limits: Limits, clock: Clock) -> None:
        self.handler = handler
        self.limits = limits
        self.clock = clock
        self.port = 0
        self.address = ""
        self._group = asyncio.TaskGroup()
        self._tasks: dict[Served, asyncio.Task[None]] = {}
        self._listener: asyncio.AbstractServer | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._closing = False
        self._unix_path: Path | None = None
        self._date = b""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, grace_s: float = 1.0) -> None:
        """Stop: no new connections, idle ones end now, busy ones after at most ``grace_s``."""
        if self._closing:
            return
        self._closing = True
        if self._listener is not None:
            self._listener.close()
        if self._unix_path is not None:
            self._unix_path.unlink(missing_ok=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
        try:
            for connection in list(self._tasks):
                connection.drain()
            if self._tasks:
                await asyncio.wait(list(self._tasks.values()), timeout=grace_s)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await self._group.__aexit__(None, None, None)

    # -- what connections ask of their server (http1.Owner) --------------------------------

    def opened(self, connection: Served) -> bool:
        """Take the connection in and run it; False when there are too many."""
        if self._closing or len(self._tasks) >= self.limits.connections:
            return False
        task = self._group.create_task(connection.run(), name="http connection")
        self._tasks[connection] = task
        task.add_done_callback(lambda _: self._tasks.pop(connection, None))
        connection.started(task)
        return True

    def date(self) -> bytes:
        """The ``Date`` header's line, made once a second."""
        return self._date

    async def _sweep(self) -> None:
        while True:
            self._date = http_date(self.clock.now().timestamp())
            now_s = self.clock.monotonic()
            for connection in list(self._tasks):
                connection.expire(now_s)
            await self.clock.sleep(_SWEEP_S)

    async def start(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        unix_path: Path | None,
        protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        """Listen; raises OSError."""
        loop = asyncio.get_running_loop()
        self._date = http_date(self.clock.now().timestamp())
        if unix_path is not None:
            self._listener = await loop.create_unix_server(
                protocol, str(unix_path), backlog=_BACKLOG
            )
            self._unix_path, self.address = unix_path, str(unix_path)
        else:
            listener = await loop.create_server(
                protocol,
                host,
                port,
                ssl=tls,
                backlog=_BACKLOG,
                ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S if tls is not None else None,
            )
            self._listener = listener
            name, self.port = listener.sockets[0].getsockname()[:2]
            self.address = f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"
        await self._group.__aenter__()
        self._sweeper = self._group.create_task(self._sweep(), name="http sweeper")


class _Negotiated(asyncio.Protocol):
    """Gives its place to the protocol of the version the handshake chose."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen: asyncio.Protocol
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            from underway.transport.http2 import Http2Connection

            chosen = Http2Connection(self._server)
        else:
            chosen = Connection(self._server)
        transport.set_protocol(chosen)
        chosen.connection_made(transport)


async def serve(
    handler: Handler,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    unix_path: Path | None = None,
    http2: bool = False,
    limits: Limits | None = None,
    clock: Clock | None = None,
) -> Server:
    """Answer HTTP requests on ``host:port`` (0: any free port), or on a Unix socket.

    With ``http2`` clients that offer it over TLS are served HTTP/2.

    Close the server, or use it as an async context manager, in the task that called this.

    Raises:
        Conflict: the port or the path is taken; the message names who has it, if that can be seen.
        Forbidden: this user may not listen there.
        ServiceUnavailable: the address is not one of this machine, or cannot be resolved.
    """
    server = Server(handler, limits or Limits(), clock or SystemClock())
    try:
        if unix_path is not None:
            await run_blocking(_clear_stale, unix_path)
        protocol: Callable[[], asyncio.Protocol] = partial(Connection, server)
        if tls is not None:
            if http2:
                tls.set_alpn_protocols(["h2", "http/1.1"])
            protocol = partial(_Negotiated, server)
        await server.start(host, port, tls, unix_path, protocol)
    except OSError as error:
        raise await run_blocking(_listen_error, error, host, port, unix_path) from error
    return server


def _clear_stale(path: Path) -> None:
    """Remove a socket nobody listens on; raises OSError where somebody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
    raise OSError(errno.EADDRINUSE, "address in use")


def _listen_error(error: OSError, host: str, port: int, unix_path: Path | None) -> UnderwayError:
    if unix_path is not None:
        if error.errno == errno.EADDRINUSE:
            return Conflict(f"{unix_path} is in use: another process serves on it")
        return ServiceUnavailable(f"cannot listen on {unix_path}: {error.strerror or error}")
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(port)
        who = f"process {holder[0]} ({holder[1]})" if holder else "another process"
        return Conflict(
            f"port {port} on {host} is taken by {who}",
            hint="stop that process, or choose another port",
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return Forbidden(
            f"not allowed to listen on port {port} of {host}", hint="choose a port above 1023"
        )
    return ServiceUnavailable(f"cannot listen on {host}:{port}: {error.strerror or error}")
