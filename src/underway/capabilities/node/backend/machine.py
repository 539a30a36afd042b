"""What this machine is: its resources, its address, its software. All calls block."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from pathlib import Path

from underway.capabilities.node.rules.fields import Machine

_OS_RELEASE = Path("/etc/os-release")
_PROC = Path("/proc")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """The machine's architecture as Kubernetes and OCI call it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def address(fallback: str) -> str:
    """The address this machine has on the network that leads out, or ``fallback``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Choosing a route sends nothing. The address is one for documentation (RFC 5737).
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return fallback
        return str(probe.getsockname()[0])


def describe(name: str, ip: str, storage: Path) -> Machine:
    """The node as pods see it; ``storage`` lies on the file system that holds pods."""
    return Machine(
        name=name,
        address=ip,
        cpu_millis=len(os.sched_getaffinity(0)) * 1000,
        memory_bytes=_memory_bytes(),
        ephemeral_bytes=shutil.disk_usage(storage).total,
    )


def system_info(runtime_version: str, version: str) -> dict[str, str]:
    """``Node.status.nodeInfo``."""
    return {
        "machineID": _text(Path("/etc/machine-id")),
        "systemUUID": _text(Path("/sys/class/dmi/id/product_uuid")),
        "bootID": _text(_PROC / "sys/kernel/random/boot_id"),
        "kernelVersion": platform.release(),
        "osImage": _os_image(),
        "containerRuntimeVersion": runtime_version.replace(" ", "://", 1),
        "kubeletVersion": version,
        "kubeProxyVersion": version,
        "operatingSystem": "linux",
        "architecture": architecture(),
    }


def pressure(storage: Path) -> dict[str, bool]:
    """``MemoryPressure``, ``DiskPressure`` and ``PIDPressure``, by the kubelet's thresholds."""
    disk = shutil.disk_usage(storage)
    pids = len([entry for entry in os.listdir(_PROC) if entry.isdigit()])  # noqa: PTH208  # names only
    return {
        "MemoryPressure": meminfo().get("MemAvailable", 0) < 100 * 1024 * 1024,
        "DiskPressure": disk.free < disk.total // 10 and disk.free < 5 * 1024**3,
        "PIDPressure": pids > int(_text(_PROC / "sys/kernel/pid_max") or 32_768) * 9 // 10,
    }


def _memory_bytes() -> int:
    return meminfo().get("MemTotal", 0)


def meminfo() -> dict[str, int]:
    """``/proc/meminfo`` in bytes."""
    found = {}
    for line in _text(_PROC / "meminfo").splitlines():
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return found


def _os_image() -> str:
    for line in _text(_OS_RELEASE).splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip('"')
    return "Linux"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
