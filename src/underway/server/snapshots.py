"""Snapshots: the whole cluster as it was at one moment, and the way back there.

A snapshot is a directory laid out as a home is: the database, the certificates and keys, the
settings and the kubeconfig. It is written aside and renamed, so that there is a whole one or
none.

Restoring gathers the whole new state in one directory first; renaming that to ``restoring`` is
the moment at which the restore is decided. Before it nothing has changed; after it every step can
be taken again, and ``finish_restore`` at the next start does so. ``kill -9`` in between leaves
the old state or the new one.

The restored cluster goes on counting resourceVersions behind the highest one ever given, so that
no version stands for two states: watches that resume get ``410 Expired`` and list again.

A snapshot lies in a directory of mode 0700, for it holds the keys. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from underway import __version__
from underway.base.clock import Clock, SystemClock, rfc3339
from underway.base.errors import (
    AlreadyExists,
    BadRequest,
    InternalError,
    NotFound,
    UnderwayError,
)
from underway.base.files import fsync_dir, write_atomic
from underway.base.home import Home
from underway.server import store

_ABOUT = "snapshot.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Where nobody can say how far the present cluster had counted, this far ahead is surely past it.
_LEAP = 1_000_000_000


class Snapshot(msgspec.Struct, frozen=True, rename="camel"):
    """One snapshot; ``revision`` is the cluster's resourceVersion in it.

    ``created_at`` is RFC 3339, ``version`` that of the program that wrote it.
    """

    name: str
    created_at: str
    revision: int
    size_bytes: int
    version: str


def save(home: Home, name: str = "", clock: Clock | None = None) -> Snapshot:
    """Save the cluster, running or not, under a name; without one, the present time is the name.

    Raises:
        BadRequest: the name is not one.
        AlreadyExists: there is a snapshot of that name.
        NotFound: there is no cluster yet.
        InternalError: the cluster cannot be read, or the disk not written to.
    """
    now = (clock or SystemClock()).now()
    name = name or now.strftime("%Y%m%d-%H%M%S")
    final = _path(home, name)
    if not home.database.exists():
        raise NotFound(f"there is no cluster in {home.root}", hint="start one: underway up")
    with _locked(home):
        if final.exists():
            raise AlreadyExists(
                f"there is a snapshot {name} already", hint="choose another name, or delete it"
            )
        with _aside(home.snapshots) as aside:
            copied = Home(aside)
            copied.database.parent.mkdir(mode=0o700)
            store.copy(home.database, copied.database)
            _copy_files(home, copied)
            about = Snapshot(
                name,
                rfc3339(now),
                store.revision_of(copied.database),
                _size_bytes(aside),
                __version__,
            )
            write_atomic(aside / _ABOUT, msgspec.json.encode(about), mode=0o600)
            _sync(aside)
            aside.rename(final)
        fsync_dir(home.snapshots)
    return about


def listed(home: Home) -> list[Snapshot]:
    """Every snapshot, oldest first."""
    try:
        paths = [path for path in home.snapshots.iterdir() if _NAME.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    found = []
    for path in paths:
        with contextlib.suppress(UnderwayError):
            found.append(_about(path))
    return sorted(found, key=lambda each: (each.created_at, each.name))


def check(home: Home, name: str) -> Snapshot:
    """A snapshot that is whole and undamaged.

    Raises:
        NotFound: there is none of that name.
        InternalError: it is damaged; the message says where.
    """
    path = _path(home, name)
    if not path.is_dir():
        raise NotFound(
            f"there is no snapshot {name}", hint="`underway snapshot list` shows what there is"
        )
    about, saved = _about(path), Home(path)
    for file in (saved.database, saved.settings_file, saved.pki / "ca.crt", saved.pki / "ca.key"):
        if not file.is_file():
            raise InternalError(f"the snapshot {name} is damaged: {file} is missing")
    saved.load_settings()
    store.revision_of(saved.database)
    return about


def delete(home: Home, name: str) -> None:
    """Remove a snapshot.

    Raises:
        NotFound: there is none of that name.
    """
    path = _path(home, name)
    with _locked(home):
        if not path.is_dir():
            raise NotFound(
                f"there is no snapshot {name}", hint="`underway snapshot list` shows what there is"
            )
        hidden = home.snapshots / f".{secrets.token_hex(4)}"
        path.rename(hidden)
        fsync_dir(home.snapshots)
        shutil.rmtree(hidden)


def restore(home: Home, name: str) -> int:
    """Put a snapshot in the place of the cluster, which must not be running.

    Returns:
        The resourceVersion behind which the restored cluster counts on.

    Raises:
        NotFound: there is no snapshot of that name.
        ServiceUnavailable: the cluster is running.
        InternalError: the snapshot is damaged, or the disk cannot be written to; the cluster is
            as it was, or ``finish_restore`` completes what was decided.
    """
    with _locked(home):
        about = check(home, name)
        with contextlib.closing(store.lock(home.database)), _aside(home.root) as aside:
            saved, staged = Home(_path(home, name)), Home(aside)
            staged.database.parent.mkdir(mode=0o700)
            shutil.copyfile(saved.database, staged.database)
            revision = max(about.revision, _last_revision(home, about)) + 1
            store.raise_revision(staged.database, revision)
            _copy_files(saved, staged)
            _sync(aside)
            aside.rename(_decided(home))
            fsync_dir(home.root)
            _replace(home)
    return revision


def finish_restore(home: Home) -> bool:
    """Complete a restore that was cut short after it was decided; whether there was one.

    Raises:
        ServiceUnavailable: the cluster is running.
        InternalError: the disk cannot be written to.
    """
    if not _decided(home).exists():
        return False
    with _locked(home):  # which finishes it
        return True


def _replace(home: Home) -> None:
    """Move the decided state into place. Every step may find itself done already."""
    new = Home(_decided(home))
    for source, target in (
        (new.settings_file, home.settings_file),
        (new.kubeconfig, home.kubeconfig),
    ):
        if source.exists():
            source.replace(target)
    if new.pki.exists():
        if home.pki.exists():
            shutil.rmtree(home.pki)
        new.pki.rename(home.pki)
    if new.database.exists():
        # The old log must be gone before: SQLite would apply it to the new database.
        for suffix in ("-wal", "-shm", "-journal"):
            home.database.with_name(home.database.name + suffix).unlink(missing_ok=True)
        fsync_dir(home.database.parent)
        new.database.replace(home.database)
        fsync_dir(home.database.parent)
    fsync_dir(home.root)
    shutil.rmtree(new.root)


def _last_revision(home: Home, about: Snapshot) -> int:
    """The highest resourceVersion the present cluster has given."""
    if home.database.exists():
        with contextlib.suppress(InternalError):  # damaged: that may be why somebody restores
            return store.revision_of(home.database)
    return about.revision + _LEAP


def _decided(home: Home) -> Path:
    return home.root / "restoring"


def _path(home: Home, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{name!r} is no name for a snapshot",
            hint="letters, digits, '.', '_' and '-', at most 63, beginning with a letter or digit",
        )
    return home.snapshots / name


def _about(path: Path) -> Snapshot:
    try:
        return msgspec.json.decode((path / _ABOUT).read_bytes(), type=Snapshot)
    except (OSError, msgspec.MsgspecError) as error:
        raise InternalError(f"the snapshot {path.name} is damaged: {error}") from error


@contextlib.contextmanager
def _locked(home: Home) -> Iterator[None]:
    """One at a time; what earlier ones left unfinished is finished or cleared away first.

    Raises:
        InternalError: a file cannot be read or written.
    """
    try:
        home.snapshots.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (home.snapshots / ".lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if _decided(home).exists():
                with contextlib.closing(store.lock(home.database)):
                    _replace(home)
            for leftover in (*home.snapshots.glob(".*"), *home.root.glob(".aside-*")):
                if leftover.is_dir():
                    shutil.rmtree(leftover)
            yield
    except OSError as error:
        raise InternalError(f"{error}", hint="is the disk full?") from error


@contextlib.contextmanager
def _aside(parent: Path) -> Iterator[Path]:
    """A new directory, removed where the block does not end well."""
    path = parent / f".aside-{secrets.token_hex(4)}"
    path.mkdir(mode=0o700)
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _copy_files(source: Home, target: Home) -> None:
    target.pki.mkdir(mode=0o700)
    files = [source.settings_file, source.kubeconfig, *source.pki.iterdir()]
    for file in files:
        if file.is_file():
            mode = file.stat().st_mode & 0o777
            write_atomic(target.root / file.relative_to(source.root), file.read_bytes(), mode=mode)


def _sync(root: Path) -> None:
    """Make a directory of files durable, all of it."""
    for directory, _, files in os.walk(root):
        for name in files:
            with (Path(directory) / name).open("rb") as stream:
                os.fsync(stream.fileno())
        fsync_dir(Path(directory))


def _size_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
