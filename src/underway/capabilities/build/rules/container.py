"""The container a RUN step runs in.

Source: opencontainers/runtime-spec 1.0 ``config.md``, ``config-linux.md``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from underway.capabilities.build.rules.identity import Identity
from underway.capabilities.build.rules.seccomp import profile

CAPABILITIES = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
    "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip
CA_FILE = "/dev/underway/ca-certificates.crt"
APT_FILE = "/dev/underway/apt.conf"
TRUST_FILE = "/dev/underway/cacerts.p12"
SCRIPT_FILE = "/dev/underway/script"
"""Below /dev, which is a tmpfs of the container: what is mounted there leaves no trace."""

CA_VARIABLES = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO", "npm_config_cafile", "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "DENO_CERT",
    "NIX_SSL_CERT_FILE", "HEX_CACERTS_PATH", "BUNDLE_SSL_CA_CERT",
)  # fmt: skip
JAVA_OPTIONS = (
    f"-Djavax.net.ssl.trustStore={TRUST_FILE} -Djavax.net.ssl.trustStoreType=PKCS12"
    " -Djavax.net.ssl.trustStorePassword="
)
"""Java reads no PEM; its programs take these from ``JAVA_TOOL_OPTIONS``."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A host path seen in the container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Container:
    """What is particular about one RUN.

    Attributes:
        architecture: the machine's.
        insecure: all capabilities, no filter of system calls, nothing of /proc hidden.
        rootless: the runtime runs in a user namespace; ``gids`` is how many groups that has.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: str
    who: Identity
    rootfs: str
    cgroup: str
    bounding: Collection[str]
    binds: Sequence[Bind] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    own_network: bool = False
    architecture: str = ""
    insecure: bool = False
    rootless: bool = False
    gids: int = 1 << 32


def configuration(container: Container) -> dict[str, Any]:
    """The runtime's ``config.json``."""
    allowed = sorted(container.bounding) if container.insecure else CAPABILITIES
    granted = [name for name in allowed if name in container.bounding]
    who = container.who
    namespaces = ["mount", "pid", "ipc", "uts"] + (["network"] if container.own_network else [])
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": who.uid, "gid": who.gid, "additionalGids": list(who.groups)},
            "args": list(container.argv),
            "env": [f"{name}={value}" for name, value in container.environment.items()],
            "cwd": container.cwd,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), granted),
            "noNewPrivileges": False,
        },
        "root": {"path": container.rootfs, "readonly": False},
        "hostname": "build",
        "mounts": _mounts(container),
        "linux": {
            "namespaces": [{"type": name} for name in namespaces],
            **_limits(container),
            **({} if container.insecure else _CONFINED),
            **({} if container.insecure else {"seccomp": profile(container.architecture)}),
        },
    }


_CONFINED = {
    "maskedPaths": [
        "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
        "/proc/sched_debug", "/proc/timer_list", "/sys/firmware",
    ],
    "readonlyPaths": [
        "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
    ],
}  # fmt: skip


def _limits(container: Container) -> dict[str, Any]:
    if container.rootless:
        return {}  # cgroups are the machine's; devices are those that were bound in
    return {
        "cgroupsPath": container.cgroup,
        "resources": {"devices": [{"allow": container.insecure, "access": "rwm"}]},
    }


def _mounts(container: Container) -> list[dict[str, Any]]:
    safe = ["nosuid", "noexec", "nodev"]

    def one(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": source, "options": list(options)}

    mounts = [
        one("/proc", "proc", "proc", *safe),
        one("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        one("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666",
            "mode=0620", *(["gid=5"] if container.gids > 5 else [])),
        one("/dev/shm", "tmpfs", "shm", *safe, "mode=1777", "size=65536k"),  # noqa: S108  # its own
        one("/dev/mqueue", "mqueue", "mqueue", *safe),
        # Who does not own the network namespace cannot mount its /sys.
        one("/sys", "bind", "/sys", *safe, "rbind", "rslave", "ro") if container.rootless
        else one("/sys", "sysfs", "sysfs", *safe, "ro"),
    ]  # fmt: skip
    mounts += [
        one(target, "tmpfs", "tmpfs", "nosuid", "nodev", *options.split(","))
        for target, options in container.tmpfs.items()
    ]
    for each in container.binds:
        access = "ro" if each.read_only else "rw"
        mounts.append(one(each.target, "bind", each.source, "rbind", "rprivate", access))
    return mounts
