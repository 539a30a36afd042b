"""Whether this machine can run pods."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from underway.kit import Probe, Ready, Skip
from underway.linux.cgroups import Cgroups
from underway.linux.oci_runtime import find_runtime

_REMEDY = "apt-get install runc conmon iproute2 nftables"


def probe() -> Probe:
    """Ready, or what is missing."""
    if os.geteuid() != 0:
        return Skip("pods need root", "run underway up as root")
    cgroups = Cgroups()
    if not cgroups.available:
        return Skip("no control groups with cpu and memory are mounted", "mount cgroup2")
    if find_runtime(hybrid=cgroups.unified is None) is None:
        return Skip("no OCI runtime is installed", _REMEDY)
    for program in ("conmon", "ip", "nft", "unshare"):
        if shutil.which(program) is None:
            return Skip(f"{program} is not installed", _REMEDY)
    if "overlay" not in Path("/proc/filesystems").read_text():
        return Skip("the kernel has no overlayfs", "modprobe overlay")
    return Ready()
