"""Rows of nodes, events, configuration, storage, access and cluster objects.

Source: Kubernetes ``pkg/printers/internalversion/printers.go``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from underway.api.objects import Object, find_condition
from underway.api.tables.columns import (
    AGE,
    NAME,
    NONE,
    UNSET,
    Cells,
    Column,
    Layout,
    age,
    joined,
    name_of,
    spec_of,
    status_of,
    wide,
)
from underway.api.tables.durations import UNKNOWN, since

_ROLE_PREFIX = "node-role.kubernetes.io/"
_MODES = {
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOnce": "RWO",
    "ReadWriteOncePod": "RWOP",
}
_RBAC = "rbac.authorization.k8s.io"


def _metadata(obj: Object) -> Object:
    return obj.get("metadata") or {}


def _namespace(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), status_of(obj).get("phase") or "", age(obj, now)]


def _config_map(obj: Object, now: datetime) -> list[Any]:
    count = len(obj.get("data") or {}) + len(obj.get("binaryData") or {})
    return [name_of(obj), count, age(obj, now)]


def _secret(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), obj.get("type") or "", len(obj.get("data") or {}), age(obj, now)]


def _service_account(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), len(obj.get("secrets") or ()), age(obj, now)]


def _node(obj: Object, now: datetime) -> list[Any]:
    status = status_of(obj)
    ready = find_condition(status.get("conditions"), "Ready")
    states = ["Unknown" if ready is None else "NotReady"]
    if ready and ready.get("status") == "True":
        states = ["Ready"]
    if spec_of(obj).get("unschedulable"):
        states.append("SchedulingDisabled")
    info = status.get("nodeInfo") or {}
    return [
        name_of(obj),
        ",".join(states),
        joined(_roles(_metadata(obj).get("labels") or {})),
        age(obj, now),
        info.get("kubeletVersion") or "",
        _address(status, "InternalIP"),
        _address(status, "ExternalIP"),
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]


def _roles(labels: dict[str, str]) -> list[str]:
    roles = {key.removeprefix(_ROLE_PREFIX) for key in labels if key.startswith(_ROLE_PREFIX)}
    roles.add(labels.get("kubernetes.io/role", ""))
    return sorted(roles - {""})


def _address(status: Object, kind: str) -> str:
    for address in status.get("addresses") or ():
        if address.get("type") == kind:
            return str(address.get("address"))
    return NONE


def _event(obj: Object, now: datetime) -> list[Any]:
    about = obj.get("involvedObject") or obj.get("regarding") or {}
    first = _seen((obj.get("firstTimestamp"), obj.get("eventTime")), now)
    last = _seen((obj.get("lastTimestamp"), obj.get("deprecatedLastTimestamp")), now)
    count = obj.get("count") or obj.get("deprecatedCount") or 1
    series = obj.get("series")
    if series:
        last, count = since(series.get("lastObservedTime"), now), series.get("count") or count
    elif last == UNKNOWN:
        last = first
    source = obj.get("source") or obj.get("deprecatedSource") or {}
    component = source.get("component") or obj.get("reportingComponent")
    component = component or obj.get("reportingController") or ""
    host = source.get("host") or ("" if source else obj.get("reportingInstance")) or ""
    return [
        last,
        obj.get("type") or "",
        obj.get("reason") or "",
        f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        about.get("fieldPath") or "",
        f"{component}, {host}" if host else component,
        str(obj.get("message") or obj.get("note") or "").strip(),
        first,
        count,
        name_of(obj),
    ]


def _seen(moments: Iterable[object], now: datetime) -> str:
    return next((since(moment, now) for moment in moments if moment), UNKNOWN)


def _lease(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), spec_of(obj).get("holderIdentity") or "", age(obj, now)]


def _modes(modes: Iterable[str] | None) -> str:
    return ",".join(_MODES.get(mode, mode) for mode in dict.fromkeys(modes or ()))


def _phase(obj: Object) -> str:
    if _metadata(obj).get("deletionTimestamp"):
        return "Terminating"
    return str(status_of(obj).get("phase") or "")


def _volume(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    claim = spec.get("claimRef")
    return [
        name_of(obj),
        (spec.get("capacity") or {}).get("storage") or "",
        _modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy") or "",
        _phase(obj),
        f"{claim.get('namespace')}/{claim.get('name')}" if claim else "",
        spec.get("storageClassName") or "",
        spec.get("volumeAttributesClassName") or UNSET,
        status.get("reason") or "",
        age(obj, now),
        spec.get("volumeMode") or UNSET,
    ]


def _claim(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    bound = bool(spec.get("volumeName"))
    return [
        name_of(obj),
        _phase(obj),
        spec.get("volumeName") or "",
        (status.get("capacity") or {}).get("storage") or "" if bound else "",
        _modes(status.get("accessModes")) if bound else "",
        spec.get("storageClassName") or "",
        spec.get("volumeAttributesClassName") or UNSET,
        age(obj, now),
        spec.get("volumeMode") or UNSET,
    ]


def _storage_class(obj: Object, now: datetime) -> list[Any]:
    annotations = _metadata(obj).get("annotations") or {}
    default = annotations.get("storageclass.kubernetes.io/is-default-class") == "true"
    return [
        f"{name_of(obj)} (default)" if default else name_of(obj),
        obj.get("provisioner") or "",
        obj.get("reclaimPolicy") or "Delete",
        obj.get("volumeBindingMode") or UNSET,
        bool(obj.get("allowVolumeExpansion")),
        age(obj, now),
    ]


def _quota(obj: Object, now: datetime) -> list[Any]:
    status = status_of(obj)
    used = status.get("used") or {}
    requests: list[str] = []
    limits: list[str] = []
    for name, amount in sorted((status.get("hard") or spec_of(obj).get("hard") or {}).items()):
        shown = f"{name}: {used.get(name, '0')}/{amount}"
        (limits if name.startswith("limits.") else requests).append(shown)
    return [name_of(obj), ", ".join(requests), ", ".join(limits), age(obj, now)]


def _created(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), _metadata(obj).get("creationTimestamp") or UNKNOWN]


def _binding(obj: Object, now: datetime) -> list[Any]:
    reference, subjects = obj.get("roleRef") or {}, obj.get("subjects") or []

    def of_kind(kind: str) -> str:
        return ", ".join(
            f"{each.get('namespace', '')}/{each['name']}"
            if kind == "ServiceAccount"
            else each.get("name", "")
            for each in subjects
            if each.get("kind") == kind
        )

    return [
        name_of(obj),
        f"{reference.get('kind', '')}/{reference.get('name', '')}",
        age(obj, now),
        of_kind("User"),
        of_kind("Group"),
        of_kind("ServiceAccount"),
    ]


def _priority_class(obj: Object, now: datetime) -> list[Any]:
    return [
        name_of(obj),
        obj.get("value") or 0,
        bool(obj.get("globalDefault")),
        age(obj, now),
        obj.get("preemptionPolicy") or UNSET,
    ]


def _runtime_class(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), obj.get("handler") or "", age(obj, now)]


_CREATED_AT = Layout(
    (NAME, Column("Created At", "date", "When the object was created")),
    _created,
)
_BINDING_COLUMNS = (
    NAME,
    Column("Role", description="The role it grants"),
    AGE,
    wide("Users", description="Users it grants it to"),
    wide("Groups", description="Groups it grants it to"),
    wide("ServiceAccounts", description="Service accounts it grants it to"),
)
_EVENT_COLUMNS = (
    Column("Last Seen", description="Time since it last happened"),
    Column("Type", description="Normal or Warning"),
    Column("Reason", description="Why, in one word"),
    Column("Object", description="What it is about"),
    wide("Subobject", description="The part it is about"),
    wide("Source", description="Who reports it"),
    Column("Message", description="What happened"),
    wide("First Seen", description="Time since it first happened"),
    wide("Count", "string", "How often it happened"),
    wide("Name", description="The event's own name"),
)


def _layout(cells: Cells, *between: Column) -> Layout:
    return Layout((NAME, *between, AGE), cells)


LAYOUTS = {
    ("", "Namespace"): _layout(_namespace, Column("Status", description="Active or Terminating")),
    ("", "ConfigMap"): _layout(_config_map, Column("Data", description="How many keys")),
    ("", "Secret"): _layout(
        _secret,
        Column("Type", description="What it holds"),
        Column("Data", description="How many keys"),
    ),
    ("", "ServiceAccount"): _layout(
        _service_account, Column("Secrets", description="How many secrets it refers to")
    ),
    ("", "Node"): Layout(
        (
            NAME,
            Column("Status", description="Whether it is ready and takes pods"),
            Column("Roles", description="Its roles"),
            AGE,
            Column("Version", description="Its agent's version"),
            wide("Internal-IP", description="Its address inside"),
            wide("External-IP", description="Its address outside"),
            wide("OS-Image", description="Its operating system"),
            wide("Kernel-Version", description="Its kernel"),
            wide("Container-Runtime", description="What runs its containers"),
        ),
        _node,
    ),
    ("", "Event"): Layout(_EVENT_COLUMNS, _event),
    ("events.k8s.io", "Event"): Layout(_EVENT_COLUMNS, _event),
    ("coordination.k8s.io", "Lease"): _layout(_lease, Column("Holder", description="Who holds it")),
    ("", "PersistentVolume"): Layout(
        (
            NAME,
            Column("Capacity", description="Its size"),
            Column("Access Modes", description="How it may be mounted"),
            Column("Reclaim Policy", description="What becomes of it when its claim goes"),
            Column("Status", description="Its phase"),
            Column("Claim", description="The claim it is bound to"),
            Column("StorageClass", description="Its class"),
            Column("VolumeAttributesClass", description="Its attributes' class"),
            Column("Reason", description="Why it is in its phase"),
            AGE,
            wide("VolumeMode", description="Filesystem or Block"),
        ),
        _volume,
    ),
    ("", "PersistentVolumeClaim"): Layout(
        (
            NAME,
            Column("Status", description="Its phase"),
            Column("Volume", description="The volume it is bound to"),
            Column("Capacity", description="The volume's size"),
            Column("Access Modes", description="How it may be mounted"),
            Column("StorageClass", description="Its class"),
            Column("VolumeAttributesClass", description="Its attributes' class"),
            AGE,
            wide("VolumeMode", description="Filesystem or Block"),
        ),
        _claim,
    ),
    ("storage.k8s.io", "StorageClass"): _layout(
        _storage_class,
        Column("Provisioner", description="What makes its volumes"),
        Column("ReclaimPolicy", description="What becomes of volumes"),
        Column("VolumeBindingMode", description="When claims are bound"),
        Column("AllowVolumeExpansion", description="Whether volumes can grow"),
    ),
    ("", "ResourceQuota"): _layout(
        _quota,
        Column("Request", description="Used and allowed"),
        Column("Limit", description="Limits used and allowed"),
    ),
    ("", "LimitRange"): _CREATED_AT,
    (_RBAC, "Role"): _CREATED_AT,
    (_RBAC, "ClusterRole"): _CREATED_AT,
    (_RBAC, "RoleBinding"): Layout(_BINDING_COLUMNS, _binding),
    (_RBAC, "ClusterRoleBinding"): Layout(_BINDING_COLUMNS, _binding),
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _CREATED_AT,
    ("scheduling.k8s.io", "PriorityClass"): Layout(
        (
            NAME,
            Column("Value", "integer", "The priority"),
            Column("Global-Default", "boolean", "Whether pods without a class get it"),
            AGE,
            Column("PreemptionPolicy", description="Whether it may evict others"),
        ),
        _priority_class,
    ),
    ("node.k8s.io", "RuntimeClass"): _layout(
        _runtime_class, Column("Handler", description="The runtime's name at the node")
    ),
}
