"""Running a short-lived tool of the system and taking its failure as one of our errors."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from underway.base.errors import InternalError, RequestTimeout, ServiceUnavailable

_TIMEOUT_S = 60
_TAIL_CHARS = 2_000


def output(argv: Sequence[str], stdin: str = "", *, timeout_s: float = _TIMEOUT_S) -> str:
    """What a tool printed.

    Raises:
        ServiceUnavailable: the tool is not installed.
        RequestTimeout: it did not end in time; it was killed.
        InternalError: it failed; the message carries the end of what it wrote.
    """
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError as error:
        raise ServiceUnavailable(
            f"{argv[0]} is not installed", hint="apt-get install iproute2 nftables"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RequestTimeout(f"{' '.join(argv)} did not end within {timeout_s:g} s") from error
    if done.returncode:
        told = (done.stderr or done.stdout).strip()[-_TAIL_CHARS:]
        raise InternalError(f"{' '.join(argv)}: {told or f'exit status {done.returncode}'}")
    return done.stdout
