"""Who may do what: the Node authorizer, then RBAC.

A node may read the secrets, configmaps, claims and volumes that pods bound to it name, one by one,
and touch only what is its own.

Source: Kubernetes reference, "Using Node Authorization"; kubernetes
``plugin/pkg/auth/authorizer/node`` and ``rbac/bootstrappolicy`` (NodeRules).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from underway.api.objects import Object, name_of, namespace_of
from underway.server.bootstrap_roles import NODE_RULES
from underway.server.identity import NODE_PREFIX, NODES, Attributes, User
from underway.server.rbac import Rbac, RoleSource, rule_allows
from underway.server.store import Change, Key, Store

_NODE_NAME = re.compile(rb'"nodeName":"([^"\\]+)"')
_NAMED_READS = ("get", "list", "watch")
_OWN_WRITES = ("get", "create", "update", "patch", "delete")
LEASE_NAMESPACE = "kube-node-lease"
_REFERRED = {
    ("", "configmaps"): "configmaps",
    ("", "persistentvolumeclaims"): "persistentvolumeclaims",
    ("", "secrets"): "secrets",
    ("resource.k8s.io", "resourceclaims"): "resourceclaims",
}


class Authorizer(Rbac):
    """Decisions for everybody."""

    def __init__(self, source: RoleSource, store: Store) -> None:
        super().__init__(source)
        self._nodes = _NodeAuthorizer(store)

    def allows(self, user: User, wanted: Attributes) -> bool:
        """Whether the user may do it."""
        node = node_of(user)
        if node and self._nodes.allows(node, wanted):
            return True
        return super().allows(user, wanted)


def _node_names(data: bytes) -> list[str]:
    """What a pod's JSON calls nodeName anywhere: cheaper than decoding it, and a superset."""
    return [name.decode() for name in _NODE_NAME.findall(data)]


def node_of(user: User) -> str:
    """The node a user is; empty for all others."""
    if NODES in user.groups and user.name.startswith(NODE_PREFIX):
        return user.name.removeprefix(NODE_PREFIX)
    return ""


class _NodeAuthorizer:
    """What one node may do."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_node: dict[str, set[Key]] | None = None

    def allows(self, node: str, wanted: Attributes) -> bool:
        """Whether the node may do it, as far as this authorizer knows."""
        kind = (wanted.group, wanted.resource)
        if kind in _REFERRED:
            return self._may_read(node, wanted, _REFERRED[kind])
        match kind:
            case ("", "persistentvolumes"):
                return wanted.verb == "get" and self._uses_volume(node, wanted.target)
            case ("", "serviceaccounts"):
                return self._service_account(node, wanted)
            case ("", "nodes"):
                return _node(node, wanted)
            case ("", "pods"):
                return self._pod(node, wanted)
            case ("coordination.k8s.io", "leases"):
                return wanted.namespace == LEASE_NAMESPACE and _own(node, wanted)
            case ("storage.k8s.io", "csinodes"):
                return _own(node, wanted)
            case ("storage.k8s.io", "volumeattachments"):
                return wanted.verb == "get" and self._attached(node, wanted.target)
        return any(rule_allows(rule, wanted) for rule in NODE_RULES)

    def pods_of(self, node: str, namespace: str | None = None) -> Iterator[Object]:
        """The pods bound to a node."""
        for key in tuple(self._bound().get(node, ())):
            if namespace is not None and key.namespace != namespace:
                continue
            row = self._store.get(key)
            pod = row.decode() if row else {}
            if (pod.get("spec") or {}).get("nodeName") == node:
                yield pod

    def _bound(self) -> dict[str, set[Key]]:
        """Node -> pods that are bound to it or look so; kept from the first question on."""
        if self._by_node is None:
            self._by_node = {}
            for row in self._store.rows("pods"):
                self._note(row.key, row.data)
            self._store.subscribe(self._changed)
        return self._by_node

    def _changed(self, change: Change) -> None:
        if change.row.key.resource != "pods":
            return
        if change.type == "DELETED":
            for pods in map(self._bound().get, _node_names(change.row.data)):
                if pods is not None:
                    pods.discard(change.row.key)
        else:
            self._note(change.row.key, change.row.data)

    def _note(self, key: Key, data: bytes) -> None:
        assert self._by_node is not None
        for node in _node_names(data):
            self._by_node.setdefault(node, set()).add(key)

    def _may_read(self, node: str, wanted: Attributes, kind: str) -> bool:
        if wanted.subresource == "status" and kind == "persistentvolumeclaims":
            if wanted.verb not in ("update", "patch"):
                return False
        elif wanted.subresource or wanted.verb not in self._verbs(kind):
            return False
        if not wanted.target or not wanted.namespace:
            return False
        pods = self.pods_of(node, wanted.namespace)
        if any((kind, wanted.target) in set(references(pod)) for pod in pods):
            return True
        return kind == "secrets" and self._volume_secret(node, wanted.namespace, wanted.target)

    @staticmethod
    def _verbs(kind: str) -> tuple[str, ...]:
        return _NAMED_READS if kind in ("configmaps", "secrets") else ("get",)

    def _uses_volume(self, node: str, volume: str) -> bool:
        row = self._store.get(Key("persistentvolumes", "", volume)) if volume else None
        if row is None:
            return False
        claim = (row.decode().get("spec") or {}).get("claimRef") or {}
        wanted = ("persistentvolumeclaims", claim.get("name"))
        pods = self.pods_of(node, claim.get("namespace") or "")
        return any(wanted in set(references(pod)) for pod in pods)

    def _volume_secret(self, node: str, namespace: str, name: str) -> bool:
        """Whether a volume that a pod of the node uses names the secret."""
        for pod in self.pods_of(node):
            for kind, claim in references(pod):
                if kind != "persistentvolumeclaims":
                    continue
                row = self._store.get(Key(kind, namespace_of(pod), claim))
                bound = (row.decode().get("spec") or {}).get("volumeName") if row else None
                volume = self._store.get(Key("persistentvolumes", "", bound)) if bound else None
                if volume is not None and (namespace, name) in _secrets_of_volume(volume.decode()):
                    return True
        return False

    def _attached(self, node: str, name: str) -> bool:
        row = self._store.get(Key("volumeattachments.storage.k8s.io", "", name)) if name else None
        return row is not None and (row.decode().get("spec") or {}).get("nodeName") == node

    def _service_account(self, node: str, wanted: Attributes) -> bool:
        reads = wanted.verb == "get" and not wanted.subresource
        if not reads and (wanted.verb, wanted.subresource) != ("create", "token"):
            return False
        if not wanted.target:
            return False
        return any(
            ((pod.get("spec") or {}).get("serviceAccountName") or "default") == wanted.target
            for pod in self.pods_of(node, wanted.namespace)
        )

    def _pod(self, node: str, wanted: Attributes) -> bool:
        match wanted.subresource, wanted.verb:
            case "", "get":
                pods = self.pods_of(node, wanted.namespace)
                return any(name_of(pod) == wanted.target for pod in pods)
            case "", "list" | "watch":
                return f"spec.nodeName={node}" in wanted.fields.replace("==", "=").split(",")
            case "", "create" | "delete":
                return True  # NodeRestriction says which
            case "status", "update" | "patch":
                return True
            case "eviction", "create":
                return True
        return False


def _node(node: str, wanted: Attributes) -> bool:
    match wanted.subresource, wanted.verb:
        case "", "create" | "update" | "patch":
            return True  # NodeRestriction says which
        case "", "get" | "list" | "watch":
            return wanted.target == node
        case "status", "update" | "patch":
            return True
    return False


def _own(node: str, wanted: Attributes) -> bool:
    if wanted.subresource or wanted.verb not in _OWN_WRITES:
        return False
    # What is created has no name in the path yet; NodeRestriction looks at it.
    return wanted.verb == "create" or wanted.target == node


def references(pod: Object) -> Iterator[tuple[str, str]]:
    """The resources and names of what a pod needs from its namespace."""
    spec = pod.get("spec") or {}
    for each in spec.get("imagePullSecrets") or ():
        yield "secrets", each.get("name", "")
    for volume in spec.get("volumes") or ():
        yield from _of_volume(pod, volume)
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(group) or ():
            for source in container.get("envFrom") or ():
                yield "configmaps", (source.get("configMapRef") or {}).get("name", "")
                yield "secrets", (source.get("secretRef") or {}).get("name", "")
            for variable in container.get("env") or ():
                value = variable.get("valueFrom") or {}
                yield "configmaps", (value.get("configMapKeyRef") or {}).get("name", "")
                yield "secrets", (value.get("secretKeyRef") or {}).get("name", "")
    for status in (pod.get("status") or {}).get("resourceClaimStatuses") or ():
        yield "resourceclaims", status.get("resourceClaimName", "")
    for claim in spec.get("resourceClaims") or ():
        yield "resourceclaims", claim.get("resourceClaimName", "")


def _of_volume(pod: Object, volume: Object) -> Iterator[tuple[str, str]]:
    yield "configmaps", (volume.get("configMap") or {}).get("name", "")
    yield "secrets", (volume.get("secret") or {}).get("secretName", "")
    claim = volume.get("persistentVolumeClaim") or {}
    yield "persistentvolumeclaims", claim.get("claimName", "")
    if "ephemeral" in volume:
        yield "persistentvolumeclaims", f"{name_of(pod)}-{volume.get('name')}"
    for source in (volume.get("projected") or {}).get("sources") or ():
        yield "configmaps", (source.get("configMap") or {}).get("name", "")
        yield "secrets", (source.get("secret") or {}).get("name", "")
    for driver in volume.values():
        if isinstance(driver, dict):
            for field in ("secretRef", "nodePublishSecretRef"):
                yield "secrets", (driver.get(field) or {}).get("name", "")
    yield "secrets", (volume.get("azureFile") or {}).get("secretName", "")


def _secrets_of_volume(volume: Object) -> set[tuple[str, str]]:
    """Namespaces and names of the secrets a PersistentVolume's driver needs on the node."""
    spec = volume.get("spec") or {}
    default = (spec.get("claimRef") or {}).get("namespace") or ""
    found: set[tuple[str, str]] = set()
    for driver in spec.values():
        if not isinstance(driver, dict):
            continue
        for field in ("secretRef", "nodePublishSecretRef", "nodeStageSecretRef"):
            reference: Any = driver.get(field)
            if isinstance(reference, dict) and reference.get("name"):
                found.add((reference.get("namespace") or default, reference["name"]))
        if driver.get("secretName"):
            found.add((driver.get("secretNamespace") or default, driver["secretName"]))
    return found
