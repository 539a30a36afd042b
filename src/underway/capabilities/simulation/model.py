"""Stages: which objects they are about, when, and what they do to them.

Source: kwok documentation, "Stages Configuration" and API reference, kwok.x-k8s.io/v1alpha1.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from underway.api.objects import Object, name_of
from underway.api.resources import Resource
from underway.base.errors import Invalid

STAGES = Resource("kwok.x-k8s.io", "v1alpha1", "stages", "Stage", namespaced=False)
SIMULATED = "kwok.x-k8s.io/node"  # annotation of the nodes that are simulated
FAKE = "fake"  # its value
GROUP = "simulation.underway.dev/group"  # label: which nodes were made together


def is_simulated(node: Object) -> bool:
    """Whether a node has nobody but the Stages to tell its status."""
    annotations: Mapping[str, str] = node["metadata"].get("annotations") or {}
    return annotations.get(SIMULATED) == FAKE


def node_object(
    name: str, *, cpu: str = "32", memory: str = "256Gi", pods: str = "110", group: str = ""
) -> Object:
    """A Node that is simulated."""
    amounts = {"cpu": cpu, "memory": memory, "ephemeral-storage": "256Gi", "pods": pods}
    machine = platform.machine()
    labels = {
        "kubernetes.io/arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "type": "kwok",
    }
    if group:
        labels[GROUP] = group
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {SIMULATED: FAKE}},
        "status": {"capacity": amounts, "allocatable": dict(amounts)},
    }


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression in jq or CEL; one of the two is empty."""

    jq: str = ""
    cel: str = ""


@dataclass(frozen=True, slots=True)
class Requirement:
    """What must hold of an object; for CEL the operator is empty."""

    expression: Expression
    operator: str = ""
    values: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Selector:
    """All of it must hold."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    requirements: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class Amount:
    """A number given, or found in the object; the number is for objects that have none."""

    given: int | None = None
    source: Expression | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One Stage. ``selector`` None matches nothing; durations are in milliseconds."""

    name: str
    api_version: str
    kind: str
    selector: Selector | None
    weight: Amount
    delay_ms: Amount | None
    jitter_ms: Amount | None
    steps: tuple[Mapping[str, Any], ...]
    immediate: bool = False
    key: str = field(default="", compare=False)


def stage_of(obj: Object) -> Stage:
    """The Stage an object describes.

    Raises:
        Invalid: it names an operator or a combination that does not exist.
    """
    spec = obj.get("spec") or {}
    reference, delay = spec.get("resourceRef") or {}, spec.get("delay")
    duration = jitter = None
    if delay is not None:
        duration = _amount(delay, "durationMilliseconds", "durationFrom")
        if "jitterDurationMilliseconds" in delay or "jitterDurationFrom" in delay:
            jitter = _amount(delay, "jitterDurationMilliseconds", "jitterDurationFrom")
    return Stage(
        name_of(obj),
        reference.get("apiGroup") or "v1",
        reference.get("kind") or "",
        _selector(spec.get("selector"), name_of(obj)),
        _amount({"weight": 0, **spec}, "weight", "weightFrom"),
        duration,
        jitter,
        tuple(spec.get("steps") or _steps(spec.get("next") or {})),
        bool(spec.get("immediateNextStage")),
    )


def _selector(selector: Object | None, name: str) -> Selector | None:
    if selector is None:
        return None
    return Selector(
        selector.get("matchLabels") or {},
        selector.get("matchAnnotations") or {},
        tuple(_requirement(each, name) for each in selector.get("matchExpressions") or ()),
    )


def _requirement(written: Object, name: str) -> Requirement:
    if cel := written.get("cel"):
        return Requirement(Expression(cel=cel.get("expression") or ""))
    written = written.get("jq") or written
    operator, values = written.get("operator") or "", frozenset(written.get("values") or ())
    if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
        raise Invalid(
            f"stage {name}: spec.selector.matchExpressions: operator {operator!r} is not known",
            hint="use In, NotIn, Exists or DoesNotExist",
        )
    if bool(values) != (operator in ("In", "NotIn")):
        wanted = "needs values" if operator in ("In", "NotIn") else "takes no values"
        raise Invalid(f"stage {name}: spec.selector.matchExpressions: {operator} {wanted}")
    return Requirement(Expression(jq=written.get("key") or ""), operator, values)


def _amount(holder: Object, given: str, source: str) -> Amount:
    written = holder.get(source) or {}
    found: Expression | None = None
    if cel := written.get("cel"):
        found = Expression(cel=cel.get("expression") or "")
    elif jq := written.get("jq"):
        found = Expression(jq=jq.get("expression") or "")
    elif text := written.get("expressionFrom"):
        found = Expression(jq=text)
    return Amount(holder.get(given), found)


def _steps(following: Object) -> list[Mapping[str, Any]]:
    """The steps that the older ``next`` means."""
    found: list[Mapping[str, Any]] = [
        {name: following[name]} for name in ("event", "finalizers") if following.get(name)
    ]
    if patches := following.get("patches"):
        found += [{"patch": each} for each in patches]
    elif template := following.get("statusTemplate"):
        patch = {
            "subresource": following.get("statusSubresource", "status"),
            "root": "status",
            "template": template,
            "impersonation": following.get("statusPatchAs"),
        }
        found.append({"patch": patch})
    if following.get("delete"):
        found.append({"delete": True})
    return found
