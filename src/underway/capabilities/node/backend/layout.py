"""Where a node's pods lie on disk.

pods/UID/pod.json                       the pod as last seen, for when its object is gone
pods/UID/{hosts,resolv.conf,hostname,shm,ipc}   what its containers share
pods/UID/volumes/NAME                   its volumes
pods/UID/containers/NAME/ATTEMPT/       record.json, bundle/, rootfs/, upper/, work/
pods/UID/logs/NAME/ATTEMPT.log          output in the CRI log format
"""

from __future__ import annotations

import re
from pathlib import Path

from underway.base.errors import BadRequest
from underway.base.home import Home

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?")


def _plain(name: str) -> str:
    """A name that is safe as one part of a path."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadRequest(f"{name[:80]!r} is no name")
    return name


class Layout:
    """Paths below the node's directory; nothing here touches the disk."""

    def __init__(self, home: Home) -> None:
        self.root = home.node
        self.pods = home.node / "pods"
        self.exits = home.node / "exits"
        self.runtime = home.run / "runc"
        self.slice = f"/underway-{home.id}"

    def pod(self, uid: str) -> Path:
        """Everything of one pod."""
        return self.pods / _plain(uid)

    def volume(self, uid: str, name: str) -> Path:
        """One of a pod's volumes."""
        return self.pod(uid) / "volumes" / _plain(name)

    def container(self, uid: str, name: str, attempt: int) -> Path:
        """One run of a container."""
        return self.pod(uid) / "containers" / _plain(name) / str(attempt)

    def bundle(self, uid: str, name: str, attempt: int) -> Path:
        """A run's OCI bundle."""
        return self.container(uid, name, attempt) / "bundle"

    def log(self, uid: str, name: str, attempt: int) -> Path:
        """A run's output."""
        return self.pod(uid) / "logs" / _plain(name) / f"{attempt}.log"

    def pod_cgroup(self, uid: str) -> str:
        """The control group of a pod."""
        return f"{self.slice}/pod{_plain(uid)}"

    def cgroup(self, uid: str, container_id: str) -> str:
        """The control group of a container."""
        return f"{self.pod_cgroup(uid)}/{container_id}"
