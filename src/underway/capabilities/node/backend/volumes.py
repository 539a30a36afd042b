"""A pod's volumes on this machine. All calls block."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from underway.api import quantity
from underway.api.objects import Object, uid_of
from underway.base.errors import BadRequest, InternalError, NotFound
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.rules.environment import expand
from underway.capabilities.node.rules.oci_spec import Mount
from underway.capabilities.node.rules.payload import Files, claim_name, safe_path
from underway.linux import mounts

DATA = "..data"
_SECRET_BYTES_MAX = 64 * 1024 * 1024
_PROPAGATION = {"None": "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}


class Volumes:
    """Makes volumes and says where they lie."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def prepare(
        self, pod: Object, files: Mapping[str, Files], claims: Mapping[str, Object]
    ) -> dict[str, Path]:
        """Make what is missing; gives the host path of each volume by name.

        Args:
            files: the contents of the volumes that come from objects, by volume name.
            claims: the PersistentVolume bound to each claim the pod uses, by claim name.

        Raises:
            BadRequest: a kind of volume that this node does not have, or a path of a wrong type.
            NotFound: a path that must exist does not.
        """
        uid, spec = uid_of(pod), pod.get("spec") or {}
        group = (spec.get("securityContext") or {}).get("fsGroup")
        mounted = set(mounts.mounts_below(self._layout.pod(uid)))
        result: dict[str, Path] = {}
        for volume in spec.get("volumes") or ():
            name = volume["name"]
            path = self._layout.volume(uid, name)
            if name in files:
                private = "secret" in volume or "projected" in volume
                result[name] = self._objects(path, files[name], group, mounted, private=private)
            elif (source := volume.get("emptyDir")) is not None:
                result[name] = self._empty(path, source, group, mounted)
            elif source := volume.get("hostPath"):
                result[name] = host_path(source)
            elif claim := claim_name(pod, volume):
                result[name] = _claimed(claim, claims)
                if group is not None and _settable(volume, claims[claim]):
                    policy = (spec.get("securityContext") or {}).get("fsGroupChangePolicy")
                    give_to_group(result[name], int(group), whole=policy != "OnRootMismatch")
            else:
                kinds = sorted(set(volume) - {"name"})
                raise BadRequest(f"volume {name}: {', '.join(kinds)} is not supported on this node")
        return result

    def update(self, pod: Object, files: Mapping[str, Files]) -> None:
        """Bring the volumes that come from objects up to date, each in one step."""
        group = ((pod.get("spec") or {}).get("securityContext") or {}).get("fsGroup")
        for name, content in files.items():
            path = self._layout.volume(uid_of(pod), name)
            if path.is_dir():
                write_files(path, content, group)

    def mounts(
        self,
        pod: Object,
        container: Object,
        paths: Mapping[str, Path],
        variables: Mapping[str, str],
    ) -> list[Mount]:
        """A container's volume mounts.

        Raises:
            BadRequest: a subPath leads out of its volume.
            NotFound: a mount names a volume that the pod does not have.
        """
        found = []
        volumes = (pod.get("spec") or {}).get("volumes") or ()
        read_only = {volume["name"] for volume in volumes if _read_only(volume)}
        for index, each in enumerate(container.get("volumeMounts") or ()):
            name = each["name"]
            if name not in paths:
                raise NotFound(f"volumeMounts[{index}]: the pod has no volume {name}")
            source = paths[name]
            sub = each.get("subPath") or expand(each.get("subPathExpr") or "", variables)
            if sub:
                source = self._subpath(pod, container["name"], index, source, sub)
            found.append(
                Mount(
                    str(source),
                    str(PurePosixPath("/") / each["mountPath"]),
                    read_only=bool(each.get("readOnly")) or name in read_only,
                    propagation=_PROPAGATION.get(each.get("mountPropagation") or "", "rprivate"),
                )
            )
        return found

    def _empty(self, path: Path, source: Object, group: int | None, mounted: set[Path]) -> Path:
        if path.is_dir() and (source.get("medium") != "Memory" or path in mounted):
            return path
        path.mkdir(parents=True, exist_ok=True)
        if source.get("medium") == "Memory":
            limit = quantity.bytes(source.get("sizeLimit") or 0)
            options = "mode=777" + (f",size={limit}" if limit else "")
            mounts.mount("tmpfs", path, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, options)
        path.chmod(0o777)
        if group is not None:
            os.chown(path, -1, int(group))
            path.chmod(0o2777)
        return path

    def _objects(
        self, path: Path, files: Files, group: int | None, mounted: set[Path], *, private: bool
    ) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        if private and path not in mounted:
            # Secrets stay off the disk.
            options = f"mode=755,size={_SECRET_BYTES_MAX}"
            mounts.mount("tmpfs", path, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, options)
        write_files(path, files, group)
        return path

    def _subpath(self, pod: Object, container: str, index: int, volume: Path, sub: str) -> Path:
        """Bind a place inside a volume, so that what a container does there cannot move it."""
        target = self._layout.pod(uid_of(pod)) / "subpaths" / container / str(index)
        mounts.unmount(target)
        descriptor = _open_below(volume, safe_path(sub))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                if target.is_file():
                    target.unlink()
                target.mkdir(exist_ok=True)
            else:
                if target.is_dir():
                    target.rmdir()
                target.touch()
            mounts.bind(Path(f"/proc/self/fd/{descriptor}"), target)
        finally:
            os.close(descriptor)
        return target


def host_path(source: Object) -> Path:
    """A hostPath volume's path, made where its type says so.

    Raises:
        NotFound, BadRequest: it is missing or of another type.
    """
    path, kind = Path(source["path"]), source.get("type") or ""
    if not path.is_absolute() or ".." in path.parts:
        raise BadRequest(f"hostPath {path} must be absolute and must not contain '..'")
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)
    checks = {
        "DirectoryOrCreate": stat.S_ISDIR,
        "Directory": stat.S_ISDIR,
        "FileOrCreate": stat.S_ISREG,
        "File": stat.S_ISREG,
        "Socket": stat.S_ISSOCK,
        "CharDevice": stat.S_ISCHR,
        "BlockDevice": stat.S_ISBLK,
    }
    if kind in checks:
        if not path.exists():
            raise NotFound(f"hostPath type check failed: {path} does not exist")
        if not checks[kind](path.stat().st_mode):
            raise BadRequest(f"hostPath type check failed: {path} is not a {kind}")
    elif not kind and not path.exists():
        path.mkdir(parents=True)  # as container engines do for a bind mount's source
    return path


def _claimed(claim: str, claims: Mapping[str, Object]) -> Path:
    volume = claims.get(claim)
    if volume is None:
        raise NotFound(f'persistentvolumeclaim "{claim}" not found or not bound')
    spec = volume.get("spec") or {}
    if spec.get("volumeMode") == "Block":
        raise BadRequest(f'persistentvolumeclaim "{claim}": raw block volumes are not supported')
    if source := spec.get("hostPath"):
        return host_path(source)
    if source := spec.get("local"):
        return host_path({"path": source["path"], "type": "Directory"})
    raise BadRequest(
        f'persistentvolumeclaim "{claim}": only hostPath and local volumes are supported'
    )


def _read_only(volume: Object) -> bool:
    return bool((volume.get("persistentVolumeClaim") or {}).get("readOnly"))


def _settable(volume: Object, persistent: Object) -> bool:
    """Whether the pod's group is to own the files: not those of the host, nor what it only reads.

    Source: Kubernetes docs, "Configure a Security Context" (fsGroup).
    """
    return "local" in (persistent.get("spec") or {}) and not _read_only(volume)


def give_to_group(path: Path, group: int, *, whole: bool) -> None:
    """Let a group read and write a volume's files, and all that are made in it.

    Args:
        path: the volume.
        group: the group's number.
        whole: look at every file even if the volume itself is the group's already.
    """
    there = path.stat()
    if not whole and there.st_gid == group and there.st_mode & stat.S_ISGID:
        return
    for _root, _directories, files, descriptor in os.fwalk(path, topdown=False):
        for name in files:
            # Links are given away, never followed.
            os.chown(name, -1, group, dir_fd=descriptor, follow_symlinks=False)
            mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                os.chmod(name, stat.S_IMODE(mode) | 0o660, dir_fd=descriptor)
        os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) | 0o2770)


def write_files(base: Path, files: Files, group: int | None) -> bool:
    """Replace a directory's files in one step; whether anything changed.

    Readers see ``NAME -> ..data/NAME`` and ``..data -> ..TIMED``; swapping ``..data`` changes all
    files at once. Source: kubernetes ``pkg/volume/util/atomic_writer.go`` (the layout).
    """
    current = base / DATA
    if _same(current, files):
        return False
    fresh = base / f"..{secrets.token_hex(8)}"
    fresh.mkdir(mode=0o755)
    for name, file in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
        mode = file.mode | (0o440 if group is not None else 0)
        if group is not None:
            os.chown(path, -1, int(group))
        path.chmod(mode)
    old = current.readlink() if current.is_symlink() else None
    swap = base / "..data_tmp"
    swap.unlink(missing_ok=True)
    swap.symlink_to(fresh.name)
    swap.replace(current)
    wanted = {PurePosixPath(name).parts[0] for name in files}
    for name in wanted:
        link = base / name
        if not link.is_symlink():
            link.symlink_to(f"{DATA}/{name}")
    for path in base.iterdir():
        if not path.name.startswith("..") and path.name not in wanted:
            path.unlink()
    if old is not None:
        shutil.rmtree(base / old, ignore_errors=True)
    return True


def _same(current: Path, files: Files) -> bool:
    if not current.is_dir():
        return False
    there = {str(path.relative_to(current)) for path in current.rglob("*") if not path.is_dir()}
    if there != set(files):
        return False
    return all((current / name).read_bytes() == file.data for name, file in files.items())


def _open_below(base: Path, sub: str) -> int:
    """Open a place below a directory, following no link on the way; made if it is missing."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(base, os.O_PATH | os.O_CLOEXEC)
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    try:
        for part in PurePosixPath(sub).parts:
            try:
                following = os.open(part, flags, dir_fd=descriptor)
            except FileNotFoundError:
                # For whom the volume is, it is too, whatever this process masks out.
                os.mkdir(part, 0o700, dir_fd=descriptor)  # relative to a descriptor
                following = os.open(part, flags, dir_fd=descriptor)
                Path(f"/proc/self/fd/{following}").chmod(mode)
            if stat.S_ISLNK(os.fstat(following).st_mode):
                link = os.readlink(part, dir_fd=descriptor)  # as above
                os.close(following)
                # The one kind of link that is ours: NAME -> ..data/NAME of an object's volume.
                following = _through_data(descriptor, part, link, sub)
            os.close(descriptor)
            descriptor = following
    except OSError as error:
        os.close(descriptor)
        raise InternalError(f"subPath {sub!r}: {error.strerror}") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _through_data(directory: int, part: str, link: str, sub: str) -> int:
    if link != f"{DATA}/{part}":
        raise BadRequest(f"subPath {sub!r} leads through a symbolic link")
    target = os.readlink(DATA, dir_fd=directory)  # relative to a descriptor
    if "/" in target or not target.startswith(".."):
        raise BadRequest(f"subPath {sub!r} leads through a symbolic link")
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    inner = os.open(target, flags | os.O_DIRECTORY, dir_fd=directory)
    try:
        found = os.open(part, flags, dir_fd=inner)
    finally:
        os.close(inner)
    if stat.S_ISLNK(os.fstat(found).st_mode):
        os.close(found)
        raise BadRequest(f"subPath {sub!r} leads through a symbolic link")
    return found
