"""``underway snapshot`` as far as it needs no running platform."""

import json

import pytest
from click.testing import CliRunner
from tests.server.running import serve

from underway.base.home import Home, Settings
from underway.dist.main import main
from underway.transport import pki


@pytest.fixture
def underway(tmp_path):
    home = Home(tmp_path)
    pki.ensure_pki(home, Settings())
    home.save_settings(Settings())

    async def nothing(_server, _admin):
        pass

    serve(tmp_path, nothing)

    def run(*words):
        return CliRunner().invoke(main, words, env={"UNDERWAY_HOME": str(tmp_path)})

    return run


def test_snapshots_are_saved_listed_and_deleted(underway):
    assert underway("snapshot", "list").output.split() == ["NAME", "CREATED", "SIZE", "REVISION"]
    made = json.loads(underway("snapshot", "save", "one", "-o", "json").output)
    assert made["name"] == "one"
    assert json.loads(underway("snapshot", "list", "-o", "json").output) == [made]
    assert "Saved two" in underway("snapshot", "save", "two").output
    assert [line.split()[0] for line in underway("snapshot", "list").output.splitlines()] == [
        "NAME",
        "one",
        "two",
    ]
    assert underway("snapshot", "delete", "one").output == "Deleted one.\n"
    assert len(json.loads(underway("snapshot", "list", "-o", "json").output)) == 1


def test_errors_say_what_to_try_next(underway):
    assert underway("snapshot", "save", "one").exit_code == 0
    for words, said in (
        (("save", "one"), "choose another name"),
        (("save", "a/b"), "letters, digits"),
        (("delete", "none"), "underway snapshot list"),
        (("restore", "none"), "underway snapshot list"),
    ):
        done = underway("snapshot", *words)
        assert done.exit_code == 1
        assert said in done.output


def test_a_restore_asks_first(underway):
    underway("snapshot", "save", "one")
    done = underway("snapshot", "restore", "one")
    assert done.exit_code == 1
    assert "Replace the cluster" in done.output
    assert "Aborted" in done.output
