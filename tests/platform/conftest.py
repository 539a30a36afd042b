"""One whole platform for all tests of this folder, started and removed as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import peers

# Assembled base images are kept here between runs: they come from Debian's packages alone.
BASE_CACHE = "/var/cache/underway"
UNDERWAY = [sys.executable, "-m", "underway.dist.main"]


@dataclass(frozen=True)
class Platform:
    """A running platform and the real clients that drive it."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "UNDERWAY_HOME": str(self.home),
            "UNDERWAY_BASE_CACHE": os.environ.get("UNDERWAY_BASE_CACHE", BASE_CACHE),
            "KUBECONFIG": str(self.home / "kubeconfig"),
        }

    def run(
        self, *command: str, check: bool = True, timeout: float = 300, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(
                f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
                f"\n{self.diagnosis()}"
            )
        return done

    def diagnosis(self) -> str:
        """What the platform has to say when something went wrong."""
        kubectl = str(peers.kubectl("37"))
        found = []
        for what in (["get", "pods", "-A", "-o", "wide"], ["get", "events", "-A"]):
            done = self.run(kubectl, *what, check=False, timeout=30)
            found.append(done.stdout[-4000:])
        found += [
            f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}"
            for log in sorted((self.home / "logs").glob("*.log"))
        ]
        return "\n".join(found)

    def underway(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run(*UNDERWAY, *arguments, **options)

    def kubectl(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run(str(peers.kubectl("37")), *arguments, **options)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)

    def status(self) -> Any:
        return json.loads(self.underway("status", "-o", "json").stdout)

    def ship(self, path: Path, *arguments: str) -> Any:
        return json.loads(self.underway("ship", str(path), *arguments, "-o", "json").stdout)

    def up(self) -> None:
        free = ["--api-port", "0", "--registry-port", "0", "--node-port", "0"]
        first = not (self.home / "settings.json").exists()
        self.underway("up", "--detach", *(free if first else []))


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    if os.geteuid() != 0:
        pytest.skip("a platform needs root")
    made = Platform(tmp_path_factory.mktemp("platform") / "home")
    made.up()
    try:
        yield made
    finally:
        made.underway("reset", "--yes")
    assert not made.home.exists()
