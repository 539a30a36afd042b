"""Logging: one line an event, to standard error, with secrets masked."""

from __future__ import annotations

import logging
import re
import sys

_SECRET = re.compile(
    r"(?i)(authorization:\s*\w+\s+|bearer\s+|password[\"']?\s*[=:]\s*[\"']?|token[\"']?\s*[=:]\s*[\"']?"
    r"|://[^/\s:@]+:)([^\s\"'@,&]+)"
)


def redact(text: str) -> str:
    """``text`` with passwords, bearer tokens and URL credentials replaced by ``***``."""
    return _SECRET.sub(r"\1***", text)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure(level: str = "INFO") -> None:
    """Send the process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
