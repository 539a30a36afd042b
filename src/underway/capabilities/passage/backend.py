"""What a passage reads from outside the cluster: the source tree, git, and the application."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import yaml

from underway.api.objects import Object
from underway.base.errors import BadRequest, ServiceUnavailable
from underway.capabilities.passage.model import Proof, Source

_SKIPPED = frozenset({".git", ".venv", "__pycache__", "node_modules", ".pytest_cache"})
_FILE_LIMIT = 200_000
_ANSWER_LIMIT = 1024 * 1024  # bytes of the answer that are read
_GIT_TIMEOUT_S = 30.0
_PAUSE_S = 0.1


def read_source(root: Path, language: str) -> Source:
    """Digest a source tree and ask git where it comes from.

    Raises:
        BadRequest: the tree has more than 200,000 files.
    """
    commit = _git(root, "rev-parse", "HEAD")
    return Source(
        path=str(root),
        digest=_digest(root),
        language=language,
        commit=commit,
        repository=_without_credentials(_git(root, "remote", "get-url", "origin")),
        modified=bool(commit and _git(root, "status", "--porcelain", "--", ".")),
    )


def _digest(root: Path) -> str:
    total = hashlib.sha256()
    for count, path in enumerate(_files(root)):
        if count >= _FILE_LIMIT:
            raise BadRequest(f"{root} has more than {_FILE_LIMIT} files")
        info = path.lstat()
        if path.is_symlink():
            content = os.readlink(path).encode()  # noqa: PTH115  # the text itself, unresolved
        elif path.is_file():
            content = path.read_bytes()
        else:
            continue
        name = str(path.relative_to(root)).encode()
        # Lengths frame the parts, so that no two trees give the same bytes.
        head = b"%d %d %o " % (len(name), len(content), info.st_mode & 0o111)
        total.update(head + name + hashlib.sha256(content).digest())
    return f"sha256:{total.hexdigest()}"


def _files(root: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _SKIPPED)
        here = Path(directory)
        yield from (here / name for name in names if (here / name).is_symlink())
        yield from (here / name for name in sorted(files))


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _without_credentials(url: str) -> str:
    return re.sub(r"://[^/@]+@", "://", url)


def read_manifests(paths: tuple[Path, ...]) -> list[Object]:
    """The objects in manifest files.

    Raises:
        BadRequest: a file is no YAML, or holds something that is no Kubernetes object.
    """
    found: list[Object] = []
    for path in paths:
        try:
            documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError) as error:
            raise BadRequest(f"{path}: {error}") from error
        for document in documents:
            if document is None:
                continue
            if not isinstance(document, dict) or not document.get("kind"):
                raise BadRequest(f"{path}: a document is no Kubernetes object")
            found.append(document)
    return found


def probe(host: str, port: int, *, timeout_s: float) -> Proof:
    """Ask the application over the network until it answers.

    An answer is any HTTP response below 500, or an accepted connection that speaks no HTTP.

    Raises:
        ServiceUnavailable: it did not answer in time; the last failure is named.
    """
    url = f"http://{host}:{port}/"
    deadline = time.monotonic() + timeout_s
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        while True:
            try:
                with client.stream("GET", url) as response:
                    content = b"".join(_bounded(response))
                if response.status_code < 500:
                    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
                    return Proof(url, "http", response.status_code, len(content), digest)
                failure = f"HTTP {response.status_code}"
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout):
                return Proof(f"tcp://{host}:{port}", "tcp")
            except httpx.HTTPError as error:
                failure = str(error)
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"{url} does not answer: {failure}")
            time.sleep(_PAUSE_S)


def _bounded(response: httpx.Response) -> Iterator[bytes]:
    size = 0
    for chunk in response.iter_bytes():
        yield chunk
        size += len(chunk)
        if size > _ANSWER_LIMIT:
            return
