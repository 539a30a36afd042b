"""Hooks as users write them: plain HTTP servers, in processes of their own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "hooks"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def python_hook(name: str) -> Iterator[str]:
    """A hook of ``hooks/NAME.py``; yields its URL."""
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextlib.contextmanager
def shell_hook(name: str, root: Path) -> Iterator[str]:
    """A hook of ``hooks/NAME.sh``, run as CGI by busybox; yields its URL."""
    script = root / "cgi-bin" / name
    script.parent.mkdir(parents=True)
    shutil.copy(FOLDER / f"{name}.sh", script)
    script.chmod(0o755)
    port = free_port()
    command = ["busybox", "httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", str(root)]
    with subprocess.Popen(command) as process:
        try:
            yield f"http://127.0.0.1:{port}/cgi-bin/{name}"
        finally:
            process.terminate()
