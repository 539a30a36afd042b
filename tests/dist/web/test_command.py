"""``underway console`` where there is nothing to open, and what it must not take."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from underway.dist.main import main


@pytest.mark.parametrize("command", [["console", "--print"], ["console", "token"]])
def test_without_a_platform_it_says_how_to_start_one(tmp_path: Path, command: list[str]) -> None:
    done = CliRunner().invoke(main, command, env={"UNDERWAY_HOME": str(tmp_path)})
    assert done.exit_code == 1
    assert "underway up" in done.stderr


@pytest.mark.parametrize("account", ["ada", "a/b/c", "Default/ada", "default/", "../x"])
def test_malformed_service_account_is_named(tmp_path: Path, account: str) -> None:
    done = CliRunner().invoke(
        main,
        ["console", "token", "--service-account", account],
        env={"UNDERWAY_HOME": str(tmp_path)},
    )
    assert done.exit_code == 2
    assert "NAMESPACE/NAME" in done.stderr
