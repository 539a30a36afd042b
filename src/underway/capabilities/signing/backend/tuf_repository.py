"""A TUF repository of the platform: staged changes, publishing, rotation, signing anew in time.

Changes are staged as unsigned metadata and become visible in one step, when ``timestamp.json`` is
replaced; a crash before leaves files that nothing refers to. Everything is blocking.

Source: theupdateframework/specification 1.0.34 sections 3, 4, 6; TAP 15 for hash bins.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, cast

from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from underway.base.clock import Clock, SystemClock
from underway.base.errors import AlreadyExists, BadRequest, NotFound
from underway.base.files import fsync_dir, write_atomic
from underway.base.home import Home
from underway.capabilities.signing.backend.keystore import FileKeys, passphrase_from_environment

TOP_ROLES = ("root", "targets", "snapshot", "timestamp")
LIFE_DAYS = {"root": 365, "targets": 90, "snapshot": 7, "timestamp": 1}
_DELEGATED_LIFE_DAYS = 90
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_ROLE = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_BINS_LIMIT = 16_384


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """One role as it is published; ``missing`` keys are those whose private half is not here."""

    name: str
    version: int
    expires: datetime
    threshold: int
    keys: int
    missing: int
    targets: int
    staged: bool


def repositories(home: Home) -> list[str]:
    """The names of the repositories there are."""
    return sorted(
        path.parent.parent.name for path in (home.signing / "tuf").glob("*/metadata/1.root.json")
    )


class TufRepository:
    """One repository.

    Args:
        home: where it lies, below ``signing/tuf``.
        name: its name.
        clock: when metadata is made.
    """

    def __init__(self, home: Home, name: str = "main", clock: Clock | None = None) -> None:
        if not _NAME.fullmatch(name):
            raise BadRequest(f"{name!r} is no name for a repository", hint="a-z, 0-9, - . _")
        self.name, self._clock = name, clock or SystemClock()
        self.directory = home.signing / "tuf" / name
        self.metadata, self.targets = self.directory / "metadata", self.directory / "targets"
        self._staged = self.directory / "staged"
        self._keys = FileKeys(self.directory / "keys", passphrase_from_environment())

    def init(
        self, keys: dict[str, int] | None = None, thresholds: dict[str, int] | None = None
    ) -> None:
        """Make the repository, with a key for each role or as many as told.

        Raises:
            AlreadyExists: it is there.
            BadRequest: a threshold is more than its role has keys.
        """
        keys, thresholds = keys or {}, thresholds or {}
        for role in (*keys, *thresholds):
            if role not in TOP_ROLES:
                raise BadRequest(f"{role!r} is no top-level role", hint=", ".join(TOP_ROLES))
        for role in TOP_ROLES:
            _check_threshold(role, thresholds.get(role, 1), keys.get(role, 1))
        with self._locked(make=True):
            if (self.metadata / "1.root.json").exists():
                raise AlreadyExists(f"the TUF repository {self.name} is there already")
            root = Root(consistent_snapshot=True)
            for role in TOP_ROLES:
                for _ in range(keys.get(role, 1)):
                    root.add_key(self._new_key(role), role)
                root.roles[role].threshold = thresholds.get(role, 1)
            self._stage("root", root)
            self._stage("targets", Targets())
            self._publish()

    def add(self, target_path: str, file: Path, role: str = "") -> str:
        """Stage a file as a target; gives the role that vouches for it.

        Raises:
            BadRequest: the path is none, or the role may not vouch for it.
            NotFound: there is no such role.
        """
        check_path(target_path)
        with self._locked():
            role = role or self._bin_of(target_path) or "targets"
            targets = self._targets_of(role)
            if not self._may(role, target_path):
                raise BadRequest(f"no delegation lets {role} vouch for {target_path}")
            described = TargetFile.from_file(target_path, str(file))
            folder, slash, base = target_path.rpartition("/")
            (digest,) = described.hashes.values()
            for kept in (f"{folder}{slash}{digest}.{base}", target_path):
                self._copy(file, self.targets / kept)
            targets.targets[target_path] = described
            self._stage(role, targets)
            return role

    def remove(self, target_path: str, role: str = "") -> str:
        """Stage that no role vouches for a target any more; gives the role that did.

        Raises:
            NotFound: none does.
        """
        with self._locked():
            for name in [role] if role else self._target_roles():
                targets = self._targets_of(name)
                if target_path in targets.targets:
                    del targets.targets[target_path]
                    self._stage(name, targets)
                    return name
        raise NotFound(f"no role of {self.name} has the target {target_path}")

    def delegate(
        self,
        role: str,
        paths: Iterable[str],
        *,
        parent: str = "targets",
        keys: int = 1,
        threshold: int = 1,
        terminating: bool = False,
    ) -> None:
        """Stage that a new role vouches for paths like these.

        Raises:
            AlreadyExists: there is a role of that name.
            BadRequest: names or numbers are not fit.
        """
        wanted = list(paths)
        if not _ROLE.fullmatch(role) or role in TOP_ROLES:
            raise BadRequest(f"{role!r} is no name for a delegated role")
        if not wanted:
            raise BadRequest(f"{role} must be given paths", hint="--path 'releases/*'")
        _check_threshold(role, threshold, keys)
        with self._locked():
            if role in self._target_roles():
                raise AlreadyExists(f"{self.name} has a role {role} already")
            owner = self._targets_of(parent)
            if owner.delegations is None:
                owner.delegations = Delegations({}, {})
            if owner.delegations.roles is None:
                raise BadRequest(f"{parent} delegates to hash bins, and so to nothing else")
            owner.delegations.roles[role] = DelegatedRole(role, [], threshold, terminating, wanted)
            for _ in range(keys):
                owner.add_key(self._new_key(role), role)
            self._stage(parent, owner)
            self._stage(role, Targets())

    def delegate_bins(self, count: int, prefix: str = "bin", parent: str = "targets") -> None:
        """Stage that a role's targets are spread over hash bins that share one key.

        Raises:
            BadRequest: the count is no power of two, or the parent delegates already.
        """
        if not 2 <= count <= _BINS_LIMIT or count & (count - 1):
            raise BadRequest(f"{count} is no number of bins", hint="a power of two, 2 to 16384")
        if not _ROLE.fullmatch(prefix):
            raise BadRequest(f"{prefix!r} is no prefix for roles")
        with self._locked():
            owner = self._targets_of(parent)
            if owner.delegations is not None:
                raise BadRequest(f"{parent} delegates already")
            bins = SuccinctRoles([], 1, int(math.log2(count)), prefix)
            owner.delegations = Delegations({}, None, bins)
            owner.add_key(self._new_key(prefix))
            self._stage(parent, owner)
            for role in bins.get_roles():
                self._stage(role, Targets())

    def undelegate(self, role: str) -> None:
        """Stage that a delegated role counts no more.

        Raises:
            NotFound: nobody delegates to it.
        """
        with self._locked():
            for name in self._target_roles():
                owner = self._targets_of(name)
                if owner.delegations and role in (owner.delegations.roles or {}):
                    del owner.delegations.roles[role]  # type: ignore[arg-type]
                    self._stage(name, owner)
                    (self._staged / f"{role}.json").unlink(missing_ok=True)
                    return
        raise NotFound(f"no role of {self.name} delegates to {role}")

    def rotate(self, role: str) -> None:
        """Give a role new keys in place of its old ones, and publish.

        Raises:
            NotFound: there is no such role.
        """
        with self._locked():
            if role in TOP_ROLES:
                root = self._current("root")
                old = list(root.roles[role].keyids)
                for _ in old:
                    root.add_key(self._new_key(role), role)
                for key_id in old:
                    root.revoke_key(key_id, role)
                self._stage("root", root)
                if role == "targets":
                    self._stage(role, self._targets_of(role))
            else:
                self._rotate_delegated(role)
            self._publish(anew=role in TOP_ROLES)

    def publish(self) -> list[str]:
        """Make what is staged visible; gives the roles that changed."""
        with self._locked():
            return self._publish()

    def renew(self) -> bool:
        """Sign snapshot and timestamp anew once half of their life is over.

        What a role of targets or root itself says is its owner's to renew: its end is shown in
        ``status``. Gives whether anything was signed.
        """
        with self._locked():
            if not self._due():
                return False
            self._write_snapshot({}, anew=self._half_over(self._published("snapshot")))
            return True

    def _due(self) -> bool:
        roles = ("timestamp", "snapshot")
        return any(self._half_over(self._published(role)) for role in roles)

    def status(self) -> list[RoleStatus]:
        """Every role."""
        with self._locked():
            root = self._current("root")
            found = []
            for name in (*TOP_ROLES, *(r for r in self._target_roles() if r != "targets")):
                known = name == "root" or self._version(name) > 0
                signed = self._published(name) if known else self._current(name)
                role = self._role(root, name)
                count = len(signed.targets) if isinstance(signed, Targets) else 0
                missing = sum(key_id not in self._keys.names() for key_id in role.keyids)
                staged = (self._staged / f"{name}.json").exists()
                found.append(
                    RoleStatus(
                        name,
                        signed.version if known else 0,
                        signed.expires,
                        role.threshold,
                        len(role.keyids),
                        missing,
                        count,
                        staged,
                    )
                )
            return found

    def root(self) -> bytes:
        """The first root: what clients start with."""
        path = self.metadata / "1.root.json"
        if not path.exists():
            raise NotFound(
                f"there is no TUF repository {self.name}", hint=f"underway tuf init {self.name}"
            )
        return path.read_bytes()

    def _publish(self, *, anew: bool = False) -> list[str]:
        staged = sorted(path.stem for path in self._staged.glob("*.json"))
        if not staged and not anew:
            return []
        if "root" in staged:
            self._write_root(self._read_staged("root"))
            staged.remove("root")
        changed: dict[str, MetaFile] = {}
        for role in staged:
            targets = self._read_staged(role)
            version = self._version(role) + 1
            data = self._signed(role, targets, version)
            write_atomic(self.metadata / f"{version}.{role}.json", data)
            changed[f"{role}.json"] = MetaFile(version)
        self._write_snapshot(changed, anew=True)
        for path in self._staged.glob("*.json"):
            path.unlink()
        return staged

    def _write_root(self, root: Root) -> None:
        """Sign a root with the keys it names and those of the version before."""
        before = self._published("root") if self._root_version() else None
        root.version = self._root_version() + 1
        root.expires = self._end("root")
        loaded = Metadata(root)
        signing = dict.fromkeys(root.roles["root"].keyids)
        signing.update(dict.fromkeys(before.roles["root"].keyids if before else ()))
        held = {**(before.keys if before else {}), **root.keys}
        self._sign(loaded, "root", list(signing), held)
        for judge in (root, before):
            if judge is not None:
                judge.verify_delegate("root", loaded.signed_bytes, loaded.signatures)
        write_atomic(self.metadata / f"{root.version}.root.json", _bytes(loaded))

    def _write_snapshot(self, changed: dict[str, MetaFile], *, anew: bool) -> None:
        """Write a snapshot, where it changes, and the timestamp that makes it count."""
        first = not (self.metadata / "timestamp.json").exists()
        timestamp = Timestamp() if first else cast("Timestamp", self._published("timestamp"))
        if anew or first:
            snapshot = Snapshot() if first else cast("Snapshot", self._published("snapshot"))
            snapshot.meta = {**snapshot.meta, **changed}
            version = 1 if first else snapshot.version + 1
            data = self._signed("snapshot", snapshot, version)
            write_atomic(self.metadata / f"{version}.snapshot.json", data)
            timestamp.snapshot_meta = MetaFile(version)
        data = self._signed("timestamp", timestamp, 1 if first else timestamp.version + 1)
        write_atomic(self.metadata / "timestamp.json", data)

    def _signed(self, role: str, signed: Any, version: int) -> bytes:
        signed.version, signed.expires = version, self._end(role)
        loaded: Metadata[Any] = Metadata(signed)
        root = cast("Root", self._published("root"))
        owner = root if role in TOP_ROLES else self._owner(role)
        assert owner is not None
        self._sign(loaded, role, self._role(root, role).keyids, _keys_of(owner))
        owner.verify_delegate(role, loaded.signed_bytes, loaded.signatures)
        return _bytes(loaded)

    def _sign(
        self, loaded: Metadata[Any], role: str, key_ids: list[str], held: dict[str, Any]
    ) -> None:
        mine = [key_id for key_id in key_ids if key_id in self._keys.names()]
        for key_id in mine:
            signer = CryptoSigner(self._keys.private(key_id), held[key_id])
            loaded.sign(signer, append=True)
        if not mine:
            raise NotFound(f"no key of {role} is here", hint="publish where its keys are")

    def _rotate_delegated(self, role: str) -> None:
        for name in self._target_roles():
            owner = self._targets_of(name)
            if owner.delegations is None:
                continue
            bins = owner.delegations.succinct_roles
            if bins is not None and role == bins.name_prefix:
                for old in list(bins.keyids):
                    owner.add_key(self._new_key(role))
                    owner.revoke_key(old)
                signing = list(bins.get_roles())
            elif role in (owner.delegations.roles or {}):
                known = owner.delegations.roles[role]  # type: ignore[index]
                for old in list(known.keyids):
                    owner.add_key(self._new_key(role), role)
                    owner.revoke_key(old, role)
                signing = [role]
            else:
                continue
            self._stage(name, owner)
            for each in signing:
                self._stage(each, self._targets_of(each))
            return
        raise NotFound(f"{self.name} has no role {role}")

    def _role(self, root: Root, name: str) -> Any:
        if name in TOP_ROLES:
            return root.roles[name]
        owner = self._owner(name)
        assert owner is not None
        delegations = owner.delegations
        assert delegations is not None
        return (delegations.roles or {}).get(name) or delegations.succinct_roles

    def _owner(self, role: str) -> Targets | None:
        """Who delegates to a role."""
        for name in self._target_roles():
            targets = self._targets_of(name)
            if targets.delegations is None:
                continue
            bins = targets.delegations.succinct_roles
            if role in (targets.delegations.roles or {}) or (bins and bins.is_delegated_role(role)):
                return targets
        return None

    def _may(self, role: str, target_path: str) -> bool:
        if role == "targets":
            return True
        owner = self._owner(role)
        assert owner is not None
        assert owner.delegations is not None
        allowed = owner.delegations.get_roles_for_target(target_path)
        return role in [name for name, _ in allowed]

    def _bin_of(self, target_path: str) -> str:
        delegations = self._targets_of("targets").delegations
        if delegations and delegations.succinct_roles:
            return delegations.succinct_roles.get_role_for_target(target_path)
        return ""

    def _target_roles(self) -> list[str]:
        """Top-level targets and every role delegated to, parents first."""
        found, pending = [], ["targets"]
        while pending:
            name = pending.pop(0)
            if name in found:
                continue
            found.append(name)
            delegations = self._targets_of(name).delegations
            if delegations is None:
                continue
            pending += list(delegations.roles or ())
            if delegations.succinct_roles:
                # Bins delegate no further: they need not be opened.
                found += delegations.succinct_roles.get_roles()
        return found

    def _targets_of(self, role: str) -> Targets:
        return cast("Targets", self._current(role))

    def _current(self, role: str) -> Any:
        """What is staged of a role, else what is published."""
        if (self._staged / f"{role}.json").exists():
            return self._read_staged(role)
        return deepcopy(self._published(role))

    def _published(self, role: str) -> Any:
        name = {"timestamp": "timestamp.json"}.get(role)
        if name is None:
            version = self._root_version() if role == "root" else self._version(role)
            if not version:
                raise NotFound(f"{self.name} has no role {role}")
            name = f"{version}.{role}.json"
        return Metadata.from_bytes((self.metadata / name).read_bytes()).signed

    def _version(self, role: str) -> int:
        if not (self.metadata / "timestamp.json").exists():
            return 0
        timestamp = Metadata.from_bytes((self.metadata / "timestamp.json").read_bytes()).signed
        if role == "timestamp":
            return int(timestamp.version)
        version = int(timestamp.snapshot_meta.version)
        if role == "snapshot":
            return version
        path = self.metadata / f"{version}.snapshot.json"
        meta = Metadata.from_bytes(path.read_bytes()).signed.meta.get(f"{role}.json")
        return 0 if meta is None else int(meta.version)

    def _root_version(self) -> int:
        version = 0
        while (self.metadata / f"{version + 1}.root.json").exists():
            version += 1
        return version

    def _read_staged(self, role: str) -> Any:
        return Metadata.from_bytes((self._staged / f"{role}.json").read_bytes()).signed

    def _stage(self, role: str, signed: Any) -> None:
        write_atomic(self._staged / f"{role}.json", _bytes(Metadata(signed)), durable=False)

    def _new_key(self, role: str) -> SSlibKey:
        """A new key, kept under the id that metadata gives it."""
        from underway.capabilities.signing.rules import keys

        made = keys.generate()
        key = SSlibKey.from_crypto(made.public_key())
        key.unrecognized_fields["x-underway-role"] = role
        self._keys.add(key.keyid, made)
        return key

    def _half_over(self, signed: Any) -> bool:
        life = timedelta(days=LIFE_DAYS[signed.type])
        return bool(signed.expires - self._clock.now() <= life / 2)

    def _end(self, role: str) -> datetime:
        days = LIFE_DAYS.get(role, _DELEGATED_LIFE_DAYS)
        return self._clock.now().replace(microsecond=0) + timedelta(days=days)

    def _copy(self, source: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.part")
        shutil.copyfile(source, aside)
        descriptor = os.open(aside, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        aside.replace(path)
        fsync_dir(path.parent)

    @contextlib.contextmanager
    def _locked(self, *, make: bool = False) -> Iterator[None]:
        if make:
            for each in (self.metadata, self.targets, self._staged):
                each.mkdir(parents=True, exist_ok=True)
        elif not (self.metadata / "1.root.json").exists():
            self.root()
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def check_path(target_path: str) -> None:
    """Refuse what is no path within a repository.

    Raises:
        BadRequest: it is absolute, goes up, or has characters that URLs and files do not share.
    """
    parts = PurePosixPath(target_path).parts
    bad = not parts or target_path.startswith("/") or target_path.endswith("/")
    if bad or any(part in ("..", ".") for part in target_path.split("/")) or "//" in target_path:
        raise BadRequest(f"{target_path!r} is no target path", hint="like releases/app-1.0.tar.gz")
    if any(ord(char) < 0x20 or char in "\\?#%" for char in target_path) or len(target_path) > 1024:
        raise BadRequest(f"{target_path!r} has characters that a target path must not have")


def _check_threshold(role: str, threshold: int, count: int) -> None:
    if not 1 <= threshold <= count:
        raise BadRequest(f"{role}: a threshold of {threshold} with {count} keys cannot be met")


def _keys_of(owner: Root | Targets) -> dict[str, Any]:
    if isinstance(owner, Root):
        return dict(owner.keys)
    assert owner.delegations is not None
    return dict(owner.delegations.keys)


def _bytes(loaded: Metadata[Any]) -> bytes:
    return bytes(loaded.to_bytes(JSONSerializer(compact=True)))
