"""When nothing holds a claim, a volume any longer.

Source: Kubernetes docs, "Persistent Volumes" (Storage Object in Use Protection).
"""

from __future__ import annotations

from collections.abc import Iterable

from underway.api.objects import Object, deleting
from underway.capabilities.storage.model import finished, phase_of, spec_of


def claim_in_use(pods: Iterable[Object]) -> bool:
    """Whether any of the pods that name a claim has it mounted or may mount it.

    A pod without a node cannot start on a claim that is being deleted, so it does not count.
    """
    return any(spec_of(pod).get("nodeName") and not finished(pod) for pod in pods)


def volume_in_use(volume: Object) -> bool:
    """Whether a claim is bound to the volume."""
    return phase_of(volume) == "Bound"


def needs_finalizer(obj: Object, finalizer: str) -> bool:
    """Whether an object that is to live has yet to be protected."""
    return not deleting(obj) and finalizer not in (obj["metadata"].get("finalizers") or ())
