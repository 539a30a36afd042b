"""The console as a handler that loads the web framework when the first visitor comes."""

from __future__ import annotations

from collections.abc import Mapping

from underway.base.clock import Clock, SystemClock
from underway.base.home import Home
from underway.base.threads import run_blocking
from underway.wire.http import Handler, Request, Response


def console(
    home: Home, api: Handler, services: Mapping[str, Handler], clock: Clock | None = None
) -> Handler:
    """The web console of a platform.

    Args:
        home: names the platform, so that the cookies of two on one machine differ.
        api: the cluster's API; it authenticates each request.
        services: the platform's other HTTP services by endpoint.
        clock: time.
    """
    loaded: Handler | None = None

    async def handle(request: Request) -> Response:
        nonlocal loaded
        if loaded is None:
            make = await run_blocking(_load)
            # Two first visitors may both have waited: the sessions are the first one's.
            loaded = loaded or make(home, api, services, clock or SystemClock())
        return await loaded(request)

    return handle


def _load():  # the type would import what must wait
    from underway.dist.web.app import application

    return application
