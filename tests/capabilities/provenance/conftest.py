"""Programs of the other side, in a virtual environment of their own, and a signer that signs."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from tests.peers import PEERS

PACKAGES = ("in-toto==3.1.0", "in-toto-attestation==0.9.3", "grafeas==1.25.0")


@pytest.fixture(scope="session")
def peers() -> Path:
    """The ``bin`` directory with in-toto's programs and a Python that has Grafeas' client."""
    home = PEERS / "supply-chain"
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
            pip = [home / "venv" / "bin" / "python", "-m", "pip", "install", "-q"]
            subprocess.run([*pip, *PACKAGES], check=True, timeout=300)
            (home / "complete").touch()
    return home / "venv" / "bin"
