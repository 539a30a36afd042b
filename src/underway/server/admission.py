"""The built-in admission plugins: what is refused, and what is filled in from the cluster.

NamespaceLifecycle, ServiceAccount, Priority, DefaultTolerationSeconds, NodeRestriction (a node
writes only its own Node and pods), the RBAC escalation check, and the allocation of Services'
addresses. Source: Kubernetes reference, "Admission Control".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from underway.api.objects import Object, annotations_of, deleting, name_of, namespace_of
from underway.base.clock import Clock, rfc3339
from underway.base.errors import Cause, Forbidden
from underway.base.ids import suffix
from underway.server import crds
from underway.server.addresses import Addresses, Release
from underway.server.call import not_found, refused
from underway.server.catalog import Catalog, Served
from underway.server.identity import NODE_PREFIX, NODES, User
from underway.server.rbac import Rbac
from underway.server.store import Key, Store

IMMORTAL_NAMESPACES = ("default", "kube-system", "kube-public")
_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  # a path
_TOKEN_LIFE_S = 3607  # upstream's: an hour, and a mark that it is the default
_SYSTEM_PRIORITIES = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}
_TOLERATION_S = 300
_RBAC = "rbac.authorization.k8s.io"
_MIRROR = "kubernetes.io/config.mirror"


def _nothing() -> None:
    """There is nothing to give back."""


class Admission:
    """Decides over writes, with the cluster's latest state at hand."""

    def __init__(
        self, store: Store, catalog: Catalog, rbac: Rbac, clock: Clock, service_cidr: str
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._rbac = rbac
        self._clock = clock
        self.addresses = Addresses(service_cidr)
        self._mutators: dict[str, Callable[[Served, Object, User], None]] = {
            "pods": self._pod,
            f"roles.{_RBAC}": self._role,
            f"clusterroles.{_RBAC}": self._role,
            f"rolebindings.{_RBAC}": self._binding,
            f"clusterrolebindings.{_RBAC}": self._binding,
            "nodes": self._node,
        }

    def create(self, served: Served, new: Object, user: User) -> Release:
        """Admit a new object, completing it in place.

        Returns:
            Gives back what was allocated, should the write fail.

        Raises:
            Forbidden: it is refused.
            NotFound: its namespace does not exist.
        """
        if served.resource.namespaced:
            self._namespace_open(served, new)
        mutate = self._mutators.get(served.storage)
        if mutate is not None:
            mutate(served, new, user)
        if served.storage == "services":
            return self.addresses.assign(new)
        return _nothing

    def finish_create(self, served: Served, new: Object) -> None:
        """What the server itself says in the status of a new object."""
        if served.storage == crds.STORAGE:
            crds.establish(new, None, self._catalog, rfc3339(self._clock.now()))

    def update(
        self, served: Served, new: Object, old: Object, user: User, subresource: str
    ) -> Release:
        """Admit a changed object.

        Raises:
            Forbidden: it is refused.
        """
        if served.storage in ("nodes", "pods"):
            self._node_restriction(served, old, user)
        if subresource:
            return _nothing
        if served.storage.endswith(_RBAC) and new.get("rules") != old.get("rules"):
            self._role(served, new, user)
        if served.storage.endswith(_RBAC) and new.get("subjects") != old.get("subjects"):
            self._binding(served, new, user)
        if served.storage == crds.STORAGE:
            crds.establish(new, old, self._catalog, rfc3339(self._clock.now()))
        if served.storage == "services":
            return self.addresses.assign(new, old)
        return _nothing

    def delete(self, served: Served, old: Object, user: User) -> None:
        """Admit a deletion.

        Raises:
            Forbidden: it is refused.
        """
        if served.storage == "namespaces" and name_of(old) in IMMORTAL_NAMESPACES:
            raise refused(Forbidden, served, name_of(old), "this namespace may not be deleted")
        if served.storage in ("nodes", "pods"):
            self._node_restriction(served, old, user)

    # -- NamespaceLifecycle ----------------------------------------------------------------

    def _namespace_open(self, served: Served, new: Object) -> None:
        name = namespace_of(new)
        row = self._store.latest(Key("namespaces", "", name))
        if row is None:
            spaces = self._catalog.find("", "v1", "namespaces")
            assert spaces is not None
            raise not_found(spaces, name)
        # Cheaper than decoding: most namespaces are not being deleted.
        if b'"deletionTimestamp"' in row.data and deleting(row.decode()):
            why = f"unable to create new content in namespace {name} because it is being terminated"
            raise Forbidden(
                f'{served.resource.group_resource} "{name_of(new)}" is forbidden: {why}',
                details={"name": name_of(new), "kind": served.resource.plural},
                causes=[
                    Cause(
                        "metadata.namespace",
                        f"namespace {name} is being terminated",
                        "NamespaceTerminating",
                    )
                ],
            )

    # -- pods ------------------------------------------------------------------------------

    def _pod(self, served: Served, pod: Object, user: User) -> None:
        self._node_creates(served, pod, user)
        if _MIRROR not in annotations_of(pod):
            self._service_account(served, pod)
        self._priority(served, pod)
        spec = pod["spec"]
        tolerations = spec.setdefault("tolerations", [])
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
            row = self._store.latest(Key("priorityclasses.scheduling.k8s.io", "", name))
            if row is None:
                why = f"no PriorityClass with name {name} was found"
                raise refused(Forbidden, served, name_of(pod), why)
            found = row.decode()
            value = found.get("value") or 0
            preemption = found.get("preemptionPolicy") or preemption
        else:
            for row in self._store.rows("priorityclasses.scheduling.k8s.io"):
                found = row.decode()
                if found.get("globalDefault"):
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
        spec["priority"] = value
        spec.setdefault("preemptionPolicy", preemption)

    # -- NodeRestriction -------------------------------------------------------------------

    def _node(self, served: Served, new: Object, user: User) -> None:
        name = _node_name(user)
        if name and name_of(new) != name:
            why = f'node "{name}" is not allowed to create node "{name_of(new)}"'
            raise refused(Forbidden, served, name_of(new), why)

    def _node_creates(self, served: Served, pod: Object, user: User) -> None:
        name = _node_name(user)
        if not name:
            return
        if _MIRROR not in annotations_of(pod):
            why = (
                f'pod does not have "{_MIRROR}" annotation, node "{name}" can only create mirror'
                " pods"
            )
            raise refused(Forbidden, served, name_of(pod), why)
        if pod["spec"].get("nodeName") != name:
            why = f'node "{name}" can only create pods with spec.nodeName set to itself'
            raise refused(Forbidden, served, name_of(pod), why)

    def _node_restriction(self, served: Served, old: Object, user: User) -> None:
        name = _node_name(user)
        if not name:
            return
        if served.storage == "nodes" and name_of(old) != name:
            why = f'node "{name}" is not allowed to modify node "{name_of(old)}"'
            raise refused(Forbidden, served, name_of(old), why)
        if served.storage == "pods" and (old.get("spec") or {}).get("nodeName") != name:
            why = f'node "{name}" can only modify pods with spec.nodeName set to itself'
            raise refused(Forbidden, served, name_of(old), why)

    # -- RBAC ------------------------------------------------------------------------------

    def _role(self, _served: Served, role: Object, user: User) -> None:
        self._rbac.check_grant(user, role.get("rules") or (), namespace_of(role))

    def _binding(self, _served: Served, binding: Object, user: User) -> None:
        reference = binding.get("roleRef") or {}
        namespace = namespace_of(binding)
        rules = list(self._rbac.role_rules(reference, namespace))
        self._rbac.check_grant(user, rules, namespace)


def _node_name(user: User) -> str:
    if NODES in user.groups and user.name.startswith(NODE_PREFIX):
        return user.name.removeprefix(NODE_PREFIX)
    return ""


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
