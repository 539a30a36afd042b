"""What the node agent knows of a pod: records kept on disk and observations held in memory."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from underway.api.objects import Object


class Kind(enum.StrEnum):
    """Which list of the pod's spec a container comes from."""

    INIT = "init"
    SIDECAR = "sidecar"
    APP = "app"
    EPHEMERAL = "ephemeral"


class ContainerRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run of one container, as it is kept on disk.

    Attributes:
        id: 64 hexadecimal characters; the OCI runtime's container id.
        attempt: how often the container was started before in this pod.
        image: the reference that was asked for; ``image_id`` is ``repository@digest``.
        created_at, started_at, finished_at: RFC 3339, empty where it has not happened.
        exit_code: meaningful once ``finished_at`` is set.
        backoff_s: how long to wait after this run's end before the next one starts.
        stdin: ``open``, ``once`` (until a client detaches) or empty for none.
        shim_pid: the process that holds the container's output and exit code.
    """

    id: str
    pod_uid: str
    name: str
    kind: str = Kind.APP.value
    attempt: int = 0
    image: str = ""
    image_id: str = ""
    stop_signal: str = "SIGTERM"
    tty: bool = False
    stdin: str = ""
    termination_path: str = ""
    termination_policy: str = "File"
    created_at: str = ""
    started_at: str = ""
    finished_at: str = ""
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    backoff_s: int = 0
    pid: int = 0
    shim_pid: int = 0

    @property
    def finished(self) -> bool:
        """Whether this run is over."""
        return bool(self.finished_at)

    @property
    def running(self) -> bool:
        """Whether the container was started and has not ended."""
        return bool(self.started_at) and not self.finished_at


@dataclass(frozen=True, slots=True)
class Verdict:
    """What probes and hooks found out about one running container.

    ``failure`` names why it must be stopped and started again, or is empty; ``grace_s`` is the
    failed probe's own grace period.
    """

    started: bool = True
    ready: bool = True
    failure: str = ""
    grace_s: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container does not start now, and when to try again."""

    reason: str
    message: str = ""
    until: datetime | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Stopping:
    """A stop that was begun: when, and whether SIGKILL was sent already."""

    since: datetime
    grace_s: float
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a pod's containers share. ``ip`` is the pod's address."""

    ip: str


@dataclass(frozen=True)
class Observed:
    """A pod as it is on this machine, at one moment.

    Attributes:
        containers: runs by container name, oldest first.
        sandbox: set once network and volumes are there.
        images: names of containers whose image is ready to be started now.
        pulling: names of containers whose image is on its way.
        gone: whether the pod's object no longer exists.
    """

    now: datetime
    containers: Mapping[str, Sequence[ContainerRecord]] = field(default_factory=dict)
    sandbox: Sandbox | None = None
    images: frozenset[str] = frozenset()
    pulling: frozenset[str] = frozenset()
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    stopping: Mapping[str, Stopping] = field(default_factory=dict)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    gone: bool = False

    def last(self, name: str) -> ContainerRecord | None:
        """The newest run of a container."""
        runs = self.containers.get(name)
        return runs[-1] if runs else None

    def verdict(self, record: ContainerRecord) -> Verdict:
        """What is known of a running container; without probes it is ready."""
        return self.verdicts.get(record.id, Verdict())

    def running(self) -> list[ContainerRecord]:
        """Every run that has not ended."""
        return [run for runs in self.containers.values() for run in runs if not run.finished]


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container of a pod's spec, with the list it stands in."""

    name: str
    kind: Kind
    spec: Object


def containers_of(pod: Object) -> list[ContainerSpec]:
    """A pod's containers in the order they start: init containers (and sidecars), then the rest."""
    spec = pod.get("spec") or {}
    found = [
        ContainerSpec(
            each["name"],
            Kind.SIDECAR if each.get("restartPolicy") == "Always" else Kind.INIT,
            each,
        )
        for each in spec.get("initContainers") or ()
    ]
    found += [ContainerSpec(each["name"], Kind.APP, each) for each in spec.get("containers") or ()]
    return found


def ephemeral_of(pod: Object) -> list[ContainerSpec]:
    """The containers that were added to look into the pod; they neither start again nor count."""
    found = (pod.get("spec") or {}).get("ephemeralContainers") or ()
    return [ContainerSpec(each["name"], Kind.EPHEMERAL, each) for each in found]
