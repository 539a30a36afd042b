"""Directories as volumes: what their PersistentVolumes look like.

Source: Kubernetes API reference "LocalVolumeSource", "VolumeNodeAffinity".
"""

from __future__ import annotations

import re
from pathlib import Path

from underway.api.objects import Object, annotations_of, labels_of, name_of, namespace_of, uid_of
from underway.capabilities.storage.model import (
    IS_DEFAULT,
    PROVISIONED_BY,
    PROVISIONER,
    PROVISIONER_BETA,
    SELECTED_NODE,
    capacity,
    claim_reference,
    class_of,
    mode_of,
    phase_of,
    requested,
    size,
    spec_of,
    waits_for_consumer,
)

NAME = "underway.dev/local-path"
CLASS = "local-path"
HOSTNAME = "kubernetes.io/hostname"
_DIRECTORY = re.compile(r"pvc-[0-9a-f-]{36}_[a-z0-9-]{1,63}_[a-z0-9.-]{1,253}")
_NAME_BYTES_MAX = 255


def storage_class() -> Object:
    """The class that claims get that name none."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {IS_DEFAULT: "true"}},
        "provisioner": NAME,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }


def volume_name(claim: Object) -> str:
    """The name of the volume made for a claim."""
    return f"pvc-{uid_of(claim)}"


def directory(claim: Object) -> str:
    """The name of the directory made for a claim, as people can read it."""
    name = f"{volume_name(claim)}_{namespace_of(claim)}_{name_of(claim)}"
    return name[:_NAME_BYTES_MAX].rstrip(".")


def own_directory(volume: Object, base: Path) -> str | None:
    """The directory below ``base`` that is this volume's own.

    None for a path anywhere else: anyone who may write volumes can name any path, and what is
    removed must have been made here, for this very volume.
    """
    path = Path((spec_of(volume).get("local") or {}).get("path") or "/")
    mine = path.name.partition("_")[0] == name_of(volume)
    if path.parent != base or not mine or not _DIRECTORY.fullmatch(path.name):
        return None
    return path.name


def why_not(claim: Object) -> str:
    """Why a directory cannot be what the claim asks for; empty if it can."""
    if mode_of(claim) == "Block":
        return "a local directory cannot be a raw block device"
    if source := spec_of(claim).get("dataSourceRef") or spec_of(claim).get("dataSource"):
        return f"a local directory cannot be filled from a {source.get('kind', 'data source')}"
    return ""


def wanted(claim: Object, storage_class: Object | None) -> bool:
    """Whether a directory is to be made for a claim now."""
    notes = annotations_of(claim)
    return (
        (storage_class or {}).get("provisioner") == NAME
        and NAME in (notes.get(PROVISIONER), notes.get(PROVISIONER_BETA))
        and not spec_of(claim).get("volumeName")
        and phase_of(claim) in ("", "Pending")
        and (SELECTED_NODE in notes or not waits_for_consumer(storage_class))
    )


def volume(claim: Object, storage_class: Object, path: Path, node: Object) -> Object:
    """The volume of a directory on a node."""
    hostname = labels_of(node).get(HOSTNAME) or name_of(node)
    term = {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [hostname]}]}
    spec: Object = {
        "capacity": {"storage": requested(claim)},
        "accessModes": list(spec_of(claim).get("accessModes") or ()),
        "claimRef": claim_reference(claim),
        "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy") or "Delete",
        "storageClassName": class_of(claim),
        "volumeMode": "Filesystem",
        "local": {"path": str(path)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
    }
    if options := storage_class.get("mountOptions"):
        spec["mountOptions"] = list(options)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume_name(claim), "annotations": {PROVISIONED_BY: NAME}},
        "spec": spec,
    }


def grown(claim: Object, bound: Object, storage_class: Object | None) -> str | None:
    """The size that a bound claim is to have now; None where it stays as it is."""
    if (storage_class or {}).get("provisioner") != NAME or phase_of(claim) != "Bound":
        return None
    if not (storage_class or {}).get("allowVolumeExpansion"):
        return None
    has = str(((claim.get("status") or {}).get("capacity") or {}).get("storage") or "0")
    wants = requested(claim)
    if size(wants) > size(has) or size(wants) > size(capacity(bound)):
        return wants
    return None
