"""A TUF client: trusted metadata on disk, brought up to date and searched for targets.

Source: theupdateframework/specification 1.0.34 section 5. A delegated role is believed only as far
as the delegator through which a search reached it: what one delegator vouched for counts for
nothing when another delegates to a role of the same name.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import quote

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from underway.base.clock import Clock, SystemClock
from underway.base.errors import NotFound, ServiceUnavailable, UnderwayError
from underway.base.files import write_atomic
from underway.capabilities.signing.model import Unverified

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)

_TOP = ("root", "targets")
_ROTATIONS = 256
_DELEGATIONS = 32  # roles looked into for one target
_ROOT_LIMIT = 512_000  # bytes, where no metadata says how long a file is
_TIMESTAMP_LIMIT = 16_384
_SNAPSHOT_LIMIT = 2_000_000
_TARGETS_LIMIT = 5_000_000
_TIMEOUT_S = 30.0


class Fetcher(Protocol):
    """Reads what a URL names."""

    def __call__(self, url: str) -> Iterator[bytes]:
        """The content in pieces.

        Raises:
            NotFound: there is none, or it is kept from us.
            ServiceUnavailable: the other side does not answer.
        """
        ...


class HttpFetcher:
    """Reads over HTTP and HTTPS; ``ca_file`` is trusted instead of the system's authorities."""

    def __init__(self, ca_file: Path | None = None) -> None:
        import ssl

        import httpx

        verify: ssl.SSLContext | bool = True
        if ca_file is not None:
            verify = ssl.create_default_context(cafile=str(ca_file))
        self._http = httpx.Client(verify=verify, timeout=_TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_about: object) -> None:
        self._http.close()

    def __call__(self, url: str) -> Iterator[bytes]:
        """The content in pieces."""
        import httpx

        try:
            with self._http.stream("GET", url) as response:
                if response.status_code in (403, 404):
                    raise NotFound(f"{url}: HTTP {response.status_code}")
                if response.status_code != 200:
                    raise ServiceUnavailable(f"{url}: HTTP {response.status_code}")
                yield from response.iter_bytes(65_536)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceUnavailable(f"{url}: {error}") from error


class TufClient:
    """The trusted metadata of one repository.

    One instance is one update: the moment it looks at for expiry, and the snapshot it settled on,
    stay as they are.

    Args:
        directory: where trusted metadata is kept, ``root.json`` among it.
        url: where the repository's metadata is.
        fetch: how it is read.
        clock: what has expired.
    """

    def __init__(
        self, directory: Path, url: str, fetch: Fetcher, clock: Clock | None = None
    ) -> None:
        self._directory, self._url, self._fetch = directory, url.rstrip("/"), fetch
        self._now = (clock or SystemClock()).now()
        self._root: Root = self._trusted_root()
        self._timestamp: Timestamp | None = None
        self._snapshot: Snapshot | None = None
        # By the way of delegations that led there, "root" first.
        self._targets: dict[tuple[str, ...], Targets] = {}

    @staticmethod
    def init(directory: Path, root: bytes) -> None:
        """Start with a root that came over a channel that is trusted.

        Raises:
            Unverified: it is no root, or not signed by itself.
        """
        loaded = _parse(Root, root, "the trusted root")
        _delegate(loaded.signed, "root", loaded, "the trusted root")
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / "root.json", root)

    def refresh(self) -> None:
        """Bring root, timestamp, snapshot and targets up to date.

        Raises:
            Unverified: the repository's metadata does not hold; what was trusted stays.
            ServiceUnavailable, NotFound: it could not be read.
        """
        self._update_root()
        self._update_timestamp()
        self._update_snapshot()
        self._load_targets(_TOP, self._root)

    def find(self, target_path: str) -> TargetFile | None:
        """What the most trusted role that has it says of a target, or None.

        Source: section 5.6.7, pre-order depth-first search.
        """
        if _TOP not in self._targets:
            self.refresh()
        pending: list[tuple[tuple[str, ...], Root | Targets]] = [(_TOP, self._root)]
        visited: set[str] = set()
        while pending and len(visited) <= _DELEGATIONS:
            way, delegator = pending.pop()
            if way[-1] in visited:
                continue
            targets = self._load_targets(way, delegator)
            if target_path in targets.targets:
                return targets.targets[target_path]
            visited.add(way[-1])
            if targets.delegations is None:
                continue
            children = []
            for child, terminating in targets.delegations.get_roles_for_target(target_path):
                children.append(((*way, child), targets))
                if terminating:
                    pending = []
                    break
            pending += reversed(children)
        return None

    def download(self, target_path: str, target_url: str, directory: Path) -> Path:
        """Get a target that metadata names, unless the very same file is there already.

        Raises:
            NotFound: no role names it.
            Unverified: what was served is not what metadata says.
        """
        target = self.find(target_path)
        if target is None:
            raise NotFound(f"no role of the repository names the target {target_path}")
        path = directory / quote(target_path, "")
        if _is(path, target):
            return path
        name = target_path
        if self._root.consistent_snapshot:
            folder, slash, base = target_path.rpartition("/")
            name = f"{folder}{slash}{next(iter(target.hashes.values()))}.{base}"
        directory.mkdir(parents=True, exist_ok=True)
        aside = directory / f".{secrets.token_hex(8)}"
        try:
            with aside.open("wb") as stream:
                for piece in self._bounded(f"{target_url.rstrip('/')}/{name}", target.length):
                    stream.write(piece)
                stream.flush()
                os.fsync(stream.fileno())
            with aside.open("rb") as stream, _mapped(f"target {target_path}"):
                target.verify_length_and_hashes(stream)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        return path

    def _update_root(self) -> None:
        """Section 5.3: one version after the other, each vouched for by the one before."""
        for version in range(self._root.version + 1, self._root.version + 1 + _ROTATIONS):
            what = f"root version {version}"
            try:
                data = self._read_remote("root", _ROOT_LIMIT, version)
            except NotFound:
                break
            loaded = _parse(Root, data, what)
            _delegate(self._root, "root", loaded, what)
            _delegate(loaded.signed, "root", loaded, what)
            if loaded.signed.version != version:
                raise Unverified(f"{what} says it is version {loaded.signed.version}")
            self._root = loaded.signed
            self._keep("root", data)
        self._check_expiry(self._root, "root")

    def _update_timestamp(self) -> None:
        """Section 5.4."""
        with contextlib.suppress(OSError, Unverified):
            self._timestamp = self._verified(Timestamp, self._read_local("timestamp"), "timestamp")
        data = self._read_remote("timestamp", _TIMESTAMP_LIMIT)
        new, old = self._verified(Timestamp, data, "timestamp"), self._timestamp
        if old is None or new.version > old.version:
            if old and new.snapshot_meta.version < old.snapshot_meta.version:
                raise Unverified(
                    f"timestamp {new.version} rolls the snapshot back from version"
                    f" {old.snapshot_meta.version} to {new.snapshot_meta.version}"
                )
            self._timestamp = new
            self._check_expiry(new, "timestamp")
            self._keep("timestamp", data)
        elif new.version < old.version:
            raise Unverified(f"timestamp rolled back from version {old.version} to {new.version}")
        else:
            self._check_expiry(old, "timestamp")

    def _update_snapshot(self) -> None:
        """Section 5.5."""
        assert self._timestamp is not None
        wanted = self._timestamp.snapshot_meta
        with contextlib.suppress(OSError, Unverified):
            # Verified once when it was kept; an older one still guards against a rollback.
            self._snapshot = self._verified(Snapshot, self._read_local("snapshot"), "snapshot")
        kept = self._snapshot
        if kept and kept.version == wanted.version and not kept.is_expired(self._now):
            return
        version = wanted.version if self._root.consistent_snapshot else None
        data = self._read_remote("snapshot", wanted.length or _SNAPSHOT_LIMIT, version)
        with _mapped("snapshot"):
            wanted.verify_length_and_hashes(data)
        new = self._verified(Snapshot, data, "snapshot")
        for name, known in (kept.meta if kept else {}).items():
            if name not in new.meta:
                raise Unverified(f"snapshot {new.version} leaves out {name}")
            if new.meta[name].version < known.version:
                raise Unverified(
                    f"snapshot {new.version} rolls {name} back from version {known.version}"
                    f" to {new.meta[name].version}"
                )
        if new.version != wanted.version:
            raise Unverified(f"the snapshot is version {new.version}, not {wanted.version}")
        self._check_expiry(new, "snapshot")
        self._snapshot = new
        self._keep("snapshot", data)

    def _load_targets(self, way: tuple[str, ...], delegator: Root | Targets) -> Targets:
        """Section 5.6, for a role as this delegator delegates to it."""
        if way in self._targets:
            return self._targets[way]
        assert self._snapshot is not None
        role = way[-1]
        described = self._snapshot.meta.get(f"{role}.json")
        if described is None:
            raise Unverified(f"the snapshot says nothing of {role}")
        with contextlib.suppress(OSError, Unverified):
            found = self._checked(self._read_local(role), role, described, delegator)
            return self._targets.setdefault(way, found)
        version = described.version if self._root.consistent_snapshot else None
        data = self._read_remote(role, described.length or _TARGETS_LIMIT, version)
        found = self._targets[way] = self._checked(data, role, described, delegator)
        self._keep(role, data)
        return found

    def _checked(
        self, data: bytes, role: str, described: MetaFile, delegator: Root | Targets
    ) -> Targets:
        with _mapped(role):
            described.verify_length_and_hashes(data)
        loaded = _parse(Targets, data, role)
        _delegate(delegator, role, loaded, role)
        if loaded.signed.version != described.version:
            raise Unverified(f"{role} is version {loaded.signed.version}, not {described.version}")
        self._check_expiry(loaded.signed, role)
        return loaded.signed

    def _verified(self, kind: type[T], data: bytes, role: str) -> T:
        loaded = _parse(kind, data, role)
        _delegate(self._root, role, loaded, role)
        return loaded.signed

    def _check_expiry(self, signed: Any, what: str) -> None:
        if signed.is_expired(self._now):
            raise Unverified(f"{what} expired at {signed.expires.isoformat()}")

    def _trusted_root(self) -> Root:
        try:
            data = self._read_local("root")
        except OSError as error:
            raise NotFound(
                f"{self._directory} has no trusted root.json", hint="start with a trusted root"
            ) from error
        loaded = _parse(Root, data, "the trusted root")
        _delegate(loaded.signed, "root", loaded, "the trusted root")
        return loaded.signed

    def _read_remote(self, role: str, limit_bytes: int, version: int | None = None) -> bytes:
        prefix = "" if version is None else f"{version}."
        return b"".join(self._bounded(f"{self._url}/{prefix}{quote(role, '')}.json", limit_bytes))

    def _bounded(self, url: str, limit_bytes: int) -> Iterator[bytes]:
        size = 0
        for piece in self._fetch(url):
            size += len(piece)
            if size > limit_bytes:
                raise Unverified(f"{url} is longer than {limit_bytes} bytes")
            yield piece

    def _read_local(self, role: str) -> bytes:
        return (self._directory / f"{quote(role, '')}.json").read_bytes()

    def _keep(self, role: str, data: bytes) -> None:
        write_atomic(self._directory / f"{quote(role, '')}.json", data)


@contextlib.contextmanager
def _mapped(what: str) -> Iterator[None]:
    try:
        yield
    except (RepositoryError, DeserializationError, ValueError, TypeError, KeyError) as error:
        raise Unverified(f"{what}: {error}") from error


def _parse(kind: type[T], data: bytes, what: str) -> Metadata[T]:
    with _mapped(what):
        loaded: Metadata[T] = Metadata.from_bytes(data)
    if not isinstance(loaded.signed, kind):
        raise Unverified(f"{what} is of type {loaded.signed.type}")
    return loaded


def _delegate(delegator: Root | Targets, role: str, loaded: Metadata[Any], what: str) -> None:
    with _mapped(what):
        delegator.verify_delegate(role, loaded.signed_bytes, loaded.signatures)


def _is(path: Path, target: TargetFile) -> bool:
    try:
        with path.open("rb") as stream, _mapped(path.name):
            target.verify_length_and_hashes(stream)
    except (OSError, UnderwayError):
        return False
    return True
