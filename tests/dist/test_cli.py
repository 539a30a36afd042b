from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What a command line that only prints help has no use for; each costs tens of milliseconds.
HEAVY = ("asyncio", "cryptography", "httpx", "jinja2", "sqlite3", "ssl", "uvloop", "yaml")


def underway(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "underway.dist.main", *arguments],
        env={**os.environ, "UNDERWAY_HOME": str(home)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom underway.dist.main import main\n"
        "try:\n    main(['--help'], standalone_mode=False)\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert "ship" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("arguments", [("kubeconfig",), ("ship", "."), ("explain", "pod/x")])
def test_without_a_platform_the_error_says_what_to_do(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = underway(*arguments, home=tmp_path / "none")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "hint: " in done.stderr
    assert "underway up" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_a_usage_error(tmp_path: Path) -> None:
    done = underway("shipp", home=tmp_path)
    assert done.returncode == 2
    assert "shipp" in done.stderr


def test_reset_asks_first_and_keeps_what_it_must_not_delete(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "precious").write_text("x")
    done = underway("reset", home=home)
    assert done.returncode != 0
    assert (home / "precious").exists()
