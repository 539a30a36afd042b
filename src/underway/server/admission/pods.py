"""What a pod is given: a service account and its token, a priority, default tolerations.

Source: Kubernetes "Configure Service Accounts for Pods", "Pod Priority and Preemption", and
kubernetes ``plugin/pkg/admission/{serviceaccount,priority,defaulttolerationseconds}``.
"""

from __future__ import annotations

from typing import Any

from underway.api.objects import Object, annotations_of, name_of, namespace_of
from underway.base.errors import Forbidden
from underway.base.ids import suffix
from underway.server.admission.write import Write
from underway.server.call import refused
from underway.server.catalog import Served
from underway.server.store import Key, Store

MIRROR = "kubernetes.io/config.mirror"
PRIORITY_CLASSES = "priorityclasses.scheduling.k8s.io"
_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  # a path
_TOKEN_LIFE_S = 3607  # upstream's: an hour, and a mark that it is the default
_SYSTEM_PRIORITIES = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}
_TOLERATION_S = 300


class PodDefaults:
    """ServiceAccount, Priority and DefaultTolerationSeconds."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def fill(self, served: Served, pod: Object) -> None:
        """Complete a new pod, in place; doing it twice is the same as doing it once.

        Raises:
            Forbidden: what it refers to is not there, or it sets what it may not.
        """
        if MIRROR not in annotations_of(pod):
            self._service_account(served, pod)
        self._priority(served, pod)
        _tolerate(pod["spec"])

    @staticmethod
    def keep(pod: Object, old: Object) -> None:
        """Complete a pod that is replaced, in place: a priority and tolerations may be left out.

        The service account and the volume of its token may not: ServiceAccount looks at new pods
        alone.
        """
        spec, before = pod.get("spec"), old.get("spec")
        if not isinstance(spec, dict) or not isinstance(before, dict):
            return
        for name in ("priority", "preemptionPolicy"):
            if spec.get(name) is None and before.get(name) is not None:
                spec[name] = before[name]
        _tolerate(spec)

    def check_class(self, write: Write) -> None:
        """At most one PriorityClass is the default.

        Raises:
            Forbidden: there is one already.
        """
        assert write.new is not None
        if not write.new.get("globalDefault"):
            return
        for row in self._store.rows(PRIORITY_CLASSES):
            if row.key.name != write.name and row.decode().get("globalDefault"):
                why = (
                    f"PriorityClass {row.key.name} is already marked as default."
                    " Only one default can exist"
                )
                raise refused(Forbidden, write.served, write.name, why)

    def _service_account(self, served: Served, pod: Object) -> None:
        spec = pod["spec"]
        name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        row = self._store.latest(Key("serviceaccounts", namespace_of(pod), name))
        if row is None:
            raise refused(
                Forbidden,
                served,
                name_of(pod),
                f"error looking up service account {namespace_of(pod)}/{name}:"
                f' serviceaccount "{name}" not found',
            )
        account = row.decode()
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = account["imagePullSecrets"]
        mount = spec.get("automountServiceAccountToken")
        if mount is None:
            mount = account.get("automountServiceAccountToken", True)
        if mount:
            _mount_token(spec)

    def _priority(self, served: Served, pod: Object) -> None:
        spec = pod["spec"]
        name = spec.get("priorityClassName")
        value, preemption = 0, "PreemptLowerPriority"
        if name in _SYSTEM_PRIORITIES:
            value = _SYSTEM_PRIORITIES[name]
        elif name:
            row = self._store.latest(Key(PRIORITY_CLASSES, "", name))
            if row is None:
                why = f"no PriorityClass with name {name} was found"
                raise refused(Forbidden, served, name_of(pod), why)
            found = row.decode()
            value = found.get("value") or 0
            preemption = found.get("preemptionPolicy") or preemption
        elif (found := self._default_class()) is not None:
            spec["priorityClassName"] = name_of(found)
            value = found.get("value") or 0
            preemption = found.get("preemptionPolicy") or preemption
        given = spec.get("priority")
        if given is not None and given != value:
            why = (
                f"the integer value of priority ({given}) must not be provided in pod spec;"
                f" priority admission controller computed {value} from the given PriorityClass name"
            )
            raise refused(Forbidden, served, name_of(pod), why)
        policy = spec.get("preemptionPolicy")
        if policy is not None and policy != preemption:
            why = (
                f"the string value of PreemptionPolicy ({policy}) must not be provided in pod"
                f" spec; priority admission controller computed {preemption} from the given"
                " PriorityClass name"
            )
            raise refused(Forbidden, served, name_of(pod), why)
        spec["priority"], spec["preemptionPolicy"] = value, preemption

    def _default_class(self) -> Object | None:
        """The class of pods that name none; of several, the lowest."""
        classes = [row.decode() for row in self._store.rows(PRIORITY_CLASSES)]
        marked = [each for each in classes if each.get("globalDefault")]
        return min(marked, key=lambda each: each.get("value") or 0, default=None)


def _tolerate(spec: Object) -> None:
    """Let a pod stay a while on a node that stops answering."""
    tolerations = spec["tolerations"] = spec.get("tolerations") or []
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(_tolerates(each, key) for each in tolerations):
            tolerations.append(
                {
                    "key": key,
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": _TOLERATION_S,
                }
            )


def _tolerates(toleration: Object, key: str) -> bool:
    return toleration.get("key", "") in ("", key) and toleration.get("effect", "") in (
        "",
        "NoExecute",
    )


def _mount_token(spec: Object) -> None:
    """Give each container the projected token volume, unless it mounts something there."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    lacking = [
        each
        for each in containers
        if not any(m.get("mountPath") == _TOKEN_PATH for m in each.get("volumeMounts") or ())
    ]
    if not lacking:
        return
    volume = next(
        (v["name"] for v in spec.get("volumes") or () if v["name"].startswith("kube-api-access-")),
        "",
    )
    if not volume:
        volume = f"kube-api-access-{suffix()}"
        spec.setdefault("volumes", []).append({"name": volume, "projected": _projection()})
    for container in lacking:
        container.setdefault("volumeMounts", []).append(
            {"name": volume, "mountPath": _TOKEN_PATH, "readOnly": True}
        )


def _projection() -> dict[str, Any]:
    field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    return {
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": _TOKEN_LIFE_S, "path": "token"}},
            {
                "configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }
            },
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
        ],
    }
