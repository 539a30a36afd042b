"""PodSecurity: a namespace's labels say which level its pods must keep, or are warned about.

Audit levels have no effect beyond being checked for well-formedness.

Source: Kubernetes "Pod Security Admission".
"""

from __future__ import annotations

import re
from collections import defaultdict

from underway.api.kinds import invalid
from underway.api.objects import Object, labels_of
from underway.base.errors import Cause, Forbidden
from underway.server.admission.standards import LEVELS, PRIVILEGED, RESTRICTED, violations
from underway.server.admission.write import CREATE, Write
from underway.server.call import refused
from underway.server.store import Key, Store

_LABEL = "pod-security.kubernetes.io/"
_VERSION = re.compile(r"latest|v1\.(0|[1-9][0-9]*)")
_TEMPLATES = frozenset(
    {
        "daemonsets.apps",
        "deployments.apps",
        "jobs.batch",
        "podtemplates",
        "replicasets.apps",
        "replicationcontrollers",
        "statefulsets.apps",
    }
)
_EXISTING_LIMIT = 3000  # pods looked at when a namespace's level changes; upstream's


class PodSecurity:
    """Holds pods against the levels of their namespaces."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self, write: Write) -> None:
        """Judge a pod, warn about a pod template, or check a namespace's labels.

        Raises:
            Forbidden: the pod violates the level that is enforced.
            Invalid: a label of the namespace is malformed.
        """
        storage, new = write.served.storage, write.new
        assert new is not None
        if storage == "namespaces" and not write.subresource:
            self._check_namespace(write)
        elif storage == "pods":
            if write.operation == CREATE or write.subresource == "ephemeralcontainers":
                self._judge(write, new, enforced=True)
        elif not write.subresource:
            template = _template(storage, new)
            if template:
                self._judge(write, template, enforced=False)

    def _judge(self, write: Write, pod: Object, *, enforced: bool) -> None:
        row = self._store.latest(Key("namespaces", "", write.namespace))
        if row is None or _LABEL.encode() not in row.data:  # cheaper than decoding
            return
        labels = labels_of(row.decode())
        level, version = _policy(labels, "enforce")
        if enforced and (found := violations(level, pod)):
            why = f'violates PodSecurity "{level}:{version}": {", ".join(map(str, found))}'
            raise refused(Forbidden, write.served, write.name, why)
        level, version = _policy(labels, "warn")
        if found := violations(level, pod):
            listed = ", ".join(map(str, found))
            write.warn(f'would violate PodSecurity "{level}:{version}": {listed}')

    def _check_namespace(self, write: Write) -> None:
        assert write.new is not None
        labels = labels_of(write.new)
        problems = _label_problems(labels)
        if problems:
            raise invalid(write.served.resource, write.name, problems)
        if write.old is None:
            return
        before, after = (_policy(labels_of(each), "enforce") for each in (write.old, write.new))
        if before == after or LEVELS.index(after[0]) <= LEVELS.index(before[0]):
            return
        broken = self._existing(write.name, after[0])
        if broken:
            write.warn(
                f'existing pods in namespace "{write.name}" violate the new PodSecurity enforce'
                f' level "{after[0]}:{after[1]}"'
            )
            for text in broken:
                write.warn(text)

    def _existing(self, namespace: str, level: str) -> list[str]:
        """The pods there that violate a level, those with the same reasons in one line."""
        alike: dict[str, list[str]] = defaultdict(list)
        for row in self._store.rows("pods", namespace)[:_EXISTING_LIMIT]:
            if found := violations(level, row.decode()):
                alike[", ".join(each.reason for each in found)].append(row.key.name)
        lines = []
        for reasons, names in alike.items():
            others = len(names) - 1
            more = f" (and {others} other pod{'s' if others > 1 else ''})" if others else ""
            lines.append(f"{names[0]}{more}: {reasons}")
        return sorted(lines)


def _template(storage: str, obj: Object) -> Object:
    """The pod template of a workload, or empty."""
    spec = obj.get("spec") or {}
    if storage == "cronjobs.batch":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    elif storage == "podtemplates":
        spec = obj
    elif storage not in _TEMPLATES:
        return {}
    return spec.get("template") or {}


def _policy(labels: dict[str, str], mode: str) -> tuple[str, str]:
    """The level and version of a mode; a level nobody knows counts as the strictest."""
    level = labels.get(f"{_LABEL}{mode}") or PRIVILEGED
    if level not in LEVELS:
        level = RESTRICTED
    return level, labels.get(f"{_LABEL}{mode}-version") or "latest"


def _label_problems(labels: dict[str, str]) -> list[Cause]:
    found = []
    for mode in ("enforce", "audit", "warn"):
        for name, good, must in (
            (mode, lambda v: v in LEVELS, f"must be one of {', '.join(LEVELS)}"),
            (f"{mode}-version", _VERSION.fullmatch, 'must be "latest" or "v1.x"'),
        ):
            value = labels.get(_LABEL + name)
            if value is not None and not good(value):
                message = f'Invalid value: "{value}": {must}'
                found.append(Cause(f"metadata.labels[{_LABEL}{name}]", message))
    return found
