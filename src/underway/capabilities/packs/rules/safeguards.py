"""What is wrong, or unwise, in the manifests of an application.

Source: Azure/draft docs "deployment safeguards" (the rules' names and meaning).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from underway.api import kinds
from underway.api.defaults import apply_defaults
from underway.api.objects import Object, meta, name_of
from underway.api.resources import BUILTIN
from underway.capabilities.packs.model import Finding

RULES = {
    "valid": "objects have the form their kind demands",
    "unique-service-selectors": "no two Services have one selector",
    "bad-disruption-budget": "a PodDisruptionBudget lets at least one pod be evicted",
    "restricted-namespace": "nothing goes into the system's namespaces",
    "container-image-tag": "images have a digest or a tag, and not latest",
    "container-resources": "containers request CPU and memory and limit memory",
    "container-probes": "containers of services have readiness and liveness probes",
    "pod-spread": "replicas are kept apart by anti-affinity or spread constraints",
}
_SYSTEM = frozenset({"kube-system", "kube-public", "kube-node-lease"})
_KNOWN = {(each.api_version, each.kind): each for each in BUILTIN}
_SERVING = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"})


def check(objects: Sequence[Object]) -> list[Finding]:
    """Everything found, in the order of the objects."""
    found: list[Finding] = []
    for obj in objects:
        found += _valid(obj)
        if obj.get("kind") == "PodDisruptionBudget":
            found += _budget(obj, objects)
        if meta(obj).get("namespace") in _SYSTEM:
            message = f"it goes into {meta(obj)['namespace']}"
            found.append(Finding("error", "restricted-namespace", _title(obj), message))
        found += _workload(obj)
    return found + _selectors(objects)


def _title(obj: Object) -> str:
    return f"{str(obj.get('kind', '?')).lower()}/{name_of(obj)}"


def _valid(obj: Object) -> Iterator[Finding]:
    resource = _KNOWN.get((obj.get("apiVersion", ""), obj.get("kind", "")))
    if resource is None:
        return
    completed = copy.deepcopy(obj)
    if resource.namespaced:
        meta(completed).setdefault("namespace", "default")
    apply_defaults(resource, completed)
    for cause in kinds.validate_create(resource, completed):
        message = f"{cause.field}: {cause.message}" if cause.field else cause.message
        yield Finding("error", "valid", _title(obj), message)


def _budget(budget: Object, objects: Iterable[Object]) -> Iterator[Finding]:
    spec = budget.get("spec") or {}
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    replicas = [
        (obj.get("spec") or {}).get("replicas", 1)
        for obj in objects
        if obj.get("kind") in _SERVING
        and labels.items()
        <= (meta((obj.get("spec") or {}).get("template") or {}).get("labels") or {}).items()
    ]
    blocked = str(spec.get("maxUnavailable")) in ("0", "0%") or spec.get("minAvailable") == "100%"
    least = spec.get("minAvailable")
    if isinstance(least, int) and replicas and least >= max(replicas):
        blocked = True
    if blocked:
        message = "no pod may ever be evicted, so nodes cannot be drained"
        yield Finding("error", "bad-disruption-budget", _title(budget), message)


def _selectors(objects: Iterable[Object]) -> list[Finding]:
    services = [
        (obj, tuple(sorted(((obj.get("spec") or {}).get("selector") or {}).items())))
        for obj in objects
        if obj.get("kind") == "Service"
    ]
    counted = Counter(selector for _, selector in services if selector)
    return [
        Finding(
            "error", "unique-service-selectors", _title(obj), "another Service selects its pods"
        )
        for obj, selector in services
        if counted[selector] > 1
    ]


def _workload(obj: Object) -> Iterator[Finding]:
    spec = obj.get("spec") or {}
    if obj.get("kind") == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    pod = (spec.get("template") or {}).get("spec") if obj.get("kind") != "Pod" else spec
    if not isinstance(pod, dict) or not isinstance(pod.get("containers"), list):
        return
    for container in pod["containers"]:
        for rule, message in _container(container, serving=obj.get("kind") in _SERVING):
            where = f"container {container.get('name', '?')}: {message}"
            yield Finding("warning", rule, _title(obj), where)
    kept_apart = pod.get("topologySpreadConstraints") or (pod.get("affinity") or {}).get(
        "podAntiAffinity"
    )
    if spec.get("replicas", 1) > 1 and not kept_apart and obj.get("kind") in _SERVING:
        message = f"{spec['replicas']} replicas may all end up on one node"
        yield Finding("warning", "pod-spread", _title(obj), message)


def _container(container: Object, *, serving: bool) -> Iterator[tuple[str, str]]:
    image = str(container.get("image") or "")
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@" not in image and "$(" not in image and tag in ("", "latest"):
        yield "container-image-tag", f"{image or 'no image'} has no fixed tag"
    resources = container.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    lacking = [f"request for {name}" for name in ("cpu", "memory")
               if name not in requests and name not in limits]  # fmt: skip
    lacking += [] if "memory" in limits else ["limit for memory"]
    if lacking:
        yield "container-resources", f"no {', no '.join(lacking)}"
    if serving:
        missing = [name for name in ("readinessProbe", "livenessProbe") if name not in container]
        if missing:
            yield "container-probes", f"no {', no '.join(missing)}"
