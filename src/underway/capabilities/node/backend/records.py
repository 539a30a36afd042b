"""The runs of a pod's containers, kept on disk."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import msgspec

from underway.base.files import write_atomic
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.model import ContainerRecord
from underway.linux import mounts

KEPT_RUNS = 2  # the last one and the one before, whose state and log can still be asked for

_decoder = msgspec.json.Decoder(ContainerRecord)


class Records:
    """Reads and writes ``record.json`` files. All calls block."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def save(self, record: ContainerRecord) -> ContainerRecord:
        """Keep a run's record. It need not survive a power cut: then nothing runs any more."""
        path = self.directory(record) / "record.json"
        write_atomic(path, msgspec.json.encode(record), mode=0o600, durable=False)
        return record

    def directory(self, record: ContainerRecord) -> Path:
        """Where the run lies."""
        return self._layout.container(record.pod_uid, record.name, record.attempt)

    def of_pod(self, uid: str) -> dict[str, list[ContainerRecord]]:
        """Every run by container name, oldest first."""
        found: dict[str, list[ContainerRecord]] = {}
        for path in self._layout.pod(uid).glob("containers/*/*/record.json"):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                record = _decoder.decode(path.read_bytes())
                found.setdefault(record.name, []).append(record)
        for runs in found.values():
            runs.sort(key=lambda run: run.attempt)
        return found

    def pods(self) -> list[str]:
        """The uids of all pods that have something here."""
        if not self._layout.pods.is_dir():
            return []
        return sorted(path.name for path in self._layout.pods.iterdir() if path.is_dir())

    def prune(self, uid: str, name: str) -> None:
        """Remove runs that are older than those that can be asked for, with their logs."""
        runs = self.of_pod(uid).get(name, [])
        for run in runs[:-KEPT_RUNS]:
            if run.finished:
                remove_tree(self.directory(run))
                log = self._layout.log(uid, name, run.attempt)
                for path in log.parent.glob(f"{log.name}*"):
                    path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Unmount everything below a directory and remove it; never what lies behind a mount.

    Raises:
        InternalError: something below cannot be unmounted; nothing was removed then.
    """
    for point in mounts.mounts_below(path):
        mounts.unmount(point)
    if path.exists():
        shutil.rmtree(path)
