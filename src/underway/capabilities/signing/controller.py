"""Signs TUF snapshots and timestamps anew before they end."""

from __future__ import annotations

import logging

from underway.base.errors import UnderwayError
from underway.base.home import Home
from underway.base.threads import run_blocking
from underway.reconcile import Manager

_PERIOD_S = 600.0

_log = logging.getLogger(__name__)


def setup(manager: Manager, home: Home) -> None:
    """Add the runnable."""

    async def renew() -> None:
        while True:
            await run_blocking(_renew, manager, home)
            await manager.clock.sleep(_PERIOD_S)

    manager.add_runnable(renew)


def _renew(manager: Manager, home: Home) -> None:
    # The libraries of TUF are loaded where there is a repository, and nowhere else.
    if not any((home.signing / "tuf").glob("*/metadata/1.root.json")):
        return
    from underway.capabilities.signing.backend.tuf_repository import TufRepository, repositories

    for name in repositories(home):
        try:
            if TufRepository(home, name, manager.clock).renew():
                _log.info("TUF repository %s: signed anew", name)
        except (UnderwayError, OSError) as error:
            _log.warning("TUF repository %s could not be signed anew: %s", name, error)
