"""Eviction: a deletion that the pod's disruption budget must allow.

What is taken from the budget and the pod's deletion are one transaction, made from the latest state
of both after everybody else was asked: a budget is never overrun, and nothing is taken for a pod
that stays.

Source: API reference ``policy/v1 Eviction``; kubernetes
``pkg/registry/core/pod/storage/eviction.go`` (the order of the checks, messages and codes).
"""

from __future__ import annotations

from dataclasses import replace

from underway.api import selectors
from underway.api.objects import Object, deleting, labels_of, meta, name_of, namespace_of
from underway.base.clock import Clock, rfc3339
from underway.base.errors import BadRequest, Cause, Forbidden, InternalError, TooManyRequests
from underway.server.call import Call
from underway.server.deleting import DeleteOptions, Deleter
from underway.server.store import Row, Store

BUDGETS = "poddisruptionbudgets.policy"
_DISRUPTED_LIMIT = 2000  # evictions the budget's controller has not confirmed yet
_STALE_RETRY_S = 10
_DENIED = "Cannot evict pod as it would violate the pod's disruption budget."
_SEVERAL = (
    "This pod has more than one PodDisruptionBudget,"
    " which the eviction subresource does not support."
)


class Evictions:
    """Answers ``pods/eviction``."""

    def __init__(self, store: Store, deleter: Deleter, clock: Clock) -> None:
        self._store = store
        self._deleter = deleter
        self._clock = clock

    async def evict(self, call: Call, eviction: Object) -> None:
        """Begin the deletion of the pod.

        Raises:
            NotFound: there is no such pod.
            TooManyRequests: its budget does not allow it now.
            InternalError: it has several budgets.
            Conflict: a precondition does not hold.
            BadRequest: the Eviction is for another pod.
        """
        named = name_of(eviction)
        if named and named != call.attributes.name:
            raise BadRequest("name in URL does not match name in Eviction object")
        options = DeleteOptions.of(call, eviction.get("deleteOptions"))
        options = replace(options, sent={**options.sent, "kind": "DeleteOptions"})

        def granted(pod: Object) -> list[tuple[Object, Row]]:
            taken = self._taken(pod)
            if not options.dry_run:
                _mark(pod, rfc3339(self._clock.now()))
            return taken

        await self._deleter.delete(call.served, call.key, options, call.user, along=granted)

    def _taken(self, pod: Object) -> list[tuple[Object, Row]]:
        """The budget less this eviction, with what it was; empty if none is charged."""
        if _free(pod):
            return []
        found = [
            (budget, row)
            for row in self._store.latest_rows(BUDGETS, namespace_of(pod))
            if _selects(budget := row.decode(), pod)
        ]
        if not found:
            return []
        if len(found) > 1:
            raise InternalError(_SEVERAL)
        budget, row = found[0]
        if not _ready(pod) and _unhealthy_may_go(budget):
            return []
        _check(budget)
        _take(budget, name_of(pod), rfc3339(self._clock.now()))
        return [(budget, row)]


def _free(pod: Object) -> bool:
    """Whether the pod serves nobody any more, or not yet."""
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Succeeded", "Failed", "Pending") or deleting(pod)


def _selects(budget: Object, pod: Object) -> bool:
    selector = (budget.get("spec") or {}).get("selector")
    # policy/v1: an empty selector means every pod, none means no pod.
    return selector is not None and selectors.from_object(selector).matches(labels_of(pod))


def _ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _unhealthy_may_go(budget: Object) -> bool:
    """Whether a pod that is not ready may go without being counted."""
    if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget.get("status") or {}
    needed = status.get("desiredHealthy") or 0
    return needed > 0 and (status.get("currentHealthy") or 0) >= needed


def _check(budget: Object) -> None:
    """Whether one more pod may go.

    Raises:
        TooManyRequests: none may, or nobody knows yet.
        Forbidden: the budget's status cannot be worked with.
    """
    status, name = budget.get("status") or {}, name_of(budget)
    if (status.get("observedGeneration") or 0) < (meta(budget).get("generation") or 0):
        text = f"The disruption budget {name} is still being processed by the server."
        raise _too_many(text, retry_after_s=_STALE_RETRY_S)
    allowed = status.get("disruptionsAllowed") or 0
    if allowed < 0:
        raise _forbidden(name, "pdb disruptions allowed is negative")
    if len(status.get("disruptedPods") or ()) > _DISRUPTED_LIMIT:
        text = "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        raise _forbidden(name, text)
    if allowed == 0:
        text = (
            f"The disruption budget {name} needs {status.get('desiredHealthy') or 0} healthy pods"
            f" and has {status.get('currentHealthy') or 0} currently"
        )
        for condition in status.get("conditions") or ():
            if condition.get("type") == "DisruptionAllowed" and (
                condition.get("reason") == "SyncFailed"
            ):
                text = (
                    f"The disruption budget {name} does not allow evicting pods currently because"
                    f" it failed sync: {condition.get('message') or ''}"
                )
        raise _too_many(text)


def _take(budget: Object, pod: str, now: str) -> None:
    status = budget["status"]
    status["disruptionsAllowed"] -= 1
    status["disruptedPods"] = {**(status.get("disruptedPods") or {}), pod: now}
    if status["disruptionsAllowed"] == 0:
        _set_condition(
            status,
            {
                "type": "DisruptionAllowed",
                "status": "False",
                "reason": "InsufficientPods",
                "message": "",
                "observedGeneration": status.get("observedGeneration") or 0,
            },
            now,
        )


def _mark(pod: Object, now: str) -> None:
    """Say in the pod's status why it goes."""
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    }
    _set_condition(pod.setdefault("status", {}), condition, now)


def _set_condition(status: Object, condition: Object, now: str) -> None:
    conditions = status.setdefault("conditions", [])
    for present in conditions:
        if present.get("type") == condition["type"]:
            if present.get("status") != condition["status"]:
                present["lastTransitionTime"] = now
            present.update(condition)
            return
    conditions.append({**condition, "lastTransitionTime": now})


def _too_many(text: str, *, retry_after_s: int | None = None) -> TooManyRequests:
    return TooManyRequests(
        _DENIED, causes=[Cause("", text, "DisruptionBudget")], retry_after_s=retry_after_s
    )


def _forbidden(name: str, why: str) -> Forbidden:
    return Forbidden(
        f'poddisruptionbudget.policy "{name}" is forbidden: {why}',
        details={"name": name, "group": "policy", "kind": "poddisruptionbudget"},
    )
