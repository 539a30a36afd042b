"""Writing a new operator project, whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from underway.base.errors import Conflict, InternalError
from underway.capabilities.operators.rules.project import Project, render

_TEMPLATES = "underway.capabilities.operators"


def files_of(made: Project) -> dict[str, str]:
    """The project's files, path to text, with the manifests its own code makes. Blocking."""
    with tempfile.TemporaryDirectory(prefix="underway-operator-") as scratch:
        root = Path(scratch)
        _write(root, render(made, _templates()))
        _run(root, "-m", made.package, "manifests")
        return {
            str(file.relative_to(root)): file.read_text(encoding="utf-8")
            for file in sorted(root.rglob("*"))
            if file.is_file() and "__pycache__" not in file.parts
        }


def create(made: Project, folder: Path) -> list[Path]:
    """Write the project into ``folder``; returns the files, relative to it. Blocking.

    Raises:
        Conflict: something is there already; nothing is written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(
            f"{folder} is there already and not empty", hint="choose another name or folder"
        )
    files = files_of(made)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{made.name}-", dir=folder.parent))
    try:
        _write(scratch, files)
        scratch.chmod(0o755)
        scratch.replace(folder)  # over an empty folder, or none
    except OSError as error:
        raise Conflict(f"cannot write {folder}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [Path(name) for name in files]


def _templates() -> dict[str, str]:
    found: dict[str, str] = {}

    def gather(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir() and entry.name != "__pycache__":
                gather(entry, f"{prefix}{entry.name}/")
            elif entry.is_file():
                found[prefix + entry.name] = entry.read_text(encoding="utf-8")

    gather(resources.files(_TEMPLATES).joinpath("templates", "project"), "")
    return found


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def _run(root: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise InternalError(f"the new project cannot make its manifests: {done.stderr[-2000:]}")
