"""Times as the registry keeps them: RFC 3339 in UTC with milliseconds, sorting as they follow."""

from __future__ import annotations

from datetime import UTC, datetime

NEVER = "0001-01-01T00:00:00.000Z"  # Go's zero time, which Harbor's clients expect


def text(moment: datetime) -> str:
    """A moment as text."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def of_s(seconds: float) -> str:
    """Seconds since 1970 as text."""
    return text(datetime.fromtimestamp(seconds, UTC))


def parse(written: str) -> datetime:
    """The moment a text names; raises ValueError."""
    moment = datetime.fromisoformat(written)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
