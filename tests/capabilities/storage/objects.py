"""Claims, volumes and the controllers that look after them."""

from __future__ import annotations

from typing import Any

from underway.api.objects import Object
from underway.capabilities.storage.controller import (
    binder,
    classes,
    ephemeral,
    protection,
    provisioner,
)

NS = "default"
ALL = (binder.add, provisioner.add, protection.add, ephemeral.add, classes.add)


def claim(name: str, storage: str = "1Gi", klass: str | None = None, **spec: Any) -> Object:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage}},
        **({} if klass is None else {"storageClassName": klass}),
        **spec,
    }
    header = {"name": name, "namespace": NS}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": header,
        "spec": spec,
    }


def volume(name: str, storage: str = "1Gi", klass: str = "", **spec: Any) -> Object:
    labels = spec.pop("labels", {})
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": storage},
        "storageClassName": klass,
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": f"/srv/{name}"},
        **spec,
    }
    header = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": header, "spec": spec}


def storage_class(
    name: str, provisioner_name: str = "kubernetes.io/no-provisioner", **fields: Any
) -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": provisioner_name,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
        **fields,
    }


def pod(name: str, *claims: str, **spec: Any) -> Object:
    volumes = [{"name": each, "persistentVolumeClaim": {"claimName": each}} for each in claims]
    spec = {"containers": [{"name": "c", "image": "app:1"}], "volumes": volumes, **spec}
    header = {"name": name, "namespace": NS}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": header, "spec": spec}


def phase(obj: Object | None) -> str:
    return str(((obj or {}).get("status") or {}).get("phase") or "")
