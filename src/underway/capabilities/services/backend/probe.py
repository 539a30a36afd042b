"""Whether this machine can carry Services."""

from __future__ import annotations

import os
import shutil

from underway.kit import Error, Probe, Ready


def probe() -> Probe:
    """Ready with root, iproute2 and nftables."""
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        remedy = "apt-get install iproute2 nftables"
        return Error(f"{' and '.join(missing)} not found on PATH", remedy)
    if os.geteuid() != 0:
        return Error("links and nftables rules need root", "run as root")
    return Ready()
