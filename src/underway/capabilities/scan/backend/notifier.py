"""Telling of vulnerabilities that new advisories bring to images indexed before.

Source: Clair v4 "Notifications" (webhook delivery: ``notification_id`` and ``callback``).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import msgspec

from underway.base.errors import BadRequest
from underway.base.home import Home
from underway.capabilities.scan.backend.scanner import Scanner
from underway.capabilities.scan.rules import clair

_TIMEOUT_S = 10.0
_ATTEMPTS = 3


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where notifications go: ``target`` is told, ``callback`` is where the rest is fetched."""

    target: str
    callback: str = ""
    headers: dict[str, str] = {}


def notify(home: Home, scanner: Scanner, changed: Iterable[str]) -> tuple[str, int]:
    """Match every known image with the advisories that are new or changed, and tell of it.

    Returns:
        The notification's id, empty where there was nothing to tell, and how many items it has.

    Raises:
        BadRequest: the target's file is malformed, or the target does not take it.
    """
    wanted = set(changed)
    items: list[dict[str, Any]] = []
    for digest in scanner.indexes.manifests() if wanted else ():
        subject = scanner.known(digest)
        if subject is None:
            continue
        items += [
            clair.notification(digest, match)
            for match in scanner.match(subject).matches
            if match.advisory.id in wanted
        ]
    if not items:
        return "", 0
    id_ = str(uuid.uuid4())
    scanner.indexes.keep_notification(id_, items)
    target = _target(home)
    if target is not None:
        _deliver(target, id_)
    return id_, len(items)


def _target(home: Home) -> Target | None:
    path = home.scan / "notifier.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Target)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise BadRequest(f"{path}: {error}") from error


def _deliver(target: Target, id_: str) -> None:
    import httpx

    callback = f"{target.callback.rstrip('/')}/notifier/api/v1/notification/{id_}"
    body = {"notification_id": id_, "callback": callback}
    failure = ""
    for _ in range(_ATTEMPTS):
        try:
            answer = httpx.post(
                target.target, json=body, headers=target.headers, timeout=_TIMEOUT_S
            )
            if answer.is_success:
                return
            failure = f"HTTP {answer.status_code}"
        except httpx.HTTPError as error:
            failure = str(error)
    raise BadRequest(
        f"{target.target} does not take the notification: {failure}",
        hint=f"it can still be fetched by its id, {id_}",
    )
