from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from underway.base.errors import BadRequest, ServiceUnavailable
from underway.capabilities.passage import backend


def digest(root: Path) -> str:
    return backend.read_source(root, "python").digest


def test_every_change_of_the_tree_changes_the_digest(tmp_path: Path) -> None:
    root = tmp_path / "src"
    root.mkdir()
    seen = {digest(root)}
    (root / "a").write_text("bc")
    seen.add(digest(root))
    (root / "a").rename(root / "ab")
    (root / "ab").write_text("c")
    seen.add(digest(root))
    (root / "ab").chmod(0o755)
    seen.add(digest(root))
    (root / "link").symlink_to("ab")
    seen.add(digest(root))
    assert len(seen) == 5


def test_what_tools_leave_behind_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    before = digest(tmp_path)
    for name in ("__pycache__", "node_modules", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("y")
    assert digest(tmp_path) == before


def test_git_names_commit_and_remote_without_credentials(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("remote", "add", "origin", "https://me:secret@example.org/x.git")
    (tmp_path / "a").write_text("x")
    git("add", ".")
    git("commit", "-qm", "one")
    source = backend.read_source(tmp_path, "python")
    assert source.commit == git("rev-parse", "HEAD")
    assert source.repository == "https://example.org/x.git"
    assert not source.modified
    (tmp_path / "a").write_text("y")
    assert backend.read_source(tmp_path, "python").modified


def test_outside_git_there_is_no_commit(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert backend.read_source(tmp_path, "python").as_dict().keys() == {
        "path",
        "digest",
        "language",
    }


def test_a_manifest_that_is_no_object_names_its_file(tmp_path: Path) -> None:
    broken = tmp_path / "deploy.yaml"
    broken.write_text("- just\n- a list\n")
    with pytest.raises(BadRequest, match=r"deploy\.yaml"):
        backend.read_manifests((broken,))
    broken.write_text("a: [")
    with pytest.raises(BadRequest, match=r"deploy\.yaml"):
        backend.read_manifests((broken,))


def test_an_application_that_does_not_answer_is_named() -> None:
    with pytest.raises(ServiceUnavailable, match=r"http://127\.0\.0\.1:1/"):
        backend.probe("127.0.0.1", 1, timeout_s=0.0)
