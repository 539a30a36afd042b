"""Procfiles: ``web: command`` says how an application is run.

Source: Heroku Dev Center "The Procfile".
"""

from __future__ import annotations

import re


def web_command(text: str) -> tuple[str, ...]:
    """The ``web`` process as an exec form, through a shell so that ``$PORT`` works; or nothing."""
    for line in text.splitlines():
        match = re.fullmatch(r"\s*web\s*:\s*(\S.*?)\s*", line)
        if match:
            command = match[1]
            # One program takes the shell's place, so that it gets the signals itself.
            single = not re.search(r"[;&|]|^\w+=", command)
            return ("/bin/sh", "-c", f"exec {command}" if single else command)
    return ()
