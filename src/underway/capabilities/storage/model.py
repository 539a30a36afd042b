"""Reading claims, volumes and classes.

Source: Kubernetes docs, "Persistent Volumes", "Storage Classes", "Well-Known Labels, Annotations
and Taints".
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from underway.api import quantity
from underway.api.objects import (
    Object,
    annotations_of,
    key_of,
    meta,
    name_of,
    namespace_of,
    uid_of,
)

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
PROVISIONER = "volume.kubernetes.io/storage-provisioner"
PROVISIONER_BETA = "volume.beta.kubernetes.io/storage-provisioner"
CLASS_BETA = "volume.beta.kubernetes.io/storage-class"
IS_DEFAULT = "storageclass.kubernetes.io/is-default-class"
IS_DEFAULT_BETA = "storageclass.beta.kubernetes.io/is-default-class"
NO_PROVISIONER = "kubernetes.io/no-provisioner"

CLAIM_PROTECTION = "kubernetes.io/pvc-protection"
VOLUME_PROTECTION = "kubernetes.io/pv-protection"


def spec_of(obj: Object) -> Object:
    """``spec`` or an empty one; not to be written to."""
    return obj.get("spec") or {}


def phase_of(obj: Object) -> str:
    """``status.phase``, empty where none is set."""
    return str((obj.get("status") or {}).get("phase") or "")


def class_of(obj: Object) -> str | None:
    """The name of the class of a claim or volume: empty for "none", None where nothing is said."""
    beta = annotations_of(obj).get(CLASS_BETA)
    if beta is not None:
        return beta
    name = spec_of(obj).get("storageClassName")
    return None if name is None else str(name)


def mode_of(obj: Object) -> str:
    """``volumeMode`` of a claim or volume."""
    return str(spec_of(obj).get("volumeMode") or "Filesystem")


def access_modes_of(obj: Object) -> frozenset[str]:
    """The access modes that a claim asks for or a volume has."""
    return frozenset(spec_of(obj).get("accessModes") or ())


def requested(claim: Object) -> str:
    """The storage that a claim asks for, as a quantity."""
    resources = spec_of(claim).get("resources") or {}
    return str((resources.get("requests") or {}).get("storage") or "0")


def capacity(volume: Object) -> str:
    """The storage that a volume has, as a quantity."""
    return str((spec_of(volume).get("capacity") or {}).get("storage") or "0")


def size(text: str) -> Fraction:
    """A quantity's value; what is none counts as nothing."""
    try:
        return quantity.parse(text)
    except ValueError:
        return Fraction(0)


def claim_key(volume: Object) -> str:
    """``namespace/name`` of the claim that a volume is for, or empty."""
    reference = spec_of(volume).get("claimRef") or {}
    if not reference.get("name"):
        return ""
    return key_of(reference.get("namespace"), reference["name"])


def is_for(volume: Object, claim: Object) -> bool:
    """Whether a volume is kept for just this claim, be it by name alone."""
    reference = spec_of(volume).get("claimRef") or {}
    same = claim_key(volume) == key_of(namespace_of(claim), name_of(claim))
    return same and reference.get("uid") in (None, "", uid_of(claim))


def claim_reference(claim: Object) -> Object:
    """What a volume says of the claim it is for."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": namespace_of(claim),
        "name": name_of(claim),
        "uid": uid_of(claim),
        "resourceVersion": meta(claim).get("resourceVersion"),
    }


def is_default(storage_class: Object) -> bool:
    """Whether claims that name no class get this one."""
    notes = annotations_of(storage_class)
    return "true" in (notes.get(IS_DEFAULT), notes.get(IS_DEFAULT_BETA))


def waits_for_consumer(storage_class: Object | None) -> bool:
    """Whether claims of the class stay unbound until a pod that uses them has a node."""
    return (storage_class or {}).get("volumeBindingMode") == "WaitForFirstConsumer"


def ephemeral_claim(pod: Object, volume: Object) -> str:
    """The name of the claim behind a generic ephemeral volume."""
    return f"{name_of(pod)}-{volume['name']}"


def claims_of(pod: Object) -> Iterable[str]:
    """The keys of the claims a pod uses."""
    for volume in spec_of(pod).get("volumes") or ():
        if name := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
            yield key_of(namespace_of(pod), name)
        elif volume.get("ephemeral"):
            yield key_of(namespace_of(pod), ephemeral_claim(pod, volume))


def finished(pod: Object) -> bool:
    """Whether all of a pod's containers ended for good."""
    return phase_of(pod) in {"Succeeded", "Failed"}
