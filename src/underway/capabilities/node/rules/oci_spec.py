"""The OCI runtime configuration of a container.

Source: opencontainers/runtime-spec 1.0.2 ``config.md``, ``config-linux.md``; default
capabilities, masked and read-only paths as container engines agree on them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from underway.api.objects import Object
from underway.capabilities.node.rules.identity import Identity

DEFAULT_CAPABILITIES = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
    "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
# System calls that change the machine, look into other processes, or were holes before. What a
# capability guards anyway (mount, bpf, ptrace of others) is left to the capability.
_REFUSED = (
    "acct", "add_key", "clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64",
    "create_module", "delete_module", "finit_module", "get_kernel_syms", "init_module", "ioperm",
    "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind",
    "migrate_pages", "move_pages", "nfsservctl", "open_by_handle_at", "perf_event_open", "quotactl",
    "query_module", "reboot", "request_key", "set_mempolicy", "settimeofday", "stime", "swapoff",
    "swapon", "_sysctl", "sysfs", "uselib", "userfaultfd", "ustat", "vm86", "vm86old",
)  # fmt: skip
_EPERM = 1


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path bound into the container."""

    source: str
    target: str
    read_only: bool = False
    propagation: str = "rprivate"


@dataclass(frozen=True)
class Runtime:
    """What this machine and the pod's sandbox give to a container.

    Attributes:
        rootfs: the mounted root file system.
        netns: path of the pod's network namespace, empty for the host's.
        ipcns: path of the pod's IPC namespace, empty for the host's.
        pidns: path of another container's process namespace, empty for one of its own.
        bounding: the capabilities that can be given at all, as ``CAP_...``.
        oom_score_adj: see ``limits.oom_score``.
        devices: host devices for privileged containers, as OCI ``linux.devices`` entries.
    """

    rootfs: str
    cgroups_path: str
    netns: str = ""
    ipcns: str = ""
    pidns: str = ""
    bounding: Collection[str] = ()
    oom_score_adj: int = 0
    architecture: str = "x86_64"
    devices: Sequence[Mapping[str, Any]] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Process:
    """What runs in the container."""

    args: Sequence[str]
    environment: Mapping[str, str]
    cwd: str
    identity: Identity
    tty: bool = False


def capabilities(context: Object, bounding: Collection[str]) -> list[str]:
    """The capability set of a securityContext, within what the machine can give."""
    if context.get("privileged"):
        return sorted(bounding)
    changes = context.get("capabilities") or {}
    add, drop = _names(changes.get("add")), _names(changes.get("drop"))
    granted = set() if "CAP_ALL" in drop else set(DEFAULT_CAPABILITIES) - drop
    granted |= set(bounding) if "CAP_ALL" in add else add
    return sorted(granted & set(bounding))


def process(what: Process, context: Object, bounding: Collection[str], oom: int) -> dict[str, Any]:
    """The ``process`` part, for the container itself or for a command run in it."""
    granted = capabilities(context, bounding)
    privileged = bool(context.get("privileged"))
    who = what.identity
    return {
        "terminal": what.tty,
        "user": {"uid": who.uid, "gid": who.gid, "additionalGids": list(who.groups)},
        "args": list(what.args),
        "env": [f"{name}={value}" for name, value in what.environment.items()],
        "cwd": what.cwd,
        "capabilities": {
            "bounding": granted,
            "effective": granted,
            "permitted": granted,
        },
        "noNewPrivileges": context.get("allowPrivilegeEscalation") is False and not privileged,
        "oomScoreAdj": oom,
    }


def configuration(
    what: Process,
    runtime: Runtime,
    context: Object,
    mounts: Sequence[Mount],
    *,
    hostname: str,
    host_pid: bool = False,
    sysctls: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The whole ``config.json``."""
    privileged = bool(context.get("privileged"))
    rules: list[dict[str, Any]] = [{"allow": privileged, "access": "rwm"}]
    linux: dict[str, Any] = {
        "namespaces": _namespaces(runtime, host_pid=host_pid),
        "cgroupsPath": runtime.cgroups_path,
        "resources": {**runtime.resources, "devices": rules},
        "rootfsPropagation": "rprivate" if not privileged else "rslave",
    }
    if privileged:
        linux["devices"] = [dict(device) for device in runtime.devices]
    elif context.get("procMount") != "Unmasked":
        linux["maskedPaths"] = list(_MASKED)
        linux["readonlyPaths"] = list(_READ_ONLY)
    if sysctls:
        linux["sysctl"] = dict(sysctls)
    profile = (context.get("seccompProfile") or {}).get("type")
    if profile == "RuntimeDefault" and not privileged:
        linux["seccomp"] = _seccomp(runtime.architecture)
    config = {
        "ociVersion": "1.0.2",
        "process": process(what, context, runtime.bounding, runtime.oom_score_adj),
        "root": {
            "path": runtime.rootfs,
            "readonly": bool(context.get("readOnlyRootFilesystem")),
        },
        "mounts": [*_system_mounts(privileged=privileged, tty=what.tty), *map(_bind, mounts)],
        "linux": linux,
    }
    if runtime.netns:
        config["hostname"] = hostname
    return config


def _namespaces(runtime: Runtime, *, host_pid: bool) -> list[dict[str, str]]:
    found: list[dict[str, str]] = [{"type": "mount"}, {"type": "cgroup"}]
    if runtime.pidns:
        found.append({"type": "pid", "path": runtime.pidns})
    elif not host_pid:
        found.append({"type": "pid"})
    if runtime.netns:
        # On the host's network the host's name is the pod's: no UTS namespace of its own.
        found += [{"type": "uts"}, {"type": "network", "path": runtime.netns}]
    if runtime.ipcns:
        found.append({"type": "ipc", "path": runtime.ipcns})
    return found


def _system_mounts(*, privileged: bool, tty: bool) -> list[dict[str, Any]]:
    access = "rw" if privileged else "ro"
    safe = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": safe},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
            + (["gid=5"] if tty else []),
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": safe},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*safe, access]},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*safe, "relatime", access],
        },
    ]


def _bind(mount: Mount) -> dict[str, Any]:
    access = "ro" if mount.read_only else "rw"
    return {
        "destination": mount.target,
        "type": "bind",
        "source": mount.source,
        "options": ["rbind", mount.propagation, access],
    }


def _seccomp(architecture: str) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": _ARCHITECTURES.get(architecture, []),
        "syscalls": [{"names": list(_REFUSED), "action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM}],
    }


def _names(listed: Sequence[str] | None) -> set[str]:
    upper = (name.upper() for name in listed or ())
    return {name if name.startswith("CAP_") else f"CAP_{name}" for name in upper}
