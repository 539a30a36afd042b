"""What a pod's claims mean for where it can run, and which volumes they are to get there.

A claim of a class that waits for its first consumer is bound only once a node is chosen; what can
serve it then narrows the nodes now.

Source: Kubernetes docs, "Storage Classes" (Volume binding mode, Allowed topologies), "Persistent
Volumes" (Access modes, Node affinity); upstream's plug-ins VolumeBinding, VolumeRestrictions and
VolumeZone for the messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from underway.api import placement, quantity, selectors
from underway.api.objects import (
    Object,
    annotations_of,
    controller_of,
    deleting,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    object_key,
    uid_of,
)

SELECTED_NODE = "volume.kubernetes.io/selected-node"
_BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
_CLASS_BETA = "volume.beta.kubernetes.io/storage-class"
_NO_PROVISIONER = ("", "kubernetes.io/no-provisioner")
_ZONES = (
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
)
_MANY_ZONES = "__"  # between the zones of one volume
NOT_FOUND = 'persistentvolumeclaim "{}" not found'
UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
NONE_AVAILABLE = "node(s) didn't find available persistent volumes to bind"
TAKEN = (
    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
)


@dataclass(frozen=True, slots=True)
class Delayed:
    """A claim to be bound where the pod goes: to one of ``volumes``, or to one that is made."""

    claim: Object
    volumes: tuple[Object, ...] = ()
    provisioned: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """What a pod's claims ask for.

    Attributes:
        affinities: node selectors, all of which the node must match.
        delayed: claims to be bound once the node is chosen.
        problem: why the pod can run nowhere now, or empty.
    """

    affinities: tuple[Object, ...] = ()
    delayed: tuple[Delayed, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Storage:
    """The cluster's claims, volumes and classes, as far as a pod needs them, by key or name.

    ``free`` holds the volumes that are for nobody; ``users`` the placed pods of each claim.
    """

    claims: Mapping[str, Object]
    volumes: Mapping[str, Object]
    classes: Mapping[str, Object]
    free: Sequence[Object] = ()
    users: Mapping[str, Sequence[str]] | None = None


def needs(namespace: str, names: Iterable[str], pod_uid: str, storage: Storage) -> Needs:
    """What the claims of one pod ask for."""
    affinities: list[Object] = []
    delayed: list[Delayed] = []
    for name in names:
        key = key_of(namespace, name)
        claim = storage.claims.get(key)
        if claim is None:
            return Needs(problem=NOT_FOUND.format(name))
        if why := _unusable(claim, key, pod_uid, storage):
            return Needs(problem=why)
        spec = claim.get("spec") or {}
        if _BIND_COMPLETED in annotations_of(claim):
            volume = storage.volumes.get(str(spec.get("volumeName") or ""))
            if volume is None:
                return Needs(problem=f'persistentvolume "{spec.get("volumeName")}" not found')
            affinities += _reach(volume)
            continue
        storage_class = storage.classes.get(_class_of(claim))
        waits = (storage_class or {}).get("volumeBindingMode") == "WaitForFirstConsumer"
        if not waits or spec.get("volumeName"):
            return Needs(problem=UNBOUND)
        assert storage_class is not None
        each = _delayed(claim, storage_class, storage.free)
        narrowed = _choice(each, storage_class)
        if narrowed is None:
            return Needs(problem=NONE_AVAILABLE)
        affinities += narrowed
        delayed.append(each)
    return Needs(tuple(affinities), tuple(delayed))


def assign(delayed: Iterable[Delayed], node: Object) -> dict[str, Object | None] | None:
    """Which volume each claim gets on a node, by the claim's key: None for one yet to be made.

    Smaller volumes go first. None where the node cannot serve all of them.
    """
    result: dict[str, Object | None] = {}
    taken: set[str] = set()
    for each in sorted(delayed, key=lambda d: _size(d.claim, "requests"), reverse=True):
        fitting = [
            volume
            for volume in each.volumes
            if name_of(volume) not in taken and _reachable(volume, node)
        ]
        if fitting:
            best = min(fitting, key=lambda v: (_size(v, "capacity"), name_of(v)))
            taken.add(name_of(best))
            result[object_key(each.claim)] = best
        elif each.provisioned:
            result[object_key(each.claim)] = None
        else:
            return None
    return result


def _unusable(claim: Object, key: str, pod_uid: str, storage: Storage) -> str:
    name = name_of(claim)
    if deleting(claim):
        return f'persistentvolumeclaim "{name}" is being deleted'
    if (claim.get("status") or {}).get("phase") == "Lost":
        return f'persistentvolumeclaim "{name}" has lost its persistentvolume "{_named(claim)}"'
    owner = controller_of(claim) or {}
    if owner.get("kind") == "Pod" and owner.get("uid") != pod_uid:
        return f'persistentvolumeclaim "{name}" belongs to another pod'
    alone = "ReadWriteOncePod" in ((claim.get("spec") or {}).get("accessModes") or ())
    users = (storage.users or {}).get(key) or ()
    if alone and any(user != pod_uid for user in users):
        return TAKEN
    return ""


def _named(claim: Object) -> str:
    return str((claim.get("spec") or {}).get("volumeName") or "")


def _class_of(obj: Object) -> str:
    beta = annotations_of(obj).get(_CLASS_BETA)
    return beta if beta is not None else str((obj.get("spec") or {}).get("storageClassName") or "")


def _delayed(claim: Object, storage_class: Object, free: Iterable[Object]) -> Delayed:
    spec = claim.get("spec") or {}
    chosen = selectors.from_object(spec.get("selector") or {})
    volumes = tuple(
        volume
        for volume in free
        if _fits(volume, claim) and chosen.matches(labels_of(volume)) and not deleting(volume)
    )
    if SELECTED_NODE in annotations_of(claim):
        volumes = ()
    provisioner = str(storage_class.get("provisioner") or "")
    provisioned = provisioner not in _NO_PROVISIONER and not spec.get("selector")
    return Delayed(claim, volumes, provisioned)


def _fits(volume: Object, claim: Object) -> bool:
    has, wants = volume.get("spec") or {}, claim.get("spec") or {}
    reserved = has.get("claimRef") or {}
    mine = (reserved.get("namespace"), reserved.get("name")) == (
        namespace_of(claim),
        name_of(claim),
    )
    return (
        (not reserved or (mine and reserved.get("uid") in (None, "", uid_of(claim))))
        and (volume.get("status") or {}).get("phase") not in ("Released", "Failed")
        and _class_of(volume) == _class_of(claim)
        and _size(volume, "capacity") >= _size(claim, "requests")
        and set(wants.get("accessModes") or ()) <= set(has.get("accessModes") or ())
        and (has.get("volumeMode") or "Filesystem") == (wants.get("volumeMode") or "Filesystem")
    )


def _size(obj: Object, side: str) -> Fraction:
    spec = obj.get("spec") or {}
    amounts = spec.get("capacity") if side == "capacity" else spec.get("resources", {}).get(side)
    try:
        return quantity.parse(str((amounts or {}).get("storage") or "0"))
    except ValueError:
        return Fraction(0)


def _choice(each: Delayed, storage_class: Object) -> list[Object] | None:
    """Node selectors that what can serve the claim comes to; None where nothing can.

    Terms of one selector are alternatives, as volumes are.
    """
    if selected := annotations_of(each.claim).get(SELECTED_NODE):
        # A volume is being made there.
        field = {"key": "metadata.name", "operator": "In", "values": [selected]}
        return [{"nodeSelectorTerms": [{"matchFields": [field]}]}]
    terms: list[Object] = []
    for volume in each.volumes:
        reach = _reach(volume)
        if not reach:
            return []
        if len(reach) > 1:
            continue  # an affinity and zones: `assign` looks at both
        terms += reach[0]["nodeSelectorTerms"]
    if each.provisioned:
        allowed = storage_class.get("allowedTopologies") or ()
        if not allowed:
            return []
        terms += [_topology_term(term) for term in allowed]
    elif any(len(_reach(volume)) > 1 for volume in each.volumes):
        return []
    return [{"nodeSelectorTerms": terms}] if terms else None


def _topology_term(term: Object) -> Object:
    wanted = term.get("matchLabelExpressions") or ()
    return {
        "matchExpressions": [
            {"key": each["key"], "operator": "In", "values": list(each["values"])}
            for each in wanted
        ]
    }


def _reach(volume: Object) -> list[Object]:
    """Node selectors of the places a volume can be used: its affinity, its zone labels."""
    affinity = ((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required")
    found = [affinity] if affinity else []
    labels = labels_of(volume)
    zones = [
        {"key": key, "operator": "In", "values": labels[key].split(_MANY_ZONES)}
        for key in _ZONES
        if key in labels
    ]
    if zones:
        found.append({"nodeSelectorTerms": [{"matchExpressions": zones}]})
    return found


def _reachable(volume: Object, node: Object) -> bool:
    return all(
        any(placement.matches_term(term, node) for term in each.get("nodeSelectorTerms") or ())
        for each in _reach(volume)
    )
