"""Reading workload objects: pods, replica counts, templates.

Source: Kubernetes API reference 1.32 (PodStatus, IntOrString).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from datetime import datetime

import msgspec

from underway.api.objects import Object, deleting, find_condition, meta
from underway.base.clock import parse_rfc3339
from underway.base.ids import safe_encode

POD_TEMPLATE_HASH = "pod-template-hash"


def spec_of(obj: Object) -> Object:
    """``spec`` or an empty one; not to be written to."""
    return obj.get("spec") or {}


def status_of(obj: Object) -> Object:
    """``status`` or an empty one; not to be written to."""
    return obj.get("status") or {}


def replicas_of(obj: Object) -> int:
    """``spec.replicas``, by default 1."""
    value = spec_of(obj).get("replicas")
    return 1 if value is None else int(value)


def count(obj: Object, name: str) -> int:
    """A number in ``status``, by default 0."""
    return int(status_of(obj).get(name) or 0)


def created_at(obj: Object) -> str:
    """``creationTimestamp`` as its text, which sorts by time."""
    return str(meta(obj).get("creationTimestamp") or "")


def phase(pod: Object) -> str:
    """The pod's phase, ``Pending`` where none is set."""
    return str(status_of(pod).get("phase") or "Pending")


def finished(pod: Object) -> bool:
    """Whether all containers ended for good."""
    return phase(pod) in {"Succeeded", "Failed"}


def active(pod: Object) -> bool:
    """Neither finished nor being deleted."""
    return not finished(pod) and not deleting(pod)


def ready_since(pod: Object) -> datetime | None:
    """Since when the pod is Ready, if it is."""
    condition = find_condition(status_of(pod).get("conditions"), "Ready")
    if condition is None or condition.get("status") != "True":
        return None
    text = condition.get("lastTransitionTime")
    return parse_rfc3339(text or created_at(pod) or "1970-01-01T00:00:00Z")


def is_ready(pod: Object) -> bool:
    """Whether the pod's Ready condition is true."""
    return ready_since(pod) is not None


def available_in_s(pod: Object, min_ready_s: int, now: datetime) -> float | None:
    """Seconds until the pod counts as available: 0 when it does, None while it is not Ready."""
    since = ready_since(pod)
    if since is None:
        return None
    return max(0.0, min_ready_s - (now - since).total_seconds())


def restarts(pod: Object) -> int:
    """Restarts of all its containers."""
    statuses = status_of(pod).get("containerStatuses") or ()
    return sum(int(each.get("restartCount") or 0) for each in statuses)


def resolve(value: int | str | None, total: int, *, up: bool) -> int:
    """An ``IntOrString``: a number, or a percentage of ``total`` rounded up or down."""
    if value is None:
        return 0
    if isinstance(value, str) and value.endswith("%"):
        exact = int(value[:-1]) * total / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(value)


def template_hash(template: Object, collisions: int = 0) -> str:
    """A short stable name for a pod template, in the characters of generated names."""
    data = msgspec.json.encode(template, order="sorted")
    if collisions:
        data += str(collisions).encode()
    return safe_encode(str(zlib.crc32(data)))


def pod_from_template(owner: Object, template: Object, reference: Object) -> Object:
    """A pod as ``owner``'s template describes it, controlled by ``owner``; it has no name yet."""
    header = template.get("metadata") or {}
    metadata: Object = {
        "generateName": f"{meta(owner)['name']}-",
        "namespace": meta(owner)["namespace"],
        "ownerReferences": [reference],
    }
    for name in ("labels", "annotations", "finalizers"):
        if header.get(name):
            metadata[name] = (
                list(header[name]) if isinstance(header[name], list) else dict(header[name])
            )
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": msgspec.json.decode(msgspec.json.encode(template.get("spec") or {})),
    }


def oldest_first(objects: Iterable[Object]) -> list[Object]:
    """By creation, then by name."""
    return sorted(objects, key=lambda obj: (created_at(obj), meta(obj).get("name", "")))
