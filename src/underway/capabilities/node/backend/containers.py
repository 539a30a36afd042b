"""Starting, stopping and accounting for containers. All calls block."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import signal
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from underway.api.objects import Object, uid_of
from underway.base.clock import Clock, rfc3339
from underway.base.errors import BadRequest, NotFound
from underway.base.files import write_atomic
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.backend.log_files import last_lines
from underway.capabilities.node.backend.records import Records, remove_tree
from underway.capabilities.node.model import ContainerRecord, ContainerSpec
from underway.capabilities.node.rules import commands, identity, limits, oci_spec
from underway.linux import mounts
from underway.linux.cgroups import Cgroups
from underway.linux.images import StoredImage
from underway.linux.layers import LayerStore
from underway.linux.oci_runtime import (
    OciRuntime,
    RuntimeFailure,
    bounding_capabilities,
    end_shim,
    oom_score_floor,
    shim_alive,
)

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_TERMINATION_PATH = "/dev/termination-log"
MESSAGE_BYTES = 4_096
LOG_MESSAGE_BYTES, LOG_MESSAGE_LINES = 2_048, 80
START_ERROR_CODE, KILLED_CODE = 128, 137
_FILE_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True)
class Launch:
    """All that one run of a container is made from.

    Attributes:
        variables: the pod's environment for the container, without the image's.
        netns, ipcns: paths of the pod's namespaces, empty for the host's.
    """

    pod: Object
    each: ContainerSpec
    image: StoredImage
    image_id: str
    attempt: int
    backoff_s: int
    hostname: str
    variables: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[oci_spec.Mount] = ()
    netns: str = ""
    ipcns: str = ""
    pidns: str = ""


class Containers:
    """The containers of this node."""

    def __init__(
        self,
        layout: Layout,
        runtime: OciRuntime,
        cgroups: Cgroups,
        layers: LayerStore,
        clock: Clock,
        node_memory_bytes: int,
    ) -> None:
        self.records = Records(layout)
        self.runtime = runtime
        self._layout = layout
        self._cgroups = cgroups
        self._layers = layers
        self._clock = clock
        self._node_memory_bytes = node_memory_bytes

    def start(self, launch: Launch) -> ContainerRecord:
        """Create and start a container.

        What the runtime refuses (a program that does not exist) is a run that ended at once.

        Raises:
            BadRequest: the pod and its image do not say clearly what to run, or as whom.
        """
        uid, spec = uid_of(launch.pod), launch.each.spec
        image = launch.image.config.get("config") or {}
        directory = self._layout.container(uid, launch.each.name, launch.attempt)
        remove_tree(directory)
        for name in ("bundle", "rootfs", "upper", "work"):
            (directory / name).mkdir(parents=True)
            (directory / name).chmod(0o755)
        log = self._layout.log(uid, launch.each.name, launch.attempt)
        log.parent.mkdir(parents=True, exist_ok=True)
        record = self.records.save(
            ContainerRecord(
                id=secrets.token_hex(32),
                pod_uid=uid,
                name=launch.each.name,
                kind=launch.each.kind.value,
                attempt=launch.attempt,
                image=spec.get("image", ""),
                image_id=launch.image_id,
                stop_signal=image.get("StopSignal") or "SIGTERM",
                tty=bool(spec.get("tty")),
                stdin=("once" if spec.get("stdinOnce") else "open") if spec.get("stdin") else "",
                termination_path=spec.get("terminationMessagePath") or DEFAULT_TERMINATION_PATH,
                termination_policy=spec.get("terminationMessagePolicy") or "File",
                created_at=rfc3339(self._clock.now()),
                backoff_s=launch.backoff_s,
            )
        )
        try:
            self._mount_root(directory, launch.image)
            config = self._configuration(launch, record, directory)
            write_atomic(
                directory / "bundle" / "config.json",
                msgspec.json.encode(config),
                mode=0o600,
                durable=False,
            )
        except BaseException:
            remove_tree(directory)
            raise
        return self._run(record, directory, log)

    def settle(self, record: ContainerRecord) -> ContainerRecord:
        """Account for a container whose shim has ended, and take its remains away."""
        if record.finished:
            return record
        directory = self.records.directory(record)
        group = self._layout.cgroup(record.pod_uid, record.id)
        code = self.runtime.exit_code(record.id)
        end_shim(record.shim_pid, record.id)
        reason, message = "", ""
        if code is None:
            reason = "ContainerStatusUnknown"
            message = (
                "The process that held the container's output is gone; the container was ended."
            )
            code = KILLED_CODE
            finished_at = rfc3339(self._clock.now())
        else:
            exit_file = self._layout.exits / record.id
            finished_at = rfc3339(datetime.fromtimestamp(exit_file.stat().st_mtime, UTC))
            message = self._last_words(record, directory, code)
            if code and self._cgroups.oom_kills(group):
                reason = "OOMKilled"
        self.runtime.delete(record.id)
        self._cgroups.kill(group)
        finished = self.records.save(
            msgspec.structs.replace(
                record,
                finished_at=finished_at,
                exit_code=code,
                reason=reason,
                message=message,
                pid=0,
                shim_pid=0,
            )
        )
        self.runtime.forget_exit(record.id)
        self._clear(finished, directory)
        return finished

    def recover(self, uid: str) -> dict[str, list[ContainerRecord]]:
        """A pod's runs as found after a restart of the agent: all true to what runs now."""
        for runs in self.records.of_pod(uid).values():
            for record in runs:
                if record.finished:
                    continue
                if not record.started_at:
                    # Cut short before it ran: as if it had never been tried.
                    self.discard(record)
                elif not shim_alive(record.shim_pid, record.id):
                    self.settle(record)
        return self.records.of_pod(uid)

    def discard(self, record: ContainerRecord) -> None:
        """Remove a run without a trace."""
        end_shim(record.shim_pid, record.id)
        self.runtime.delete(record.id)
        self.runtime.forget_exit(record.id)
        self._cgroups.remove(self._layout.cgroup(record.pod_uid, record.id))
        remove_tree(self.records.directory(record))

    def remove_orphans(self, known: set[str]) -> list[str]:
        """End containers of the runtime that no record names; gives their ids."""
        orphans = [each for each in self.runtime.ids() if each not in known]
        for each in orphans:
            self.runtime.delete(each)
            self.runtime.forget_exit(each)
        return orphans

    def signal(self, record: ContainerRecord, name: str) -> None:
        """Signal a container's first process."""
        if not self._cgroups.processes(self._layout.cgroup(record.pod_uid, record.id)):
            return
        self.runtime.kill(record.id, name)

    def bundle(self, record: ContainerRecord) -> Path:
        """The run's OCI bundle, with conmon's sockets."""
        return self.records.directory(record) / "bundle"

    def process_spec(
        self, record: ContainerRecord, command: Sequence[str], *, tty: bool
    ) -> dict[str, Any]:
        """What the runtime needs to run a command in the container, as the container's user.

        Raises:
            NotFound: the container does not run.
        """
        try:
            data = (self.bundle(record) / "config.json").read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"container {record.name} is not running") from error
        process: dict[str, Any] = msgspec.json.decode(data)["process"]
        environment = [each for each in process["env"] if not tty or not each.startswith("TERM=")]
        if tty:
            environment.append("TERM=xterm")
        return {**process, "args": list(command), "terminal": tty, "env": environment}

    def _mount_root(self, directory: Path, image: StoredImage) -> None:
        lowers = [self._layers.path(diff_id) for diff_id in reversed(image.diff_ids)]
        if not lowers:
            lowers = [directory / "empty"]
            lowers[0].mkdir()
        mounts.mount_overlay(
            lowers, directory / "upper", directory / "work", directory / "rootfs", volatile=True
        )

    def _configuration(
        self, launch: Launch, record: ContainerRecord, directory: Path
    ) -> dict[str, Any]:
        spec, config = launch.each.spec, launch.image.config
        context = identity.security_context(launch.pod, spec)
        rootfs = directory / "rootfs"
        who = identity.resolve(
            context,
            (config.get("config") or {}).get("User") or "",
            read_inside(rootfs, "etc/passwd"),
            read_inside(rootfs, "etc/group"),
        )
        environment = {"PATH": DEFAULT_PATH, "HOSTNAME": launch.hostname}
        if record.tty:
            environment["TERM"] = "xterm"
        environment |= commands.image_environment(config)
        environment |= launch.variables
        what = oci_spec.Process(
            args=commands.arguments(spec, config, launch.variables),
            environment=environment,
            cwd=commands.working_directory(spec, config),
            identity=who,
            tty=record.tty,
        )
        last_word = directory / "termination-log"
        last_word.touch()
        last_word.chmod(0o666)
        pod_spec = launch.pod.get("spec") or {}
        runtime = oci_spec.Runtime(
            rootfs=str(rootfs),
            cgroups_path=self._layout.cgroup(record.pod_uid, record.id),
            netns=launch.netns,
            ipcns=launch.ipcns,
            pidns=launch.pidns,
            bounding=bounding_capabilities(),
            oom_score_adj=limits.oom_score(
                launch.pod, spec, self._node_memory_bytes, oom_score_floor()
            ),
            architecture=platform.machine(),
            devices=_host_devices() if context.get("privileged") else (),
            resources=limits.cgroup_resources(spec),
        )
        sysctls = (pod_spec.get("securityContext") or {}).get("sysctls") or ()
        return oci_spec.configuration(
            what,
            runtime,
            context,
            [*launch.mounts, oci_spec.Mount(str(last_word), record.termination_path)],
            hostname=launch.hostname,
            host_pid=bool(pod_spec.get("hostPID")),
            sysctls={each["name"]: each["value"] for each in sysctls},
        )

    def _run(self, record: ContainerRecord, directory: Path, log: Path) -> ContainerRecord:
        try:
            created = self.runtime.create(
                record.id, directory / "bundle", log, stdin=record.stdin, tty=record.tty
            )
            record = self.records.save(
                msgspec.structs.replace(record, pid=created.pid, shim_pid=created.shim_pid)
            )
            self.runtime.start(record.id)
        except RuntimeFailure as error:
            end_shim(record.shim_pid, record.id)
            self.runtime.delete(record.id)
            self.runtime.forget_exit(record.id)
            now = rfc3339(self._clock.now())
            failed = self.records.save(
                msgspec.structs.replace(
                    record,
                    finished_at=now,
                    exit_code=START_ERROR_CODE,
                    reason="StartError",
                    message=f"failed to start container {record.name}: {error.message}",
                    pid=0,
                    shim_pid=0,
                )
            )
            self._clear(failed, directory)
            return failed
        return self.records.save(
            msgspec.structs.replace(record, started_at=rfc3339(self._clock.now()))
        )

    def _clear(self, record: ContainerRecord, directory: Path) -> None:
        """Remove what only a running container needs."""
        mounts.unmount(directory / "rootfs")
        self._cgroups.remove(self._layout.cgroup(record.pod_uid, record.id))
        for name in ("bundle", "upper", "work", "empty"):
            shutil.rmtree(directory / name, ignore_errors=True)

    def _last_words(self, record: ContainerRecord, directory: Path, code: int) -> str:
        text = _head(directory / "termination-log", MESSAGE_BYTES)
        if text or record.termination_policy != "FallbackToLogsOnError" or code == 0:
            return text
        log = self._layout.log(record.pod_uid, record.name, record.attempt)
        return last_lines(log, LOG_MESSAGE_LINES, LOG_MESSAGE_BYTES)


def signal_name(text: str) -> str:
    """A stop signal as the runtime takes it.

    Raises:
        BadRequest: there is no such signal.
    """
    name = text.upper()
    if name.isdigit():
        return name
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in signal.Signals.__members__ and not name.startswith("SIGRTM"):
        raise BadRequest(f"{text!r} is no signal")
    return name


def read_inside(rootfs: Path, path: str) -> str:
    """A small text file of an image, empty where there is none; links never lead out of it."""
    target = (rootfs / path).resolve()
    if not target.is_relative_to(rootfs.resolve()) or not target.is_file():
        return ""
    return _head(target, _FILE_BYTES_MAX)


def _head(path: Path, limit_bytes: int) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(limit_bytes).decode("utf-8", "replace")
    except OSError:
        return ""


def _host_devices() -> list[dict[str, Any]]:
    """The machine's devices, as privileged containers get them."""
    found = []
    for path in sorted(Path("/dev").rglob("*")):
        if path.is_symlink() or path.parts[2] in ("pts", "shm", "mqueue", "console", "ptmx"):
            continue
        info = path.lstat()
        kind = "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else ""
        if kind:
            found.append(
                {
                    "path": str(path),
                    "type": kind,
                    "major": os.major(info.st_rdev),
                    "minor": os.minor(info.st_rdev),
                    "fileMode": stat.S_IMODE(info.st_mode),
                    "uid": info.st_uid,
                    "gid": info.st_gid,
                }
            )
    return found
