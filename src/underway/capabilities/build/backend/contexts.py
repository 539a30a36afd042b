"""Build contexts that are no directory yet: archives, standard input, git repositories.

Sources: kaniko README (build contexts); Docker ``docker build`` (PATH | URL | -);
git ``gitrevisions``, ``git-config`` (``GIT_CONFIG_COUNT``).
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from underway.base.errors import BadRequest, ServiceUnavailable
from underway.capabilities.build.backend.delivery import is_archive, unpack_archive
from underway.capabilities.build.backend.paths import inside

ARCHIVE_BYTES_MAX = 8 << 30
GIT_TIMEOUT_S = 600
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class GitSource:
    """A repository, a branch, tag or commit of it (empty: its default branch), a directory."""

    url: str
    ref: str = ""
    folder: str = ""


@contextlib.contextmanager
def unpacked(archive: str, sub_path: str = "") -> Iterator[Path]:
    """A tar archive's files as a directory, gone afterwards; ``-`` is standard input.

    Raises:
        BadRequest: it is no tar archive, is too large, or an entry leads out of it.
    """
    with _temporary() as made:
        file = Path(archive)
        if archive == "-":
            file = Path(made) / "context.tar"
            _spool(file)
        if not is_archive(file):
            raise BadRequest(f"the build context {archive} is no tar archive")
        folder = Path(made) / "context"
        folder.mkdir()
        unpack_archive(file, folder)
        yield directory(folder, sub_path)


@contextlib.contextmanager
def cloned(source: GitSource, sub_path: str = "") -> Iterator[Path]:
    """A git repository's files as a directory, gone afterwards.

    Raises:
        BadRequest: there is no such repository, branch or commit; with git's last lines.
        ServiceUnavailable: git is not installed.
    """
    with _temporary() as made:
        folder = Path(made) / "repository"
        check_out(source, folder)
        yield directory(folder, source.folder or sub_path)


def check_out(source: GitSource, folder: Path, *, keep_git: bool = False) -> str:
    """Fetch one commit, without history, into a new directory; its full id.

    Raises:
        BadRequest: there is no such repository, branch or commit; with git's last lines.
        ServiceUnavailable: git is not installed.
    """
    folder.mkdir(parents=True)
    if source.url.startswith("-") or source.ref.startswith("-"):
        raise BadRequest(f"{source.url}#{source.ref}: neither may begin with a dash")
    _git(folder, "init", "--quiet")
    _git(folder, "fetch", "--quiet", "--depth=1", source.url, source.ref or "HEAD")
    _git(folder, "-c", "advice.detachedHead=false", "checkout", "--quiet", "FETCH_HEAD")
    if (folder / ".gitmodules").is_file():
        _git(folder, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
    commit = _git(folder, "rev-parse", "HEAD").strip()
    if not keep_git:
        shutil.rmtree(folder / ".git")
    return commit


def git_source(text: str, scheme: str = "https") -> GitSource:
    """``URL[#REF[:DIRECTORY]]``; ``git://`` is taken as ``scheme``, as kaniko does."""
    url, _, fragment = text.partition("#")
    ref, _, folder = fragment.partition(":")
    if url.startswith("git://"):
        url = f"{scheme}://{url.removeprefix('git://')}"
    elif url.startswith("git@"):
        host, _, path = url.removeprefix("git@").partition(":")
        url = f"ssh://git@{host}/{path}"
    return GitSource(url, ref, folder)


def _git(folder: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        **_credentials(),
    }
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise ServiceUnavailable("git is not installed", hint="apt-get install git") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceUnavailable(f"git took longer than {GIT_TIMEOUT_S} s") from error
    if done.returncode:
        shown = " ".join(done.stderr.split("\n")[-6:]).strip()
        raise BadRequest(f"git {arguments[0]}: {shown}")
    return done.stdout


def _credentials() -> dict[str, str]:
    """``GIT_TOKEN``, or ``GIT_USERNAME`` and ``GIT_PASSWORD``: as a header, in no argument."""
    username = os.environ.get("GIT_TOKEN") or os.environ.get("GIT_USERNAME")
    if not username:
        return {}
    password = "" if os.environ.get("GIT_TOKEN") else os.environ.get("GIT_PASSWORD", "")
    pair = base64.b64encode(f"{username}:{password}".encode()).decode()
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "http.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Basic {pair}",
    }


def _spool(file: Path) -> None:
    left = ARCHIVE_BYTES_MAX
    with file.open("wb") as stream:
        while chunk := sys.stdin.buffer.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise BadRequest(f"the build context is larger than {ARCHIVE_BYTES_MAX} bytes")
            stream.write(chunk)


def directory(folder: Path, sub_path: str) -> Path:
    """A directory of a context.

    Raises:
        BadRequest: it is not there.
    """
    found = inside(folder, sub_path)
    if not found.is_dir():
        raise BadRequest(f"the build context has no directory {sub_path}")
    return found


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    import tempfile  # slow to import, and most contexts are directories

    with tempfile.TemporaryDirectory(prefix="underway-context-") as made:
        yield made
