"""The files of a source directory, and the text of those that tell what it is."""

from __future__ import annotations

import os
from pathlib import Path

from underway.base.errors import BadRequest, NotFound
from underway.capabilities.packs.backend.rendering import FOLDER
from underway.capabilities.packs.model import Listing

DEPTH_LIMIT = 4  # folders below the source that are looked into
FILES_LIMIT = 20_000
TEXT_LIMIT_BYTES = 256 * 1024

_SKIPPED = frozenset(
    {".git", ".venv", "venv", "env", "node_modules", "__pycache__", "vendor", ".tox", FOLDER}
)
_READ = frozenset({
    "Cargo.toml", "Dockerfile", "Gemfile", "Pipfile", "Procfile", "build.gradle",
    "build.gradle.kts", "composer.json", "config.ru", "go.mod", "package.json", "pom.xml",
    "pyproject.toml", "requirements.txt",
})  # fmt: skip
_READ_SUFFIXES = (
    ".py", ".js", ".mjs", ".go", ".rs", ".rb", ".csproj", ".fsproj", ".vbproj",
    "/application.properties", "/application.yml", "/application.yaml",
)  # fmt: skip


def read_listing(root: Path, dockerfile: str = "Dockerfile") -> Listing:
    """The files of a source and the text of those that tell what it is.

    Raises:
        NotFound: there is no such directory.
        BadRequest: it holds more files than an application has.
    """
    if not root.is_dir():
        raise NotFound(f"{root} is not a directory")
    files: set[str] = set()
    texts: dict[str, str] = {}
    for folder, names, found in os.walk(root):
        here = Path(folder)
        depth = len(here.relative_to(root).parts)
        names[:] = sorted(n for n in names if n not in _SKIPPED) if depth < DEPTH_LIMIT else []
        for name in sorted(found):
            path = here / name
            relative = path.relative_to(root).as_posix()
            files.add(relative)
            if len(files) > FILES_LIMIT:
                raise BadRequest(
                    f"{root} holds more than {FILES_LIMIT} files",
                    hint="name the directory of one application",
                )
            if (
                (depth == 0 and name in _READ)
                or relative == dockerfile
                or relative.endswith(_READ_SUFFIXES)
            ):
                texts[relative] = _text(path)
    return Listing(frozenset(files), texts)


def _text(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > TEXT_LIMIT_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadRequest(f"{path}: {error.strerror}") from error
