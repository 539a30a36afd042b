"""Where COPY takes files from: a build context or another stage."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from underway.base.errors import BadRequest, NotFound
from underway.capabilities.build.backend.digests import Digests
from underway.capabilities.build.backend.paths import inside
from underway.capabilities.build.rules.keys import framed
from underway.wire.dockerignore import IgnoreRules, glob

_WILD = re.compile(r"[*?\[\\]")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: ``path`` is relative to the source it was found under, empty for itself."""

    path: str
    full: str
    status: os.stat_result


@dataclass(frozen=True, slots=True)
class Source:
    """What a COPY's source word matched; ``name`` is its last part, as it was written.

    ``above`` counts the leading parts that ``--parents`` leaves out: those before ``/./``.
    """

    name: str
    relative: str
    above: int = 0


class Tree:
    """Files below a root, less those that are ignored."""

    def __init__(
        self,
        root: Path,
        ignore: IgnoreRules | None = None,
        what: str = "context",
        digests: Digests | None = None,
    ) -> None:
        self.root = root
        self._digests = digests or Digests(Path("/dev/null"))
        self._ignore = ignore or IgnoreRules(())
        self._what = what

    def find(self, pattern: str) -> list[Source]:
        """The sources a word names, sorted.

        Raises:
            NotFound: there is none.
            BadRequest: it leads out of the tree, or is no pattern.
        """
        parts: list[str] = []
        above, mark, _ = pattern.partition("/./")
        skipped = len([p for p in above.split("/") if p not in ("", ".")]) if mark else 0
        for part in pattern.split("/"):
            if part == "..":
                if not parts:
                    raise BadRequest(f"{pattern} leads out of the {self._what}")
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        try:
            found = self._match("", parts)
        except (ValueError, re.error) as error:
            raise BadRequest(f"{pattern}: {error}") from error
        sources = [s for s in (self._source(path, skipped) for path in found) if s is not None]
        if not sources:
            hint = "it is left out by .dockerignore" if found else ""
            raise NotFound(f"{pattern} is not in the {self._what}", hint=hint)
        return sources

    def walk(self, relative: str, excludes: IgnoreRules | None = None) -> Iterator[Entry]:
        """A source and, where it is a directory, all below it; each directory first, sorted."""
        full = str(self.root / relative) if relative else str(self.root)
        status = os.lstat(full)
        yield Entry("", full, status)
        if stat.S_ISDIR(status.st_mode):
            yield from self._below(full, relative, "", excludes or IgnoreRules(()))

    def digest(self, sources: list[Source], excludes: IgnoreRules | None = None) -> str:
        """What identifies the sources: names, modes, links and content; no times, no owners."""
        parts: list[str] = []
        for source in sources:
            parts.append(source.name)
            for entry in self.walk(source.relative, excludes):
                kind = stat.S_IFMT(entry.status.st_mode)
                mode = oct(entry.status.st_mode) if kind != stat.S_IFLNK else "link"
                parts += [entry.path, mode, self._content(entry, kind)]
        return framed(parts)

    def _content(self, entry: Entry, kind: int) -> str:
        if kind == stat.S_IFLNK:
            return os.readlink(entry.full)  # noqa: PTH115  # a text, not a path to follow
        if kind != stat.S_IFREG:
            return str(entry.status.st_rdev)
        try:
            return self._digests.of(entry.full, entry.status)
        except OSError as error:
            raise BadRequest(f"cannot read {entry.full}: {error.strerror}") from error

    def _match(self, below: str, parts: list[str]) -> list[str]:
        if not parts:
            return [below]
        if not any(_WILD.search(part) for part in parts):
            return ["/".join([*([below] if below else []), *parts])]
        head, rest = parts[0], parts[1:]
        if not _WILD.search(head):
            return self._match(f"{below}/{head}" if below else head, rest)
        wanted = glob(head)
        directory = inside(self.root, below)
        if not directory.is_dir():
            return []
        found: list[str] = []
        for name in sorted(
            each.name for each in directory.iterdir() if wanted.fullmatch(each.name)
        ):
            path = f"{below}/{name}" if below else name
            if not rest or inside(self.root, path).is_dir():
                found += self._match(path, rest)
        return found

    def _source(self, path: str, above: int = 0) -> Source | None:
        full = inside(self.root, path)
        relative = str(full.relative_to(self.root)) if full != self.root else ""
        try:
            status = full.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        left_out = path and (self._ignore.ignores(path) or self._ignore.ignores(relative))
        if left_out:
            directory = stat.S_ISDIR(status.st_mode)
            if not directory or not any(self._below(str(full), relative, "", IgnoreRules(()))):
                return None
        return Source(path.rpartition("/")[2], relative, above)

    def _below(self, full: str, relative: str, path: str, excludes: IgnoreRules) -> Iterator[Entry]:
        with os.scandir(full) as found:
            children = sorted(found, key=lambda each: each.name)
        for child in children:
            name = f"{relative}/{child.name}" if relative else child.name
            within = f"{path}/{child.name}" if path else child.name
            ignored = self._ignore.ignores(name) or excludes.ignores(within)
            if not child.is_dir(follow_symlinks=False):
                if not ignored:
                    yield Entry(within, child.path, child.stat(follow_symlinks=False))
                continue
            if self._ignore.prunes(name) or excludes.prunes(within):
                continue
            rest = self._below(child.path, name, within, excludes)
            if ignored:  # there only for the sake of what was taken back in
                first = next(rest, None)
                if first is None:
                    continue
                yield Entry(within, child.path, child.stat(follow_symlinks=False))
                yield first
            else:
                yield Entry(within, child.path, child.stat(follow_symlinks=False))
            yield from rest
