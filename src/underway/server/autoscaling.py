"""HorizontalPodAutoscalers under two APIs: autoscaling/v2, in which they are stored, and v1.

What v1 has no field for travels in annotations, so that nothing is lost by a client of v1.
Source: kubernetes/api autoscaling/v1 ``types.go``, autoscaling ``annotations.go``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from underway.api.objects import Object
from underway.base.errors import BadRequest

_PREFIX = "autoscaling.alpha.kubernetes.io"
_METRICS = f"{_PREFIX}/metrics"
_BEHAVIOR = f"{_PREFIX}/behavior"
_CONDITIONS = f"{_PREFIX}/conditions"
_CURRENT = f"{_PREFIX}/current-metrics"
_KEPT = ("observedGeneration", "lastScaleTime", "currentReplicas", "desiredReplicas")


def to_v1(scaler: Object) -> Object:
    """A stored autoscaler as autoscaling/v1 shows it."""
    spec, status = dict(scaler.get("spec") or {}), scaler.get("status") or {}
    metadata = dict(scaler.get("metadata") or {})
    annotations = dict(metadata.get("annotations") or {})
    metrics = spec.pop("metrics", None) or []
    first = next((metric for metric in metrics if _cpu_percent(metric) is not None), None)
    if first is not None:
        spec["targetCPUUtilizationPercentage"] = _cpu_percent(first)
    rest = [metric for metric in metrics if metric is not first]
    current = status.get("currentMetrics") or []
    for name, value in (
        (_METRICS, rest),
        (_BEHAVIOR, spec.pop("behavior", None)),
        (_CONDITIONS, status.get("conditions")),
        (_CURRENT, current),
    ):
        if value:
            annotations[name] = msgspec.json.encode(value).decode()
    if annotations:
        metadata["annotations"] = annotations
    shown: Object = {name: status[name] for name in _KEPT if name in status}
    percents = [p for p in (_cpu_percent(metric, "current") for metric in current) if p is not None]
    if percents:
        shown["currentCPUUtilizationPercentage"] = percents[0]
    version = {"apiVersion": "autoscaling/v1"}
    return {**scaler, **version, "metadata": metadata, "spec": spec, "status": shown}


def to_v2(scaler: Object) -> Object:
    """An autoscaling/v1 autoscaler as it is stored.

    Raises:
        BadRequest: an annotation that stands for fields of v2 is no JSON.
    """
    spec, status = dict(scaler.get("spec") or {}), scaler.get("status") or {}
    metadata = dict(scaler.get("metadata") or {})
    annotations = dict(metadata.get("annotations") or {})
    metrics = _taken(annotations, _METRICS) or []
    percent = spec.pop("targetCPUUtilizationPercentage", None)
    if percent is not None:
        target = {"type": "Utilization", "averageUtilization": percent}
        resource = {"name": "cpu", "target": target}
        metrics = [{"type": "Resource", "resource": resource}, *metrics]
    if metrics:
        spec["metrics"] = metrics
    behavior = _taken(annotations, _BEHAVIOR)
    if behavior:
        spec["behavior"] = behavior
    stored: Object = {name: status[name] for name in _KEPT if name in status}
    for field, name in (("conditions", _CONDITIONS), ("currentMetrics", _CURRENT)):
        value = _taken(annotations, name)
        if value:
            stored[field] = value
    if annotations:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)
    version = {"apiVersion": "autoscaling/v2"}
    return {**scaler, **version, "metadata": metadata, "spec": spec, "status": stored}


def _cpu_percent(metric: Object, side: str = "target") -> int | None:
    source = metric.get("resource") or {}
    if metric.get("type") != "Resource" or source.get("name") != "cpu":
        return None
    found = (source.get(side) or {}).get("averageUtilization")
    return found if isinstance(found, int) else None


def _taken(annotations: dict[str, str], name: str) -> Any:
    text = annotations.pop(name, None)
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise BadRequest(f"metadata.annotations[{name}]: {error}") from error
