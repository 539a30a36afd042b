"""Which claim gets which volume, and what becomes of both.

Source: Kubernetes docs, "Persistent Volumes" (Binding, Reclaiming, Phase, Reserving), "Storage
Classes" (Volume binding mode). The events' reasons are upstream's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from underway.api import selectors
from underway.api.objects import Object, annotations_of, deleting, labels_of, name_of, uid_of
from underway.capabilities.storage.model import (
    BIND_COMPLETED,
    BOUND_BY_CONTROLLER,
    NO_PROVISIONER,
    PROVISIONED_BY,
    SELECTED_NODE,
    access_modes_of,
    capacity,
    claim_key,
    class_of,
    is_default,
    is_for,
    mode_of,
    phase_of,
    requested,
    size,
    spec_of,
    waits_for_consumer,
)


@dataclass(frozen=True, slots=True)
class Bind:
    """The claim gets this volume."""

    volume: Object


@dataclass(frozen=True, slots=True)
class Provision:
    """A volume is to be made by this provisioner."""

    provisioner: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The claim stays unbound; ``reason`` and ``message`` make an event where there is a reason."""

    reason: str = ""
    message: str = ""
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """The claim's volume is gone for good."""

    reason: str
    message: str


Decision = Bind | Provision | Wait | Lost


@dataclass(frozen=True)
class Offer:
    """What there is for one claim.

    Attributes:
        named: the volume that ``spec.volumeName`` names, if it exists.
        reserved: volumes whose ``claimRef`` names the claim.
        free: volumes of the claim's class that are for nobody.
        storage_class: the claim's class, if it exists.
        consumers: names of pods that use the claim.
    """

    named: Object | None = None
    reserved: Sequence[Object] = ()
    free: Sequence[Object] = ()
    storage_class: Object | None = None
    consumers: Sequence[str] = ()


def misfit(volume: Object, claim: Object) -> str:
    """Why a volume cannot serve a claim, whatever it is reserved for; empty if it can."""
    if size(capacity(volume)) < size(requested(claim)):
        return "requested PV is too small"
    if mode_of(volume) != mode_of(claim):
        return "incompatible volumeMode"
    if not access_modes_of(claim) <= access_modes_of(volume):
        return "incompatible accessMode"
    if (class_of(volume) or "") != (class_of(claim) or ""):
        return "storageClassName does not match"
    return ""


def best(claim: Object, free: Iterable[Object]) -> Object | None:
    """The smallest volume that is for nobody and fits the claim."""
    chosen = selectors.from_object(spec_of(claim).get("selector") or {})
    fitting = [
        volume
        for volume in free
        if not claim_key(volume)
        and not deleting(volume)
        and phase_of(volume) not in {"Released", "Failed"}
        and not misfit(volume, claim)
        and chosen.matches(labels_of(volume))
    ]
    return min(fitting, key=lambda each: (size(capacity(each)), name_of(each)), default=None)


def decide(claim: Object, offer: Offer) -> Decision:
    """The next step for a claim."""
    name = spec_of(claim).get("volumeName")
    if BIND_COMPLETED in annotations_of(claim):
        return _bound(claim, offer.named)
    if name:
        return _asked_for(claim, str(name), offer.named)
    for volume in offer.reserved:
        if is_for(volume, claim) and not deleting(volume) and not misfit(volume, claim):
            return Bind(volume)
    if waits_for_consumer(offer.storage_class) and SELECTED_NODE not in annotations_of(claim):
        return _waiting(offer.consumers)
    found = best(claim, () if waits_for_consumer(offer.storage_class) else offer.free)
    if found is not None:
        return Bind(found)
    return _made(claim, offer.storage_class)


def _bound(claim: Object, volume: Object | None) -> Decision:
    if not spec_of(claim).get("volumeName"):
        return Lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        )
    if volume is None:
        return Lost(
            "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
        )
    if claim_key(volume) and not is_for(volume, claim):
        return Lost(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        )
    return Bind(volume)


def _asked_for(claim: Object, name: str, volume: Object | None) -> Decision:
    if volume is None:
        return Wait()
    if claim_key(volume) and not is_for(volume, claim):
        return Wait("FailedBinding", f'volume "{name}" already bound to a different claim.', True)
    if why := misfit(volume, claim):
        return Wait("VolumeMismatch", f'Cannot bind to requested volume "{name}": {why}', True)
    return Bind(volume)


def _waiting(consumers: Sequence[str]) -> Wait:
    if consumers:
        return Wait(
            "WaitForPodScheduled", f"waiting for pod {', '.join(consumers)} to be scheduled"
        )
    return Wait("WaitForFirstConsumer", "waiting for first consumer to be created before binding")


def _made(claim: Object, storage_class: Object | None) -> Decision:
    name = class_of(claim)
    if not name:
        return Wait(
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        )
    if storage_class is None:
        return Wait("ProvisioningFailed", f'storageclass.storage.k8s.io "{name}" not found', True)
    provisioner = str(storage_class.get("provisioner") or "")
    if provisioner in ("", NO_PROVISIONER):
        return Wait("FailedBinding", "no persistent volumes available for this claim")
    if spec_of(claim).get("selector"):
        return Wait("ProvisioningFailed", "claim.Spec.Selector is not supported", True)
    return Provision(provisioner)


def default_class(classes: Iterable[Object]) -> str | None:
    """The class of claims that name none: of several default ones the newest."""
    found = [each for each in classes if is_default(each) and not deleting(each)]
    # Newest first, then by name.
    found.sort(key=name_of)
    found.sort(key=lambda each: str(each["metadata"].get("creationTimestamp") or ""), reverse=True)
    return name_of(found[0]) if found else None


@dataclass(frozen=True, slots=True)
class Standing:
    """What a volume's status is to say, and whether it is to be set free."""

    phase: str
    message: str = ""
    free: bool = False


def standing(volume: Object, claim: Object | None) -> Standing:
    """Where a volume stands.

    Args:
        volume: the volume.
        claim: the claim that its ``claimRef`` names, if it exists.
    """
    reference = spec_of(volume).get("claimRef") or {}
    if not claim_key(volume) or not reference.get("uid"):
        return Standing("Available")
    if claim is None or uid_of(claim) != reference["uid"]:
        return _released(volume)
    bound_to = spec_of(claim).get("volumeName")
    if bound_to == name_of(volume):
        return Standing("Bound")
    if not bound_to:
        # Half of a binding: the claim's own turn completes it.
        return Standing("Available" if phase_of(volume) != "Bound" else "Bound")
    notes = annotations_of(volume)
    if PROVISIONED_BY in notes and spec_of(volume).get("persistentVolumeReclaimPolicy") == "Delete":
        return Standing("Released")
    if BOUND_BY_CONTROLLER in notes:
        return Standing("Available", free=True)
    return Standing("Available")


def _released(volume: Object) -> Standing:
    policy = spec_of(volume).get("persistentVolumeReclaimPolicy") or "Retain"
    if policy == "Retain":
        return Standing("Released")
    if policy == "Recycle":
        return Standing("Failed", "the reclaim policy Recycle is not supported; use Delete")
    if PROVISIONED_BY in annotations_of(volume):
        return Standing("Released")
    return Standing(
        "Failed", "error getting deleter volume plugin: no deletable volume plugin matched"
    )
