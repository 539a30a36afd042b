"""LimitRanger: what containers, pods and claims ask for when they say nothing, at least, at most.

Source: Kubernetes "Limit Ranges"; kubernetes ``plugin/pkg/admission/limitranger``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

from underway.api import qos, quantity
from underway.api.objects import Object, meta
from underway.base.errors import Forbidden
from underway.server.admission.write import CREATE, Write
from underway.server.call import refused
from underway.server.store import Store

_ANNOTATION = "kubernetes.io/limit-ranger"
_SIDES = (("defaultRequest", "requests", "request"), ("default", "limits", "limit"))
Amounts = dict[str, str]


class LimitRanger:
    """Applies a namespace's LimitRanges."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def fill(self, write: Write) -> None:
        """Give a new pod's containers the defaults of its namespace, in place."""
        pod = write.new
        if write.served.storage != "pods" or pod is None:
            return
        for limits in self._limits(write.namespace):
            said = list(_fill_pod(pod["spec"], limits))
            if said:
                text = f"LimitRanger plugin set: {'; '.join(said)}"
                meta(pod).setdefault("annotations", {})[_ANNOTATION] = text

    def check(self, write: Write) -> None:
        """Whether what is asked for lies within the namespace's bounds.

        Raises:
            Forbidden: it does not.
        """
        storage, new = write.served.storage, write.new
        assert new is not None
        if storage == "pods" and write.operation == CREATE:
            check = _pod_problems
        elif storage == "persistentvolumeclaims":
            check = _claim_problems
        else:
            return
        for limits in self._limits(write.namespace):
            problems = list(check(new.get("spec") or {}, limits))
            if problems:
                why = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
                raise refused(Forbidden, write.served, write.name, why)

    def _limits(self, namespace: str) -> Iterator[list[Object]]:
        for row in self._store.rows("limitranges", namespace):
            yield (row.decode().get("spec") or {}).get("limits") or []


def _fill_pod(spec: Object, limits: Iterable[Object]) -> Iterator[str]:
    """Set what containers leave open; says what was set, for the pod's annotation."""
    defaults: dict[str, Amounts] = {"requests": {}, "limits": {}}
    for limit in limits:
        if limit.get("type") == "Container":
            for field, side, _ in _SIDES:
                defaults[side].update(limit.get(field) or {})
    for field, word in (("containers", "container"), ("initContainers", "init container")):
        for container in spec.get(field) or ():
            for _, side, singular in _SIDES:
                resources = container.setdefault("resources", {})
                missing = sorted(set(defaults[side]) - set(resources.get(side) or {}))
                if missing:
                    amounts = resources.setdefault(side, {})
                    amounts.update({name: defaults[side][name] for name in missing})
                    yield f"{', '.join(missing)} {singular} for {word} {container.get('name')}"


def _pod_problems(spec: Object, limits: Iterable[Object]) -> Iterator[str]:
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    for limit in limits:
        if limit.get("type") == "Container":
            for container in containers:
                resources = container.get("resources") or {}
                requests, most = resources.get("requests") or {}, resources.get("limits") or {}
                yield from _problems(limit, requests, most)
        elif limit.get("type") == "Pod":
            yield from _problems(limit, _total(spec, "requests"), _total(spec, "limits"))


def _total(spec: Object, side: str) -> Amounts:
    return {
        name: quantity.format_value(amount, "decimal" if name == "cpu" else "binary")
        for name, amount in qos.pod_requests(spec, side).items()
    }


def _claim_problems(spec: Object, limits: Iterable[Object]) -> Iterator[str]:
    requests = (spec.get("resources") or {}).get("requests") or {}
    kind = "PersistentVolumeClaim"
    for limit in limits:
        if limit.get("type") != kind:
            continue
        for name, bound in sorted((limit.get("min") or {}).items()):
            yield from _at_least(kind, name, bound, requests, {})
        for name, bound in sorted((limit.get("max") or {}).items()):
            start = f"maximum {name} usage per {kind} is {bound}"
            if name not in requests:
                yield f"{start}. No request is specified"
            elif _value(requests[name]) > _value(bound):
                yield f"{start}, but request is {requests[name]}"


def _problems(limit: Object, requests: Amounts, limits: Amounts) -> Iterator[str]:
    kind = str(limit["type"])
    for name, bound in sorted((limit.get("min") or {}).items()):
        yield from _at_least(kind, name, bound, requests, limits)
    for name, bound in sorted((limit.get("max") or {}).items()):
        yield from _at_most(kind, name, bound, requests, limits)
    for name, bound in sorted((limit.get("maxLimitRequestRatio") or {}).items()):
        yield from _ratio(kind, name, bound, requests, limits)


def _at_least(
    kind: str, name: str, bound: str, requests: Amounts, limits: Amounts
) -> Iterator[str]:
    start = f"minimum {name} usage per {kind} is {bound}"
    if name not in requests:
        yield f"{start}.  No request is specified"
    elif _value(requests[name]) < _value(bound):
        yield f"{start}, but request is {requests[name]}"
    elif name in limits and _value(limits[name]) < _value(bound):
        yield f"{start}, but limit is {limits[name]}"


def _at_most(kind: str, name: str, bound: str, requests: Amounts, limits: Amounts) -> Iterator[str]:
    start = f"maximum {name} usage per {kind} is {bound}"
    if name not in limits:
        yield f"{start}.  No limit is specified"
    elif _value(limits[name]) > _value(bound):
        yield f"{start}, but limit is {limits[name]}"
    elif name in requests and _value(requests[name]) > _value(bound):
        yield f"{start}, but request is {requests[name]}"


def _ratio(kind: str, name: str, bound: str, requests: Amounts, limits: Amounts) -> Iterator[str]:
    start = f"{name} max limit to request ratio per {kind} is {bound}"
    request, limit = (_value(side.get(name, "0")) for side in (requests, limits))
    if not request:
        yield f"{start}, but no request is specified or request is 0"
    elif not limit:
        yield f"{start}, but no limit is specified or limit is 0"
    elif limit / request > _value(bound):
        yield f"{start}, but provided ratio is {float(limit / request):.6f}"


def _value(amount: str) -> Fraction:
    return quantity.parse(amount)
