"""Server-sent events: a page shown anew when what it watches has changed, and text as it comes.

Source: HTML Living Standard, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from underway.base.clock import Clock
from underway.base.errors import Forbidden, MethodNotAllowed, NotFound, UnderwayError
from underway.client import Client
from underway.dist.web.sessions import Session, Sessions
from underway.kit.console import Watch

MEDIA = "text/event-stream"
_PAUSE_S = 0.25  # between two showings of a page: changes come in bursts
_REFRESH_S = 15.0  # ages grow, tokens expire: so long a page stays without a change
_RETRY_S = 2.0
_LINE_LIMIT = 16 * 1024  # bytes of a line that are shown
_RESTS = 4  # times as long as a showing took: busy pages leave the process to others
_BATCH = 200  # lines in one event

Render = Callable[[], Awaitable[str]]


def event(name: str, data: str) -> bytes:
    """One event on the wire."""
    lines = "".join(f"data: {line}\n" for line in data.replace("\r", "").split("\n"))
    return f"event: {name}\n{lines}\n".encode()


class EventStream(Response):
    """An answer that goes on until the client leaves or the session ends."""

    media_type = MEDIA

    def __init__(self, sessions: Sessions, session: Session, headers: dict[str, str]) -> None:
        super().__init__(headers={**headers, "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._sessions = sessions
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, then events."""
        self._session.streams += 1
        try:
            await self._stream(send)
        finally:
            self._session.streams -= 1

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _body(send, b": open\n\n")
        async with asyncio.TaskGroup() as group:
            talking = group.create_task(self._talk(send), name="events")
            over = group.create_task(self._session.ended.wait(), name="session")
            await asyncio.wait((talking, over), return_when=asyncio.FIRST_COMPLETED)
            talking.cancel()
            over.cancel()
        last = b"" if self._sessions.alive(self._session) else event("ended", "")
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _talk(self, send: Send) -> None:
        raise NotImplementedError


class LivePage(EventStream):
    """Sends ``content`` events: the page's live region, whenever it looks different."""

    def __init__(
        self,
        sessions: Sessions,
        session: Session,
        headers: dict[str, str],
        *,
        render: Render,
        client: Client,
        watches: Iterable[Watch],
        clock: Clock,
    ) -> None:
        super().__init__(sessions, session, headers)
        self._render = render
        self._client = client
        self._watches = tuple(watches)
        self._clock = clock

    async def _talk(self, send: Send) -> None:
        changed = asyncio.Event()
        shown = ""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(self._follow(watch, changed), name="watch of a page")
            while self._sessions.alive(self._session):
                changed.clear()
                began_s = self._clock.monotonic()
                html = await self._render()
                took_s = self._clock.monotonic() - began_s
                if html != shown:
                    await _body(send, event("content", html))
                    shown = html
                else:
                    await _body(send, b":\n\n")
                await self._clock.sleep(max(_PAUSE_S, _RESTS * took_s))
                try:
                    async with asyncio.timeout(_REFRESH_S):
                        await changed.wait()
                except TimeoutError:
                    continue

    async def _follow(self, watch: Watch, changed: asyncio.Event) -> None:
        selection = {"labels": watch.labels, "fields": watch.fields}
        while True:
            try:
                now = await self._client.list(watch.resource, watch.namespace, limit=1, **selection)
                # Whatever happened while there was no watch is seen now.
                changed.set()
                async for _ in self._client.watch(
                    watch.resource,
                    watch.namespace,
                    resource_version=now.resource_version,
                    bookmarks=False,
                    **selection,
                ):
                    changed.set()
            except (Forbidden, NotFound, MethodNotAllowed):
                return  # the page says so itself
            except UnderwayError:
                await self._clock.sleep(_RETRY_S)


class LiveText(EventStream):
    """Sends ``start``, ``lines`` events of some lines of text each, and ``end`` after the last."""

    def __init__(
        self,
        sessions: Sessions,
        session: Session,
        headers: dict[str, str],
        *,
        lines: AsyncGenerator[bytes, None],
    ) -> None:
        super().__init__(sessions, session, headers)
        self._lines = lines

    async def _talk(self, send: Send) -> None:
        pending = b""
        await _body(send, event("start", ""))
        try:
            async for chunk in self._lines:
                *whole, pending = (pending + chunk).split(b"\n")
                pending = pending[:_LINE_LIMIT]
                for first in range(0, len(whole), _BATCH):
                    await _body(send, _lines(whole[first : first + _BATCH]))
        except UnderwayError as error:
            await _body(send, _lines([error.message.encode()]))
        if pending:
            await _body(send, _lines([pending]))
        await _body(send, event("end", ""))


async def while_logged_in(
    lines: AsyncGenerator[bytes, None], sessions: Sessions, session: Session
) -> AsyncIterator[bytes]:
    """The lines, until they end or the session does."""
    async with contextlib.aclosing(lines):
        async for chunk in lines:
            if not sessions.alive(session):
                return
            yield chunk


def _lines(lines: list[bytes]) -> bytes:
    shown = (line[:_LINE_LIMIT].decode("utf-8", "replace") for line in lines)
    return event("lines", "\n".join(line.replace("\n", " ") for line in shown))


async def _body(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
