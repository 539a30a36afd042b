"""Container output as conmon keeps it: one CRI-format line per line or part of one.

A line is ``TIME STREAM TAG TEXT`` with TAG ``F`` for a full line and ``P`` for a part whose rest
follows. Source: kubernetes ``design-proposals`` "CRI: Log management"; the kubelet's log options.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from underway.base.clock import parse_rfc3339
from underway.base.threads import run_blocking
from underway.linux.inotify import Watch

ROTATE_BYTES = 10 * 1024 * 1024
ROTATED = ".1"  # suffix of the one older file that is kept
_BLOCK = 64 * 1024
_LINE_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What of a log is wanted: ``PodLogOptions``."""

    follow: bool = False
    tail_lines: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    limit_bytes: int | None = None
    stream: str = ""  # stdout, stderr, or both where empty


def render(line: bytes, options: LogOptions) -> bytes:
    """What a client sees of one line of the file; empty if it was not asked for."""
    parts = line.rstrip(b"\n").split(b" ", 3)
    if len(parts) < 3:
        return b""
    moment, stream, tag = parts[:3]
    text = parts[3] if len(parts) > 3 else b""
    if options.stream and stream.decode("ascii", "replace") != options.stream:
        return b""
    if options.since is not None:
        try:
            if _moment(moment) < options.since:
                return b""
        except ValueError:
            return b""
    end = b"" if tag == b"P" else b"\n"
    return (moment + b" " if options.timestamps else b"") + text + end


def _moment(text: bytes) -> datetime:
    return parse_rfc3339(text.decode("ascii", "replace"))


def last_lines(path: Path, lines: int, limit_bytes: int) -> str:
    """The end of a container's output, as text. Blocking."""
    options = LogOptions(tail_lines=lines)
    found = b"".join(render(line, options) for line in _from_tail(path, lines))
    return found[-limit_bytes:].decode("utf-8", "replace")


async def stream(
    path: Path, options: LogOptions, ended: Callable[[], bool], end: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    """A container's output, as asked for.

    Args:
        path: the log file; it may be rotated while it is followed.
        ended: whether the container has ended, so that nothing more will come.
        end: waits until the container has ended.
    """
    left = options.limit_bytes
    async for line in _lines(path, options, ended, end):
        shown = render(line, options)
        if left is not None:
            shown = shown[:left]
            left -= len(shown)
        if shown:
            yield shown
        if left == 0:
            return


async def _lines(
    path: Path, options: LogOptions, ended: Callable[[], bool], end: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    position, inode = 0, 0
    rotated = path.with_name(path.name + ROTATED)
    if options.tail_lines is not None:
        tail = await run_blocking(lambda: list(_from_tail(path, options.tail_lines or 0)))
        position, inode = await run_blocking(_end_of, path, tail)
        for line in tail:
            yield line
    else:
        async for line, _at in _read(rotated, 0):
            yield line
    if not options.follow:
        if options.tail_lines is None:
            async for line, _at in _read(path, 0):
                yield line
        return
    with Watch(path.parent) as watch:
        while True:
            over = ended()
            current = await run_blocking(_inode, path)
            if inode and current != inode:
                async for line, _at in _read(rotated, position):
                    yield line
                position = 0
            inode = current
            async for line, at in _read(path, position):
                position = at
                yield line
            if over:
                return
            async with asyncio.TaskGroup() as group:
                waits = [group.create_task(watch.changed()), group.create_task(_call(end))]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for each in waits:
                    each.cancel()


async def _call(end: Callable[[], Awaitable[None]]) -> None:
    await end()


async def _read(path: Path, position: int) -> AsyncIterator[tuple[bytes, int]]:
    """Whole lines from a position on, each with the position behind it."""
    while True:
        block = await run_blocking(_block, path, position)
        cut = block.rfind(b"\n") + 1
        if not cut:
            return
        for line in block[:cut].splitlines(keepends=True):
            position += len(line)
            yield line, position


def _block(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            block = file.read(_BLOCK)
            if block and b"\n" not in block:
                block += file.readline(_LINE_MAX)
            return block
    except FileNotFoundError:
        return b""


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _end_of(path: Path, tail: list[bytes]) -> tuple[int, int]:
    """Where following goes on after a tail was read: behind its last line."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            inode = os.fstat(file.fileno()).st_ino
            if not tail:
                return size, inode
            start = max(size - sum(map(len, tail)) - _BLOCK, 0)
            file.seek(start)
            block = file.read()
            found = block.rfind(tail[-1])
            return (start + found + len(tail[-1]) if found >= 0 else size), inode
    except FileNotFoundError:
        return 0, 0


def _from_tail(path: Path, lines: int) -> Iterator[bytes]:
    """The last full lines of a log (a line may be of several parts), oldest first."""
    if lines <= 0:
        return
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            data = b""
            while position > 0 and _full(data) <= lines:
                step = min(_BLOCK, position)
                position -= step
                file.seek(position)
                data = file.read(step) + data
    except FileNotFoundError:
        return
    entries = data.splitlines(keepends=True)
    if position > 0:
        entries = entries[1:]
    if entries and not entries[-1].endswith(b"\n"):
        entries = entries[:-1]
    seen, start = 0, len(entries)
    for index in range(len(entries) - 1, -1, -1):
        if _is_full(entries[index]) or index == len(entries) - 1:
            seen += 1
            if seen > lines:
                break
        start = index
    yield from entries[start:]


def _full(data: bytes) -> int:
    return sum(map(_is_full, data.splitlines()))


def _is_full(line: bytes) -> bool:
    return line.split(b" ", 3)[2:3] == [b"F"]


def rotate(path: Path, reopen: Callable[[], None]) -> bool:
    """Set a log that has grown long aside and have its writer begin a new one. Blocking."""
    try:
        if path.stat().st_size < ROTATE_BYTES:
            return False
    except FileNotFoundError:
        return False
    path.replace(path.with_name(path.name + ROTATED))
    reopen()
    return True
