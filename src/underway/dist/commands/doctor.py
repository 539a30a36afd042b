"""``underway doctor``: what this machine has and lacks, and how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import msgspec

from underway.base.home import Home
from underway.dist.commands.capability import row
from underway.kit import Error, Ready, registry
from underway.linux import network

_OK, _WARN, _FAIL = "ok", "warning", "missing"
_DISK_WANTED_BYTES = 5 * 1024**3
_MEMORY_WANTED_BYTES = 1024**3

# Program -> (what it is for, Debian package, whether the main job needs it).
_PROGRAMS = {
    "apt-get": ("solves what base images are assembled from", "apt", True),
    "conmon": ("keeps containers and their logs", "conmon", True),
    "git": ("names the commit that is shipped", "git", False),
    "gpgv": ("verifies Debian's package lists", "gpgv", True),
    "ip": ("makes the pods' network", "iproute2", True),
    "nft": ("programs Services", "nftables", True),
    "runc": ("runs containers", "runc", True),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: ``state`` is ok, warning or missing."""

    name: str
    state: str
    detail: str
    remedy: str = ""


def examine(home: Home) -> list[Finding]:
    """Look at everything the platform needs or can use."""
    return [
        *_rights(),
        *_programs(),
        *_kernel(),
        *_resources(home),
        *_network(home),
        *_capabilities(),
    ]


def _rights() -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield Finding("root", _OK, "namespaces, mounts and nftables can be used")
    else:
        yield Finding("root", _FAIL, "not root", "run it with sudo")
    if not _has_capability(24):
        detail = "CAP_SYS_RESOURCE is missing: rlimits cannot be raised, nor OOM scores lowered"
        yield Finding("capabilities", _WARN, detail, "give it to this machine or container")


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _programs() -> Iterator[Finding]:
    for name, (purpose, package, needed) in _PROGRAMS.items():
        found = shutil.which(name)
        if found:
            yield Finding(name, _OK, f"{found}: {purpose}")
        else:
            state = _FAIL if needed else _WARN
            yield Finding(name, state, f"not found: {purpose}", f"apt-get install {package}")


def _kernel() -> Iterator[Finding]:
    yield Finding("kernel", _OK, f"Linux {platform.release()}")
    filesystems = Path("/proc/filesystems").read_text(encoding="ascii").split()
    if "overlay" in filesystems:
        yield Finding("overlayfs", _OK, "container roots are overlays")
    else:
        yield Finding("overlayfs", _FAIL, "not in this kernel", "modprobe overlay")
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists():
        yield Finding("cgroups", _OK, f"v2: {unified.read_text(encoding='ascii').strip()}")
    elif Path("/sys/fs/cgroup/memory").is_dir():
        yield Finding("cgroups", _OK, "v1 or hybrid: runc is used, crun refuses it")
    else:
        yield Finding("cgroups", _FAIL, "no controllers", "mount cgroup2 on /sys/fs/cgroup")
    if not Path("/dev/kvm").exists():
        yield Finding("kvm", _WARN, "no /dev/kvm: virtual machines are emulated", "")
    if not Path("/sys/kernel/btf/vmlinux").exists():
        yield Finding("btf", _WARN, "no kernel BTF: eBPF programs cannot be loaded", "")


def _resources(home: Home) -> Iterator[Finding]:
    existing = next(path for path in (home.root, *home.root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    state = _OK if free >= _DISK_WANTED_BYTES else _WARN
    yield Finding("disk", state, f"{free / 1024**3:.1f} GiB free at {existing}",
                  "" if state == _OK else "free some space, or move UNDERWAY_HOME")  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    state = _OK if memory >= _MEMORY_WANTED_BYTES else _WARN
    yield Finding("memory", state, f"{memory / 1024**3:.1f} GiB", "")


def _network(home: Home) -> Iterator[Finding]:
    problem = network.egress_problem()
    if problem:
        yield Finding("pod egress", _WARN, problem, "sysctl -w net.ipv4.ip_forward=1")
    else:
        yield Finding("pod egress", _OK, "pods reach the networks this machine reaches")


def _capabilities() -> Iterator[Finding]:
    for capability in registry.installed():
        found = row(capability)
        if found["state"] != Ready.__name__:
            state = _FAIL if found["state"] == Error.__name__ else _WARN
            yield Finding(capability.id, state, found["reason"], found["remedy"])


@click.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def doctor(output: str) -> None:
    """Say what this machine has and lacks, and how to mend it; exit code 1 when it cannot run."""
    findings = examine(Home.from_environment())
    if output == "json":
        rows = [asdict(finding) for finding in findings]
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    else:
        for finding in findings:
            click.echo(f"{finding.state:<9}{finding.name:<14}{finding.detail}")
            if finding.remedy:
                click.echo(f"{'':<23}-> {finding.remedy}")
    if any(finding.state == _FAIL for finding in findings):
        raise SystemExit(1)
