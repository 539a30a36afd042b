"""How a StatefulSet makes, removes and updates its numbered pods, in order.

Source: Kubernetes docs, "StatefulSets".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from underway.api.objects import (
    Object,
    deleting,
    labels_of,
    meta,
    name_of,
    owner_reference,
    uid_of,
)
from underway.capabilities.workloads.model import (
    available_in_s,
    finished,
    is_ready,
    pod_from_template,
    replicas_of,
    resolve,
    spec_of,
    status_of,
)

REVISION = "controller-revision-hash"
POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"


@dataclass(frozen=True)
class Plan:
    """Ordinals to make pods for, and pods to delete."""

    create: tuple[int, ...] = ()
    delete: tuple[Object, ...] = ()


def ordinal_of(statefulset: Object, pod: Object) -> int | None:
    """The number in a pod's name; None when it is not named as this set names pods."""
    parent, _, number = name_of(pod).rpartition("-")
    return int(number) if parent == name_of(statefulset) and number.isdecimal() else None


def ordinals(statefulset: Object) -> range:
    """The numbers that pods are to have."""
    start = int((spec_of(statefulset).get("ordinals") or {}).get("start") or 0)
    return range(start, start + replicas_of(statefulset))


def uses_update(statefulset: Object, ordinal: int) -> bool:
    """Whether the pod of this number is made from the newest template."""
    return ordinal >= ordinals(statefulset).start + _partition(statefulset)


def _strategy(statefulset: Object) -> Object:
    return spec_of(statefulset).get("updateStrategy") or {}


def _partition(statefulset: Object) -> int:
    if _strategy(statefulset).get("type") == "OnDelete":
        return 0
    return int((_strategy(statefulset).get("rollingUpdate") or {}).get("partition") or 0)


def plan(statefulset: Object, pods: list[Object], update: str, now: datetime) -> Plan:
    """The next step.

    Args:
        statefulset: the object.
        pods: the pods it controls.
        update: the name of the newest revision.
        now: the time, for ``minReadySeconds``.
    """
    by_ordinal = {
        number: pod for pod in pods if (number := ordinal_of(statefulset, pod)) is not None
    }
    parallel = spec_of(statefulset).get("podManagementPolicy") == "Parallel"
    wanted = ordinals(statefulset)
    create: list[int] = []
    delete: list[Object] = []
    for number in wanted:
        pod = by_ordinal.get(number)
        if pod is None:
            create.append(number)
        elif finished(pod) and not deleting(pod):
            delete.append(pod)
        elif _healthy(statefulset, pod, now) or parallel:
            continue
        elif _outdated(statefulset, number, pod, update):
            # An old pod that never gets ready must not hold up the update that mends it.
            delete.append(pod)
        if not parallel:
            # Every pod waits for the one before it.
            return Plan(tuple(create), tuple(delete))
    condemned = sorted((n for n in by_ordinal if n not in wanted), reverse=True)
    for number in condemned:
        if not deleting(by_ordinal[number]):
            delete.append(by_ordinal[number])
        if not parallel:
            return Plan(tuple(create), tuple(delete))
    if create or delete or condemned:
        return Plan(tuple(create), tuple(delete))
    return Plan(delete=_update(statefulset, by_ordinal, update, now))


def _healthy(statefulset: Object, pod: Object, now: datetime) -> bool:
    min_ready_s = int(spec_of(statefulset).get("minReadySeconds") or 0)
    return not deleting(pod) and available_in_s(pod, min_ready_s, now) == 0


def _outdated(statefulset: Object, number: int, pod: Object, update: str) -> bool:
    return (
        _strategy(statefulset).get("type") != "OnDelete"
        and uses_update(statefulset, number)
        and labels_of(pod).get(REVISION) != update
        and not deleting(pod)
    )


def _update(
    statefulset: Object, by_ordinal: dict[int, Object], update: str, now: datetime
) -> tuple[Object, ...]:
    rolling = _strategy(statefulset).get("rollingUpdate") or {}
    limit = resolve(rolling.get("maxUnavailable", 1), replicas_of(statefulset), up=True)
    budget = max(1, limit)
    delete: list[Object] = []
    for number in sorted(by_ordinal, reverse=True):
        pod = by_ordinal[number]
        if _outdated(statefulset, number, pod, update):
            delete.append(pod)
            budget -= 1
        elif not _healthy(statefulset, pod, now):
            budget -= 1
        if budget <= 0:
            break
    return tuple(delete)


def new_pod(statefulset: Object, ordinal: int, template: Object, revision: str) -> Object:
    """The pod with this number."""
    pod = pod_from_template(statefulset, template, owner_reference(statefulset))
    metadata = meta(pod)
    del metadata["generateName"]
    name = metadata["name"] = f"{name_of(statefulset)}-{ordinal}"
    labels = metadata.setdefault("labels", {})
    labels.update({POD_NAME: name, POD_INDEX: str(ordinal), REVISION: revision})
    spec = pod["spec"]
    spec["hostname"] = name
    if service := spec_of(statefulset).get("serviceName"):
        spec["subdomain"] = service
    claims = {
        name_of(each): f"{name_of(each)}-{name}"
        for each in spec_of(statefulset).get("volumeClaimTemplates") or ()
    }
    volumes = [each for each in spec.get("volumes") or () if each["name"] not in claims]
    volumes += [
        {"name": volume, "persistentVolumeClaim": {"claimName": claim}}
        for volume, claim in claims.items()
    ]
    if volumes:
        spec["volumes"] = volumes
    return pod


def claims(statefulset: Object, ordinal: int) -> list[Object]:
    """The claims that the pod with this number uses."""
    found: list[Object] = []
    for template in spec_of(statefulset).get("volumeClaimTemplates") or ():
        labels = {
            **labels_of(template),
            **(spec_of(statefulset)["selector"].get("matchLabels") or {}),
        }
        header = {
            "name": f"{name_of(template)}-{name_of(statefulset)}-{ordinal}",
            "namespace": meta(statefulset)["namespace"],
            "labels": labels,
        }
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": header}
        found.append({**claim, "spec": template["spec"]})
    return found


def claim_owners(statefulset: Object, pod: Object, claim: Object) -> list[Object]:
    """The owners a claim is to have, so that it goes with its pod or its set where it should.

    Source: Kubernetes docs, "StatefulSets" (PersistentVolumeClaim retention).
    """
    policy = spec_of(statefulset).get("persistentVolumeClaimRetentionPolicy") or {}
    uids = (uid_of(statefulset), uid_of(pod))
    kept = [each for each in meta(claim).get("ownerReferences") or () if each["uid"] not in uids]
    number = ordinal_of(statefulset, pod)
    if number not in ordinals(statefulset) and policy.get("whenScaled") == "Delete":
        return [*kept, owner_reference(pod, controller=False)]
    if policy.get("whenDeleted") == "Delete":
        return [*kept, owner_reference(statefulset, controller=False)]
    return kept


def status(
    statefulset: Object, pods: list[Object], current: str, update: str, now: datetime
) -> Object:
    """The status; ``current`` and ``update`` are names of revisions, as pods' labels carry them.

    The update becomes current once every pod is of it and ready.
    """
    wanted = replicas_of(statefulset)
    alive = [pod for pod in pods if not finished(pod)]
    of_update = [pod for pod in alive if labels_of(pod).get(REVISION) == update]
    of_current = [pod for pod in alive if labels_of(pod).get(REVISION) == current]
    ready = sum(is_ready(pod) and not deleting(pod) for pod in alive)
    done = len(of_update) == wanted == len(alive) and ready == wanted
    if done:
        current, of_current = update, of_update
    return {
        "observedGeneration": meta(statefulset).get("generation"),
        "replicas": len(alive),
        "readyReplicas": ready or None,
        "availableReplicas": sum(_healthy(statefulset, pod, now) for pod in alive),
        "currentReplicas": len(of_current) or None,
        "updatedReplicas": len(of_update) or None,
        "currentRevision": current,
        "updateRevision": update,
        "collisionCount": status_of(statefulset).get("collisionCount") or 0,
    }
