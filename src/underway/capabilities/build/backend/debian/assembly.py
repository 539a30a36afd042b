"""From a declaration and its lock to a layer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from underway.base.errors import BadRequest
from underway.capabilities.build.backend import machine
from underway.capabilities.build.backend.debian import archives, package, synthesis
from underway.capabilities.build.backend.debian.accounts import Accounts
from underway.capabilities.build.backend.debian.archives import Apt, Archive, Packages
from underway.capabilities.build.backend.debian.unpacking import Tree, record
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.model import DEFAULT_PATH, Image, Layer
from underway.capabilities.build.rules.debian import (
    LOCK_KIND,
    LOCK_VERSION,
    Lock,
    LockedLayer,
    LockedPackage,
)
from underway.capabilities.build.rules.declaration import Declaration, PathEntry, Spec
from underway.capabilities.build.rules.keys import framed
from underway.kit.ports import Progress
from underway.linux.layers import Mtimes
from underway.linux.mounts import unmount, with_own_mounts

FORMAT = "1"
"""Counts up when the same lock gives other bytes than before."""

SLACK_S = 2.0


def lock(
    chain: Sequence[Declaration], sources: Sequence[Archive], scratch: Path, tell: Progress, *,
    below: Lock | None = None, settings: str | None = None,
) -> Lock:  # fmt: skip
    """Choose the versions of all packages, for declarations given from the lowest up.

    With ``below``, the lock of all but the last, those stay as they are. ``settings`` are lines of
    apt's configuration instead of the machine's.

    Raises:
        NotFound: a package does not exist; names file and line.
        BadRequest: the packages cannot be installed together, or not for this machine.
        ServiceUnavailable: the archives cannot be read, or are not signed as they must be.
    """
    architecture = machine.architecture()
    apt = Apt(scratch / "apt", sources, settings)
    layers, fixed = list(below.layers if below else ()), below.packages() if below else []
    releases, epoch_s = (below.releases, below.epoch) if below else ([], 0)
    for each in chain[len(layers) :]:
        if each.spec.architectures and architecture not in each.spec.architectures:
            raise BadRequest(f"{each.title} is not for {architecture}")
        wanted = {name: each.where.get(name, each.title) for name in each.spec.packages}
        added: list[LockedPackage] = []
        if wanted:
            solved = apt.solve(wanted, fixed, architecture, tell)
            added, releases = solved.packages, solved.releases
            epoch_s = max(epoch_s, solved.epoch_s)
            fixed = [*fixed, *added]
        layers.append(LockedLayer(each.title, added))
    return Lock(
        LOCK_VERSION, LOCK_KIND, architecture, epoch_s, releases, layers, chain_digest(chain)
    )


def chain_digest(chain: Sequence[Declaration]) -> str:
    """What identifies declarations: a lock made for others does not fit."""
    return f"sha256:{framed(*[each.content() for each in chain])}"


def check(lock_: Lock, chain: Sequence[Declaration], file: str) -> None:
    """Whether a lock belongs to declarations and this machine.

    Raises:
        BadRequest: it does not.
    """
    if lock_.architecture != machine.architecture():
        raise BadRequest(
            f"{file} is for {lock_.architecture}, this machine is {machine.architecture()}"
        )
    if lock_.declarationDigest != chain_digest(chain):
        raise BadRequest(
            f"{file} was made for another state of {chain[-1].title}",
            hint="lock it anew: underway base lock",
        )


@dataclass(frozen=True)
class Stock:
    """What assembling takes from: the archives, and the packages fetched from them so far."""

    sources: Sequence[Archive]
    packages: Packages


def assemble(
    declaration: Declaration, at: int, locked: Lock, below: Image, stock: Stock, shelf: Shelf,
    started_s: float, tell: Progress, *, cached: bool = True,
) -> Image:  # fmt: skip
    """The image below with the layer that one declaration, the lock's ``at``-th, adds.

    Its ``steps`` are not run.

    Raises:
        ServiceUnavailable: a package cannot be had, or is not what was locked.
        BadRequest: a package is broken or leads out of the tree; an entry cannot be made.
    """
    added = locked.layers[at].packages
    image = below.copy() if below.layers else Image(config={"Env": [f"PATH={DEFAULT_PATH}"]})
    configure(image.config, declaration.spec)
    if not added and not _changes_files(declaration.spec):
        return image
    stock.packages.fetch(added, stock.sources, tell)
    text = sources_text(stock.sources)
    key = framed("base", FORMAT, declaration.content(), msgspec.json.encode(added),
                 str(locked.epoch), locked.architecture, text, image.diff_ids)  # fmt: skip
    known, layer = shelf.recall(key) if cached else (False, None)
    if not known or layer is None:
        tell(f"assembling {declaration.title} from {len(added)} packages")
        layer = with_own_mounts(
            lambda: _layer(declaration, added, locked, stock, below, shelf, started_s)
        )
        shelf.remember(key, layer)
    image.layers.append(layer)
    image.history.append({"created_by": f"Debian packages of {declaration.title}"})
    return image


def _changes_files(spec: Spec) -> bool:
    return bool(spec.users or spec.groups or spec.paths)


def configure(config: dict[str, Any], spec: Spec) -> None:
    """Add to an image's configuration what a declaration says of it."""
    environment = dict(entry.partition("=")[::2] for entry in config["Env"]) | spec.environment
    config["Env"] = [f"{name}={value}" for name, value in environment.items()]
    if spec.entrypoint:
        config.pop("Cmd", None)  # as with Dockerfiles: it was for another entry point
    told = {
        "Entrypoint": spec.entrypoint, "Cmd": spec.cmd, "WorkingDir": spec.workdir,
        "User": spec.user, "StopSignal": spec.stopSignal,
    }  # fmt: skip
    config.update({key: value for key, value in told.items() if value})
    for key, names in (("ExposedPorts", map(_port, spec.ports)), ("Volumes", spec.volumes)):
        found: dict[str, dict[str, str]] = {name: {} for name in names}
        if found:
            config[key] = {**config.get(key, {}), **found}
    if spec.labels:
        config["Labels"] = {**config.get("Labels", {}), **spec.labels}


def _port(port: str | int) -> str:
    return str(port) if "/" in str(port) else f"{port}/tcp"


def sources_text(sources: Sequence[Archive]) -> str:
    """The archives as deb822 for the image's own apt."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for each in sources:
        grouped.setdefault((each.uri, each.components, each.keyring), []).append(each.suite)
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {' '.join(suites)}\nComponents: {components}\n"
        f"Signed-By: {keyring}\n"
        for (uri, components, keyring), suites in grouped.items()
    )


def _layer(
    declaration: Declaration, added: list[LockedPackage], locked: Lock, stock: Stock,
    below: Image, shelf: Shelf, started_s: float,
) -> Layer:  # fmt: skip
    with shelf.layers.scratch() as scratch:
        root = scratch.upper
        if below.layers:
            root = scratch.root / "merged"
            root.mkdir()
            shelf.layers.mount(below.diff_ids, root, scratch.upper, scratch.work, volatile=True)
        try:
            _fill(root, declaration, added, locked, stock)
        except OSError as error:
            raise BadRequest(f"{declaration.title} cannot be assembled: {error}") from error
        finally:
            if below.layers:
                unmount(root)
        mtimes = Mtimes(locked.epoch, started_s - SLACK_S)
        made = shelf.layers.commit(scratch.upper, shelf.blobs, mtimes)
    return Layer(made.diff_id, made.digest, made.size_bytes, made.media_type)


def _fill(
    root: Path, declaration: Declaration, added: list[LockedPackage], locked: Lock, stock: Stock
) -> None:
    spec = declaration.spec
    tree = Tree(root, spec.exclude, spec.keep)
    tree.unpack(
        package.read(
            archives.verified(stock.packages.path(each), each), f"{each.name} {each.version}"
        )
        for each in added
    )
    # Its data, not a program of that name: BusyBox has one too.
    has_dpkg = tree.resolved("usr/share/dpkg/cputable") is not None
    if tree.packages:
        record(tree, full=has_dpkg)
    accounts = Accounts(tree, locked.epoch, has_dpkg=has_dpkg)
    options = [f"path-exclude={each}\n" for each in spec.exclude]
    options += [f"path-include={each}\n" for each in spec.keep]
    text = sources_text(stock.sources)
    made = synthesis.Made(tree, accounts, locked.architecture, text, "".join(options))
    synthesis.synthesise(made)
    accounts.declare(spec.users, spec.groups)
    accounts.write()
    for entry in spec.paths:
        try:
            place(tree, entry, accounts)
        except BadRequest as error:
            raise BadRequest(f"{declaration.title}: {entry.path}: {error.message}") from error


def place(tree: Tree, entry: PathEntry, accounts: Accounts) -> None:
    """Make what a declaration says stands at a path.

    Raises:
        BadRequest: its owner is unknown, or something else is in the way.
    """
    uid, gid = accounts.owner(entry.owner) if entry.owner else (0, 0)
    full = Path(tree.full(entry.path))
    if entry.type == "absent":
        for found in sorted(full.parent.glob(full.name)) if full.parent.is_dir() else ():
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
                tree.forget(str(found.relative_to(tree.root)))
            else:
                found.unlink()
        return
    if entry.type == "symlink":
        tree.link(entry.path, entry.target)
        return
    if entry.type == "file":
        tree.write(entry.path, entry.content, 0o644 if entry.mode is None else entry.mode, uid, gid)
        return
    if entry.type == "directory":
        full = Path(tree.directory(entry.path, 0o755))
    elif not os.path.lexists(full):
        raise BadRequest("nothing is there")
    for each in [full, *(sorted(full.rglob("*")) if entry.recursive else ())]:
        if entry.owner:
            status = each.lstat()
            os.chown(each, uid, gid, follow_symlinks=False)
            if not each.is_symlink():
                each.chmod(status.st_mode & 0o7777)  # chown took the set-user-id bit away
        if entry.mode is not None and not each.is_symlink():
            each.chmod(entry.mode)
