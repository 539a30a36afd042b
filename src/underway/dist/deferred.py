"""Handlers that are loaded when somebody first asks them."""

from __future__ import annotations

from collections.abc import Callable

from underway.base.threads import run_blocking
from underway.wire.http import Handler, Request, Response


def deferred(make: Callable[[], Handler]) -> Handler:
    """A handler that ``make`` gives, in a thread, at the first request."""
    loaded: Handler | None = None

    async def handle(request: Request) -> Response:
        nonlocal loaded
        if loaded is None:
            made = await run_blocking(make)
            # Of two first requests that both waited, the first one's handler stays.
            loaded = loaded or made
        return await loaded(request)

    return handle
