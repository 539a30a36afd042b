"""What identifies the result of a step: framed hashes, and which times files carry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

DEFAULT_EPOCH_S = 1_577_836_800
"""2020-01-01T00:00:00Z: what files made by a build, and the image itself, carry as their time."""

_SPREAD_S = 4 * 365 * 86_400


def framed(*parts: str | bytes | Iterable[str] | Mapping[str, str]) -> str:
    """A sha256 over parts with their lengths, so that no two lists of parts look alike."""
    seen = hashlib.sha256()

    def add(part: str | bytes) -> None:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        seen.update(b"%d:" % len(data) + data)

    for part in parts:
        if isinstance(part, str | bytes):
            add(part)
            continue
        items = (
            [text for name in sorted(part) for text in (name, part[name])]
            if isinstance(part, Mapping)
            else list(part)
        )
        seen.update(b"[%d:" % len(items))
        for item in items:
            add(item)
    return seen.hexdigest()


def moment_of(content: str, epoch_s: int, *, fixed: bool) -> int:
    """The modification time of all files that one COPY brings from outside the build.

    One moment for all of them, so that ``make`` sees nothing newer than the rest; derived from
    their content, so that a web server's ETag and Python's bytecode notice a change; before the
    epoch, so that what a later RUN makes of them is newer. With a SOURCE_DATE_EPOCH of the
    user's (``fixed``), that.
    """
    return epoch_s if fixed else epoch_s - 1 - int(content[:8], 16) % _SPREAD_S
