"""The audit log: who changed what, one JSON line for each request, without what was written.

Level ``Metadata``, stage ``ResponseComplete``: requests that write, and those that reach into pods
and nodes. Heartbeats (leases), events and reviews are left out: they come by the thousand and
change nothing. Neither bodies nor messages of refusals, which may quote them, are kept.

Source: kubernetes/apiserver ``pkg/apis/audit/v1`` ``Event``; Kubernetes docs, "Auditing".
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from underway.base.clock import Clock
from underway.server.identity import Attributes, User
from underway.wire.http import Request

log = logging.getLogger(__name__)

SIZE_LIMIT_BYTES = 16 * 1024 * 1024  # of one file
KEPT_FILES = 4  # besides the one written to
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_REACHING = frozenset({"attach", "exec", "portforward", "proxy"})
_QUIET = frozenset(
    {
        ("", "events"),
        ("coordination.k8s.io", "leases"),
        ("events.k8s.io", "events"),
    }
)
ANNOTATIONS = "audit-annotations"  # what admission says of a request, in its context
_ASKING = frozenset({"authentication.k8s.io", "authorization.k8s.io"})
_TEXT_LIMIT = 4096  # characters of a URI or user agent


@dataclass(slots=True)
class Seen:
    """What the server found out about a request: who really asks, as whom, and for what."""

    received: datetime
    asker: User | None = None
    user: User | None = None
    wanted: Attributes | None = None
    allowed: bool = False


class AuditLog:
    """Appends to a file and keeps a few full ones beside it as ``<name>.1`` (the newest) and on.

    A line is one write to the file, so a process that is killed leaves no half of one. A log that
    cannot be written is reported once and holds up nobody.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        size_limit_bytes: int = SIZE_LIMIT_BYTES,
        kept_files: int = KEPT_FILES,
    ) -> None:
        self._path = path
        self._clock = clock
        self._limit_bytes = size_limit_bytes
        self._kept = kept_files
        self._file = -1
        self._size_bytes = 0
        self._broken = False

    def record(self, request: Request, seen: Seen, code: int) -> None:
        """Write down an answered request, if it is of those that are kept."""
        if seen.wanted is None or not _kept(seen.wanted):
            return
        line = msgspec.json.encode(self._event(request, seen, seen.wanted, code)) + b"\n"
        try:
            self._append(line)
            self._broken = False
        except OSError as error:
            if not self._broken:
                log.warning("cannot write the audit log %s: %s", self._path, error)
            self._broken = True
            self.close()

    def close(self) -> None:
        """Close the file; the next record opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, line: bytes) -> None:
        if self._file >= 0 and self._size_bytes + len(line) > self._limit_bytes:
            self.close()
            self._rotate()
        if self._file < 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o600)
            self._size_bytes = os.fstat(self._file).st_size
        self._size_bytes += os.write(self._file, line)

    def _rotate(self) -> None:
        def numbered(number: int) -> Path:
            return self._path.with_name(f"{self._path.name}.{number}")

        numbered(self._kept).unlink(missing_ok=True)
        for number in range(self._kept - 1, 0, -1):
            if numbered(number).exists():
                numbered(number).rename(numbered(number + 1))
        self._path.rename(numbered(1))

    def _event(self, request: Request, seen: Seen, wanted: Attributes, code: int) -> Any:
        reference = {
            "resource": wanted.resource,
            "namespace": wanted.namespace,
            "name": wanted.name,
            "apiGroup": wanted.group,
            "apiVersion": wanted.version,
            "subresource": wanted.subresource,
        }
        event: dict[str, Any] = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": str(uuid4()),
            "stage": "ResponseComplete",
            "requestURI": _uri(request),
            "verb": wanted.verb,
            "user": seen.asker.info() if seen.asker else {},
            "sourceIPs": [request.peer.address] if request.peer.address else [],
            "userAgent": request.headers.get("user-agent", "")[:_TEXT_LIMIT],
            "objectRef": {name: value for name, value in reference.items() if value},
            "responseStatus": {"metadata": {}, "code": code},
            "requestReceivedTimestamp": _micro(seen.received),
            "stageTimestamp": _micro(self._clock.now()),
            "annotations": {
                "authorization.k8s.io/decision": "allow" if seen.allowed else "forbid",
                **request.context.get(ANNOTATIONS, {}),
            },
        }
        if seen.user is not None and seen.user is not seen.asker:
            event["impersonatedUser"] = seen.user.info()
        return event


def _kept(wanted: Attributes) -> bool:
    if not wanted.resource:
        return False
    if wanted.subresource in _REACHING:
        return True
    if (wanted.group, wanted.resource) in _QUIET or wanted.group in _ASKING:
        return False
    return wanted.verb in _WRITES


def _uri(request: Request) -> str:
    text = f"{request.path}?{request.query}" if request.query else request.path
    return text[:_TEXT_LIMIT]


def _micro(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
