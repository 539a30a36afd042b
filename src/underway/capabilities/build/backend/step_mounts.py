"""``RUN --mount``: what a single step sees besides the image.

Source: BuildKit ``docs/reference.md`` (RUN --mount).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from underway.base.errors import BadRequest
from underway.capabilities.build.backend.copying import Manner, copy_into
from underway.capabilities.build.backend.paths import inside
from underway.capabilities.build.backend.rooms import Room
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.backend.trees import Tree
from underway.capabilities.build.rules.container import Bind
from underway.capabilities.build.rules.keys import framed
from underway.wire.dockerfile_words import expand

HIDDEN = "***"
PRIVATE_MAX = 64
HIDDEN_CHARS_MIN = 4  # shorter ones would blot out ordinary text


@dataclass(frozen=True, slots=True)
class Lent:
    """What the user lends to steps by id: secrets, and sockets of agents that hold ssh keys."""

    secrets: Mapping[str, Path | bytes]
    agents: Mapping[str, Path]


class StepMounts:
    """The mounts of one RUN, as what its container needs; caches stay locked while it lasts."""

    def __init__(
        self,
        room: Room,
        shelf: Shelf,
        options: Sequence[Mapping[str, str]],
        lent: Lent,
    ) -> None:
        self._room, self._shelf = room, shelf
        self._options, self._lent = options, lent
        self._held = contextlib.ExitStack()
        self.binds: list[Bind] = []
        self.tmpfs: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.key: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.close()

    def open(
        self,
        tree_of: Callable[[str], tuple[Tree, str]],
        scope: Mapping[str, str],
        escape: str,
        context: Tree | None = None,
    ) -> None:
        """Prepare each mount.

        Raises:
            BadRequest: a mount asks for what cannot be given.
        """
        for index, raw in enumerate(self._options):
            options = {name: expand(value, scope, escape) for name, value in raw.items()}
            kind = options["type"]
            if kind == "cache":
                self._cache(options, tree_of)
            elif kind == "tmpfs":
                size = options.get("size", "")
                self.tmpfs[options["target"]] = "mode=1777" + (f",size={size}" if size else "")
            elif kind == "secret":
                self._secret(options, index)
            elif kind == "bind":
                self._bind(options, index, tree_of, context)
            else:
                self._ssh(options, index)
            if kind not in ("secret", "ssh"):
                self.key.append(framed(options))

    def _cache(
        self, options: Mapping[str, str], tree_of: Callable[[str], tuple[Tree, str]]
    ) -> None:
        target = posixpath.join("/", options["target"])
        name = options.get("id") or target
        read_only = options.get("readonly") == "true"
        sharing = options.get("sharing", "shared")
        folder = self._shelf.caches / framed(name)[:32]
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = self._held.enter_context(folder.with_suffix(".lock").open("w"))
        if sharing == "private":
            folder = self._unshared(folder)
        elif sharing == "locked":
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            # Whole or not at all: a second build may be about to use it.
            made = self._room.path / f"cache-{len(self.binds)}"
            made.mkdir()
            if options.get("from"):
                tree, _ = tree_of(options["from"])
                copy_into(made, tree, tree.find(options.get("source", "/")), "/", Manner(None))
            made.chmod(int(options.get("mode", "755"), 8))
            os.chown(made, int(options.get("uid", 0)), int(options.get("gid", 0)))
            with contextlib.suppress(OSError):
                made.rename(folder)
        self.binds.append(Bind(str(folder), target, read_only))

    def _unshared(self, folder: Path) -> Path:
        """The first of a cache's directories that no other step uses now."""
        for number in range(PRIVATE_MAX):
            each = folder.with_name(f"{folder.name}-{number}")
            lock = each.with_suffix(".lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            self._held.enter_context(lock)
            return each
        raise BadRequest(f"--mount=type=cache: more than {PRIVATE_MAX} steps use it at once")

    def _ssh(self, options: Mapping[str, str], index: int) -> None:
        name = options.get("id") or "default"
        socket = self._lent.agents.get(name)
        if socket is None:
            if options.get("required") == "true":
                raise BadRequest(
                    f"--mount=type=ssh: there is no agent {name} to forward", hint=f"--ssh {name}"
                )
            return
        target = options.get("target") or f"/run/buildkit/ssh_agent.{index}"
        self.environment["SSH_AUTH_SOCK"] = target
        self.binds.append(Bind(str(socket), target))

    def _secret(self, options: Mapping[str, str], index: int) -> None:
        name = options.get("id") or posixpath.basename(options.get("target", ""))
        source = self._lent.secrets.get(name)
        if source is None:
            if options.get("required") == "true":
                raise BadRequest(f"the secret {name} is required", hint=f"--secret id={name},src=…")
            return
        data = source if isinstance(source, bytes) else source.read_bytes()
        if "env" in options:
            self.environment[options["env"]] = data.decode("utf-8", "replace")
            if "target" not in options:
                return
        copied = self._room.path / f"secret-{index}"
        copied.unlink(missing_ok=True)
        descriptor = os.open(copied, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        copied.chmod(int(options.get("mode", "400"), 8))
        os.chown(copied, int(options.get("uid", 0)), int(options.get("gid", 0)))
        target = options.get("target") or f"/run/secrets/{name}"
        self.binds.append(Bind(str(copied), target, read_only=True))

    def _bind(
        self,
        options: Mapping[str, str],
        index: int,
        tree_of: Callable[[str], tuple[Tree, str]],
        context: Tree | None,
    ) -> None:
        source = options.get("source", "/")
        target = posixpath.join("/", options["target"])
        if options.get("from"):
            tree, identity = tree_of(options["from"])
            self.key.append(identity)
            found_at = inside(tree.root, source)
            if options.get("rw") == "true" or options.get("readwrite") == "true":
                found_at = self._writable(found_at, index)
                self.binds.append(Bind(str(found_at), target))
                return
            self.binds.append(Bind(str(found_at), target, read_only=True))
            return
        if context is None:
            raise BadRequest("--mount=type=bind needs a build context")
        # A copy, so that the step sees what the ignore file leaves and cannot change the source.
        found = context.find(source)
        self.key.append(context.digest(found))
        folder = self._room.path / "binds" / f"{len(self.key)}-{index}"
        folder.mkdir(parents=True, exist_ok=True)
        single = (context.root / found[0].relative).is_file()
        place = "/file" if single else "/"
        copy_into(folder, context, found, place, Manner())
        self.binds.append(Bind(str(folder / "file" if single else folder), target))

    def _writable(self, source: Path, index: int) -> Path:
        """A copy that takes the step's writes, which nobody sees afterwards."""
        folder = self._room.path / "binds" / f"rw-{len(self.key)}-{index}"
        folder.mkdir(parents=True)
        tree = Tree(source.parent, what="stage")
        place = folder / "copy"
        single = not source.is_dir()
        copy_into(
            folder, tree, tree.find(source.name), "/copy" if single else "/copy/", Manner(None)
        )
        return place


def hiding(secrets: Iterable[Path | bytes]) -> Callable[[str], str]:
    """What takes the secrets, and each of their lines, out of text for a log."""
    lines: set[str] = set()
    for source in secrets:
        data = source if isinstance(source, bytes) else source.read_bytes()
        lines |= {line.strip() for line in data.decode("utf-8", "replace").splitlines()}
    found = sorted((line for line in lines if len(line) >= HIDDEN_CHARS_MIN), key=len)[::-1]

    def hide(text: str) -> str:
        for secret in found:
            text = text.replace(secret, HIDDEN)
        return text

    return hide
