"""How a Deployment moves from its old ReplicaSets to the new one.

Source: Kubernetes docs, "Deployments"; kubernetes ``pkg/controller/deployment`` for the
arithmetic of surge, unavailability and proportional scaling.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from underway.api.objects import Object, annotations_of, deleting, meta, name_of
from underway.capabilities.workloads.model import (
    POD_TEMPLATE_HASH,
    count,
    created_at,
    finished,
    oldest_first,
    replicas_of,
    resolve,
    spec_of,
    template_hash,
)

REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAX = "deployment.kubernetes.io/max-replicas"
NOT_INHERITED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        "deprecated.deployment.rollback.to",
        REVISION,
        REVISION_HISTORY,
        DESIRED,
        MAX,
    }
)
DEFAULT_HISTORY_LIMIT = 10


@dataclass(frozen=True)
class Scale:
    """Set a ReplicaSet's replica count."""

    replicaset: Object
    replicas: int


# -- what a Deployment says ---------------------------------------------------------------------


def is_recreate(deployment: Object) -> bool:
    """Whether all old pods end before the first new one starts."""
    return (spec_of(deployment).get("strategy") or {}).get("type") == "Recreate"


def is_paused(deployment: Object) -> bool:
    """Whether template changes wait."""
    return bool(spec_of(deployment).get("paused"))


def _bounds(deployment: Object) -> tuple[int, int]:
    if is_recreate(deployment):
        return 0, 0
    rolling = (spec_of(deployment).get("strategy") or {}).get("rollingUpdate") or {}
    replicas = replicas_of(deployment)
    surge = resolve(rolling.get("maxSurge", "25%"), replicas, up=True)
    unavailable = resolve(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1  # with neither, nothing could ever move
    return surge, unavailable


def max_surge(deployment: Object) -> int:
    """Pods above the replica count that a rolling update may have."""
    return _bounds(deployment)[0]


def max_unavailable(deployment: Object) -> int:
    """Pods below the replica count that may be missing."""
    replicas = replicas_of(deployment)
    return min(_bounds(deployment)[1], replicas) if replicas else 0


# -- which ReplicaSet is which ------------------------------------------------------------------


def bare_template(template: Object) -> Object:
    """The template without the hash label that tells ReplicaSets apart."""
    header = dict(template.get("metadata") or {})
    labels = {k: v for k, v in (header.get("labels") or {}).items() if k != POD_TEMPLATE_HASH}
    header["labels"] = labels
    header.pop("creationTimestamp", None)
    return {**template, "metadata": {k: v for k, v in header.items() if v}}


def find_new(deployment: Object, replicasets: Iterable[Object]) -> Object | None:
    """The ReplicaSet whose template is the Deployment's; of several, the oldest."""
    wanted = bare_template(spec_of(deployment)["template"])
    for replicaset in oldest_first(replicasets):
        if bare_template(spec_of(replicaset)["template"]) == wanted:
            return replicaset
    return None


def revision_of(obj: Object) -> int:
    """The revision annotation as a number, 0 without one."""
    text = annotations_of(obj).get(REVISION, "")
    return int(text) if text.isdecimal() else 0


def new_replicaset(deployment: Object, revision: int, reference: Object) -> Object:
    """The ReplicaSet for the Deployment's template, with 0 replicas yet."""
    template = bare_template(spec_of(deployment)["template"])
    digest = template_hash(template, count(deployment, "collisionCount"))
    labels = {**template["metadata"].get("labels", {}), POD_TEMPLATE_HASH: digest}
    selector = dict(spec_of(deployment)["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), POD_TEMPLATE_HASH: digest}
    spec: Object = {
        "replicas": 0,
        "selector": selector,
        "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
    }
    if min_ready_s := spec_of(deployment).get("minReadySeconds"):
        spec["minReadySeconds"] = min_ready_s
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{name_of(deployment)}-{digest}",
            "namespace": meta(deployment)["namespace"],
            "labels": labels,
            "annotations": {**inherited(deployment), REVISION: str(revision)},
            "ownerReferences": [reference],
        },
        "spec": spec,
    }


def inherited(deployment: Object) -> dict[str, str]:
    """The Deployment's annotations that its ReplicaSets carry too."""
    annotations = annotations_of(deployment)
    return {name: text for name, text in annotations.items() if name not in NOT_INHERITED}


def revised(deployment: Object, replicaset: Object, revision: int) -> Object:
    """The new ReplicaSet's annotations once it is the Deployment's revision ``revision``.

    A ReplicaSet that comes back after a rollback takes a new number and remembers its old one.
    """
    annotations = {**annotations_of(replicaset), **inherited(deployment)}
    current = revision_of(replicaset)
    if current < revision:
        if current:
            history = annotations.get(REVISION_HISTORY, "")
            annotations[REVISION_HISTORY] = f"{history},{current}" if history else str(current)
        annotations[REVISION] = str(revision)
    return annotations


def scale_annotations(deployment: Object) -> dict[str, str]:
    """What a ReplicaSet remembers of the Deployment's size, for proportional scaling."""
    replicas = replicas_of(deployment)
    return {DESIRED: str(replicas), MAX: str(replicas + max_surge(deployment))}


def _annotated(replicaset: Object, name: str) -> int | None:
    text = annotations_of(replicaset).get(name, "")
    return int(text) if text.isdecimal() else None


# -- scaling ------------------------------------------------------------------------------------


def is_scaling(deployment: Object, replicasets: list[Object]) -> bool:
    """Whether the replica count was changed since the ReplicaSets were last scaled."""
    wanted = replicas_of(deployment)
    return any(
        (desired := _annotated(each, DESIRED)) is not None and desired != wanted
        for each in replicasets
        if replicas_of(each) > 0
    )


def scale(deployment: Object, new: Object | None, old: list[Object]) -> list[Scale]:
    """Bring all ReplicaSets to a changed replica count, keeping their proportions.

    A ReplicaSet that has its size already is listed all the same, to take note of the change.
    """
    everyone = [*old, *([new] if new else [])]
    living = [each for each in everyone if replicas_of(each) > 0]
    replicas = replicas_of(deployment)
    if len(living) <= 1:
        only = living[0] if living else (new or (oldest_first(old)[-1] if old else None))
        return [Scale(only, replicas)] if only else []
    if new is not None and is_saturated(deployment, new):
        return _changes(Scale(each, 0) for each in old)
    if is_recreate(deployment):
        return [Scale(each, replicas_of(each)) for each in living]
    return _proportional(deployment, living)


def _proportional(deployment: Object, living: list[Object]) -> list[Scale]:
    replicas = replicas_of(deployment)
    allowed = replicas + max_surge(deployment) if replicas else 0
    to_add = allowed - sum(replicas_of(each) for each in living)
    # The largest takes the rounding; of equals the newer when growing, the older when shrinking.
    ordered = sorted(living, key=created_at, reverse=to_add > 0)
    ordered.sort(key=replicas_of, reverse=True)
    sizes: list[int] = []
    added = 0
    for each in ordered:
        share = _share(deployment, each, allowed)
        rest = to_add - added
        step = 0 if not rest else min(share, rest) if to_add > 0 else max(share, rest)
        sizes.append(replicas_of(each) + step)
        added += step
    left = to_add - added
    for number, size in enumerate(sizes):
        step = max(left, -size)
        sizes[number] += step
        left -= step
    return [Scale(each, size) for each, size in zip(ordered, sizes, strict=True)]


def _share(deployment: Object, replicaset: Object, allowed: int) -> int:
    size = replicas_of(replicaset)
    if not allowed:
        return -size
    before = _annotated(replicaset, MAX) or count(deployment, "replicas") or allowed
    return (2 * size * allowed + before) // (2 * before) - size  # rounded half up


def is_saturated(deployment: Object, replicaset: Object) -> bool:
    """Whether a ReplicaSet alone is all that the Deployment wants."""
    wanted = replicas_of(deployment)
    return (
        replicas_of(replicaset) == wanted
        and _annotated(replicaset, DESIRED) == wanted
        and count(replicaset, "availableReplicas") == wanted
    )


def _changes(scales: Iterable[Scale]) -> list[Scale]:
    return [each for each in scales if replicas_of(each.replicaset) != each.replicas]


# -- rolling out --------------------------------------------------------------------------------


def roll(deployment: Object, new: Object, old: list[Object]) -> list[Scale]:
    """The next step of a rolling update: grow the new ReplicaSet, or else shrink old ones."""
    return grow_new(deployment, new, old) or shrink_old(deployment, new, old)


def grow_new(deployment: Object, new: Object, old: list[Object]) -> list[Scale]:
    """How far the new ReplicaSet may grow without exceeding the surge."""
    wanted, size = replicas_of(deployment), replicas_of(new)
    if size >= wanted:
        return _changes([Scale(new, wanted)])
    if is_recreate(deployment):
        return [Scale(new, wanted)]
    total = size + sum(replicas_of(each) for each in old)
    room = wanted + max_surge(deployment) - total
    return [Scale(new, size + min(room, wanted - size))] if room > 0 else []


def shrink_old(deployment: Object, new: Object, old: list[Object]) -> list[Scale]:
    """How far old ReplicaSets may shrink without too few pods being available.

    Pods that are not available go first: they add nothing to what must stay.
    """
    living = oldest_first(each for each in old if replicas_of(each) > 0)
    if not living:
        return []
    sizes = {name_of(each): replicas_of(each) for each in living}
    must_stay = replicas_of(deployment) - max_unavailable(deployment)
    new_missing = replicas_of(new) - count(new, "availableReplicas")
    budget = sum(sizes.values()) + replicas_of(new) - must_stay - new_missing
    if budget <= 0:
        return []
    for each in living:
        unavailable = sizes[name_of(each)] - count(each, "availableReplicas")
        step = min(budget, max(0, unavailable))
        sizes[name_of(each)] -= step
        budget -= step
    spare = sum(count(each, "availableReplicas") for each in [new, *living]) - must_stay
    for each in living:
        step = min(sizes[name_of(each)], max(0, spare))
        sizes[name_of(each)] -= step
        spare -= step
    return _changes(Scale(each, sizes[name_of(each)]) for each in living)


def recreate(new: Object | None, old: list[Object], old_pods: list[Object]) -> list[Scale] | None:
    """What ends the old pods of a Recreate rollout; None once they are gone.

    ``old_pods`` are the pods of old ReplicaSets, however they are doing.
    """
    if shrinking := _changes(Scale(each, 0) for each in old):
        return shrinking
    waiting = any(not finished(pod) for pod in old_pods)
    if waiting and (new is None or replicas_of(new) == 0):
        return []
    return None


def to_prune(deployment: Object, old: list[Object]) -> list[Object]:
    """Old, empty ReplicaSets beyond the history limit, the oldest revisions first."""
    limit = spec_of(deployment).get("revisionHistoryLimit")
    limit = DEFAULT_HISTORY_LIMIT if limit is None else int(limit)
    idle = [
        each
        for each in old
        if not deleting(each)
        and replicas_of(each) == 0
        and count(each, "replicas") == 0
        and count(each, "observedGeneration") >= int(meta(each).get("generation") or 0)
    ]
    surplus = len([each for each in old if not deleting(each)]) - limit
    idle.sort(key=lambda each: (revision_of(each), created_at(each)))
    return idle[:surplus] if surplus > 0 else []


def is_complete(deployment: Object, status: Object) -> bool:
    """Whether every replica is new and available, and nothing else is left."""
    wanted = replicas_of(deployment)
    return (
        (status.get("updatedReplicas") or 0) == wanted
        and (status.get("replicas") or 0) == wanted
        and (status.get("availableReplicas") or 0) == wanted
        and (status.get("observedGeneration") or 0) >= int(meta(deployment).get("generation") or 0)
    )
