"""Compiling Go."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from underway.base.errors import BadRequest
from underway.capabilities.packs.rules.golang import BINARY

COMPILE_TIMEOUT_S = 600.0


def compile_go(root: Path, package: str) -> Path:
    """Compile a Go program into a static binary below the source; the same source, same bytes.

    Raises:
        BadRequest: there is no Go toolchain, or the program does not compile; with the
            compiler's last lines.
    """
    go = shutil.which("go")
    if go is None:
        raise BadRequest(
            "this is a Go program, and `go` is not on PATH to compile it",
            hint="install Go (apt-get install golang-go), or write a Dockerfile",
        )
    target = root / BINARY
    command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"]
    try:
        target.parent.mkdir(exist_ok=True)
        done = subprocess.run(
            [*command, "-o", str(target), package],
            cwd=root,
            env={**os.environ, "CGO_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMPILE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BadRequest(f"go build took longer than {COMPILE_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise BadRequest(f"go build cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()[-20:]
        raise BadRequest("go build failed:\n" + "\n".join(lines))
    return target
