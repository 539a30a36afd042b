"""Conditions: what is true of an object, for people and ``kubectl wait``.

Source: Kubernetes API conventions, "Typical status properties"; metav1 ``Condition``.
"""

from __future__ import annotations

from underway.api.objects import Object, find_condition, meta, set_condition
from underway.base.clock import Clock, rfc3339

REASON_LIMIT = 1024  # characters
MESSAGE_LIMIT = 32_768  # characters


def condition(
    type: str, status: bool | None, reason: str, message: str = "", *, of: Object | None = None
) -> Object:
    """A condition without its time.

    Args:
        type: CamelCase, e.g. ``Ready``.
        status: None stands for ``Unknown``.
        reason: one CamelCase word for machines.
        message: a sentence for people.
        of: the object it is about, whose generation was observed.
    """
    found: Object = {
        "type": type,
        "status": "Unknown" if status is None else str(status),
        "reason": reason[:REASON_LIMIT],
        "message": message[:MESSAGE_LIMIT],
    }
    if of is not None and "generation" in meta(of):
        found["observedGeneration"] = meta(of)["generation"]
    return found


def with_conditions(obj: Object, clock: Clock, *conditions: Object) -> list[Object]:
    """The object's ``status.conditions`` with these put in; the object stays as it is.

    ``lastTransitionTime`` moves only where a status changes.
    """
    now = rfc3339(clock.now())
    found = [dict(each) for each in (obj.get("status") or {}).get("conditions") or ()]
    for each in conditions:
        set_condition(found, each, now)
    return found


def is_true(obj: Object, type: str) -> bool:
    """Whether a condition of the object is ``True``."""
    found = find_condition((obj.get("status") or {}).get("conditions"), type)
    return found is not None and found.get("status") == "True"
