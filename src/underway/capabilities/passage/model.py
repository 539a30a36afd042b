"""The Passage and its steps as values."""

from __future__ import annotations

from dataclasses import dataclass, field

from underway.api.objects import Object
from underway.api.resources import Resource

PASSAGES = Resource(
    "underway.dev", "v1alpha1", "passages", "Passage", singular="passage", subresources=("status",)
)
PASSAGE_ANNOTATION = "underway.dev/passage"
APPLICATION_LABEL = "underway.dev/application"


@dataclass(frozen=True, slots=True)
class Source:
    """What was shipped. ``commit`` is empty outside a git checkout."""

    path: str
    digest: str
    language: str
    repository: str = ""
    commit: str = ""
    modified: bool = False

    def as_dict(self) -> Object:
        """The source as it stands in ``Passage.spec.source``."""
        value: Object = {"path": self.path, "digest": self.digest, "language": self.language}
        if self.commit:
            value |= {"commit": self.commit, "modified": self.modified}
        if self.repository:
            value["repository"] = self.repository
        return value


@dataclass(slots=True)
class Step:
    """One step: ``state`` is Running, Succeeded or Failed."""

    name: str
    started_at: str
    state: str = "Running"
    message: str = ""
    seconds: float = 0.0

    def as_dict(self) -> Object:
        """The step as it stands in ``Passage.status.steps``."""
        return {
            "name": self.name,
            "state": self.state,
            "message": self.message,
            "startedAt": self.started_at,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Proof:
    """How the application answered: HTTP with a status, or TCP with none."""

    url: str
    protocol: str
    status: int = 0
    size_bytes: int = 0
    digest: str = ""

    def as_dict(self) -> Object:
        """The proof as it stands in ``Passage.status.proof``."""
        return {
            "protocol": self.protocol,
            "status": self.status,
            "bytes": self.size_bytes,
            "digest": self.digest,
        }


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a workload has come: ``failure`` says why it cannot get further."""

    complete: bool
    message: str
    failure: str = ""
    failing_pod: str = ""
    failing_container: str = ""
    restarted: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """Which object: enough to find it again."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def as_dict(self) -> Object:
        """The reference as it stands in ``Passage.status.inventory``."""
        value: Object = {"apiVersion": self.api_version, "kind": self.kind, "name": self.name}
        if self.namespace:
            value["namespace"] = self.namespace
        return value

    @classmethod
    def from_dict(cls, value: Object) -> Reference:
        """The reference as ``as_dict`` wrote it."""
        return cls(value["apiVersion"], value["kind"], value.get("namespace", ""), value["name"])

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


@dataclass(frozen=True, slots=True)
class Applied:
    """One object of the application: as it was before (None: not there), and as it is now."""

    resource: Resource
    before: Object | None
    after: Object

    @property
    def verb(self) -> str:
        """``created``, ``configured`` or ``unchanged``."""
        if self.before is None:
            return "created"
        same = (
            self.before["metadata"]["resourceVersion"] == self.after["metadata"]["resourceVersion"]
        )
        return "unchanged" if same else "configured"


@dataclass(slots=True)
class Outcome:
    """What a shipment has produced so far."""

    image: Object = field(default_factory=dict)
    inventory: list[Reference] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    proof: Proof | None = None
    steps: list[Step] = field(default_factory=list)
