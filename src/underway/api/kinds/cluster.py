"""Rules of configuration, storage, access and cluster objects, and of CustomResourceDefinitions.

Source: Kubernetes ``pkg/apis/core/validation``, ``pkg/apis/rbac/validation``,
``pkg/apis/policy/validation``, ``pkg/apis/autoscaling/validation``, apiextensions-apiserver
``pkg/apis/apiextensions/validation``.
"""

from __future__ import annotations

import base64
import binascii

from underway.api import names, quantity
from underway.api.kinds.causes import (
    bad,
    forbidden,
    not_negative,
    one_of,
    required,
    too_long,
    unchanged,
    unsupported,
)
from underway.api.kinds.workloads import check_selector
from underway.api.objects import Object
from underway.api.shape import boolean, items, mapping, sequence, text, texts
from underway.base.errors import Cause

DATA_LIMIT_BYTES = 1024 * 1024
RBAC_GROUP = "rbac.authorization.k8s.io"
_SEALED = "field is immutable when `immutable` is set"
_ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_SECRET_KEYS = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
_PRIORITY_LIMIT = 1_000_000_000


def check_config_map(obj: Object) -> list[Cause]:
    """What is wrong with a ConfigMap."""
    found: list[Cause] = []
    data, binary = texts(obj, "data"), texts(obj, "binaryData")
    size_bytes = 0
    for key, value in data.items():
        found += [bad(f"data[{key}]", key, message) for message in names.config_key(key)]
        if key in binary:
            message = "duplicate of key present in binaryData"
            found.append(bad(f"data[{key}]", key, message))
        size_bytes += len(value.encode())
    for key, value in binary.items():
        found += [bad(f"binaryData[{key}]", key, message) for message in names.config_key(key)]
        decoded = _decoded(value)
        if decoded is None:
            found.append(bad(f"binaryData[{key}]", "<binary>", "must be base64"))
        size_bytes += len(decoded or b"")
    if size_bytes > DATA_LIMIT_BYTES:
        found.append(too_long("[]", DATA_LIMIT_BYTES))
    return found


def check_secret(obj: Object) -> list[Cause]:
    """What is wrong with a Secret; values are never quoted."""
    found: list[Cause] = []
    data = texts(obj, "data")
    size_bytes = 0
    for key, value in data.items():
        found += [bad(f"data[{key}]", key, message) for message in names.config_key(key)]
        decoded = _decoded(value)
        if decoded is None:
            found.append(bad(f"data[{key}]", "<secret contents redacted>", "must be base64"))
        size_bytes += len(decoded or b"")
    if size_bytes > DATA_LIMIT_BYTES:
        found.append(too_long("data", DATA_LIMIT_BYTES))
    kind = text(obj, "type")
    found += [required(f"data[{key}]") for key in _SECRET_KEYS.get(kind, ()) if key not in data]
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        found += [required("data[%username]"), required("data[%password]")]
    if kind == "kubernetes.io/service-account-token":
        annotations = texts(mapping(obj, "metadata"), "annotations")
        name = "kubernetes.io/service-account.name"
        if not annotations.get(name):
            found.append(required(f"metadata.annotations[{name}]"))
    return found


def _decoded(value: str) -> bytes | None:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return None


def keep_config(new: Object, old: Object) -> list[Cause]:
    """What an immutable ConfigMap or Secret may not change."""
    if not boolean(old, "immutable"):
        return []
    found = []
    if not boolean(new, "immutable"):
        found.append(forbidden("immutable", _SEALED))
    found += [
        forbidden(name, _SEALED)
        for name in ("data", "binaryData")
        if mapping(new, name) != mapping(old, name)
    ]
    return found


def keep_secret(new: Object, old: Object) -> list[Cause]:
    """A Secret's type stays."""
    return unchanged("type", new.get("type"), old.get("type")) + keep_config(new, old)


def check_event(obj: Object) -> list[Cause]:
    """What is wrong with an event: it must lie where the object it is about lies."""
    about = mapping(obj, "involvedObject") or mapping(obj, "regarding")
    namespace, own = text(about, "namespace"), text(mapping(obj, "metadata"), "namespace")
    if namespace == own or (not namespace and own in ("default", "")):
        return []
    return [bad("involvedObject.namespace", namespace, "does not match event.namespace")]


def check_node(obj: Object) -> list[Cause]:
    """What is wrong with a Node."""
    found: list[Cause] = []
    for number, taint in enumerate(items(mapping(obj, "spec"), "taints")):
        at = f"spec.taints[{number}]"
        key = text(taint, "key")
        if key:
            found += [bad(f"{at}.key", key, each) for each in names.qualified_name(key)]
        else:
            found.append(required(f"{at}.key"))
        effects = ("NoExecute", "NoSchedule", "PreferNoSchedule")
        found += one_of(f"{at}.effect", taint.get("effect"), effects)
    return found


def check_lease(obj: Object) -> list[Cause]:
    """What is wrong with a Lease."""
    spec = mapping(obj, "spec")
    found: list[Cause] = []
    duration = spec.get("leaseDurationSeconds")
    if duration is not None and (not isinstance(duration, int) or duration <= 0):
        found.append(bad("spec.leaseDurationSeconds", duration, "must be greater than 0"))
    return found + not_negative("spec.leaseTransitions", spec.get("leaseTransitions"))


def check_claim(obj: Object) -> list[Cause]:
    """What is wrong with a PersistentVolumeClaim."""
    spec = mapping(obj, "spec")
    found = _check_access_modes(spec)
    requests = mapping(mapping(spec, "resources"), "requests")
    if "storage" not in requests:
        found.append(required("spec.resources[storage]"))
    else:
        found += _check_size(requests["storage"], "spec.resources[storage]")
    return found + check_selector(spec.get("selector"), "spec.selector")


def check_volume(obj: Object) -> list[Cause]:
    """What is wrong with a PersistentVolume."""
    spec = mapping(obj, "spec")
    found = _check_access_modes(spec)
    capacity = mapping(spec, "capacity")
    if "storage" not in capacity:
        found.append(required("spec.capacity"))
    else:
        found += _check_size(capacity["storage"], "spec.capacity[storage]")
    policies = ("Delete", "Recycle", "Retain")
    policy = spec.get("persistentVolumeReclaimPolicy")
    return found + one_of("spec.persistentVolumeReclaimPolicy", policy, policies)


def _check_access_modes(spec: Object) -> list[Cause]:
    modes = sequence(spec, "accessModes")
    if not modes:
        return [required("spec.accessModes", "at least 1 access mode is required")]
    return [
        unsupported("spec.accessModes", mode, _ACCESS_MODES)
        for mode in modes
        if mode not in _ACCESS_MODES
    ]


def _check_size(amount: object, field: str) -> list[Cause]:
    if not quantity.is_quantity(amount):
        return [bad(field, amount, quantity.MESSAGE)]
    if quantity.parse(str(amount)) <= 0:
        return [bad(field, amount, "must be greater than zero")]
    return []


def keep_claim(new: Object, old: Object) -> list[Cause]:
    """A claim may grow, be bound, and be given a class if it has none; nothing else changes."""
    changeable = ["resources", "volumeName", "volumeAttributesClassName"]
    before = mapping(old, "spec")
    if before.get("storageClassName") is None and not before.get("volumeName"):
        changeable.append("storageClassName")

    def fixed(obj: Object) -> Object:
        return {
            name: value for name, value in mapping(obj, "spec").items() if name not in changeable
        }

    if fixed(new) == fixed(old):
        return []
    message = (
        "spec is immutable after creation except resources.requests and "
        "volumeAttributesClassName for bound claims"
    )
    return [forbidden("spec", message)]


def check_role(obj: Object) -> list[Cause]:
    """What is wrong with a Role or ClusterRole."""
    found: list[Cause] = []
    namespaced = obj.get("kind") == "Role"
    for number, rule in enumerate(items(obj, "rules")):
        at = f"rules[{number}]"
        if not sequence(rule, "verbs"):
            found.append(required(f"{at}.verbs", "verbs must contain at least one value"))
        urls = sequence(rule, "nonResourceURLs")
        if urls:
            if namespaced:
                message = "namespaced rules cannot apply to non-resource URLs"
                found.append(bad(f"{at}.nonResourceURLs", urls, message))
            if any(sequence(rule, each) for each in ("apiGroups", "resources", "resourceNames")):
                message = "rules cannot apply to both regular resources and non-resource URLs"
                found.append(bad(f"{at}.nonResourceURLs", urls, message))
            continue
        if not sequence(rule, "apiGroups"):
            message = "resource rules must supply at least one api group"
            found.append(required(f"{at}.apiGroups", message))
        if not sequence(rule, "resources"):
            message = "resource rules must supply at least one resource"
            found.append(required(f"{at}.resources", message))
    return found


def check_binding(obj: Object) -> list[Cause]:
    """What is wrong with a RoleBinding or ClusterRoleBinding."""
    reference = mapping(obj, "roleRef")
    found: list[Cause] = []
    if reference.get("apiGroup") != RBAC_GROUP:
        found.append(unsupported("roleRef.apiGroup", reference.get("apiGroup"), (RBAC_GROUP,)))
    kinds = ("ClusterRole",) if obj.get("kind") == "ClusterRoleBinding" else ("Role", "ClusterRole")
    if reference.get("kind") not in kinds:
        found.append(unsupported("roleRef.kind", reference.get("kind"), kinds))
    role = text(reference, "name")
    if not role:
        found.append(required("roleRef.name"))
    found += [bad("roleRef.name", role, message) for message in names.path_segment(role)]
    everywhere = obj.get("kind") == "ClusterRoleBinding"
    for number, subject in enumerate(items(obj, "subjects")):
        at = f"subjects[{number}]"
        kind = subject.get("kind")
        name, group = text(subject, "name"), text(subject, "apiGroup")
        if not name:
            found.append(required(f"{at}.name"))
        elif kind == "ServiceAccount":
            found += [bad(f"{at}.name", name, message) for message in names.dns_subdomain(name)]
        if kind not in ("Group", "ServiceAccount", "User"):
            found.append(unsupported(f"{at}.kind", kind, ("ServiceAccount", "User", "Group")))
        elif kind != "ServiceAccount":
            if group != RBAC_GROUP:
                found.append(unsupported(f"{at}.apiGroup", group, (RBAC_GROUP,)))
        else:
            if everywhere and not text(subject, "namespace"):
                found.append(required(f"{at}.namespace"))
            if group:
                found.append(unsupported(f"{at}.apiGroup", group, ("",)))
    return found


def keep_binding(new: Object, old: Object) -> list[Cause]:
    """The role a binding grants stays."""
    if new.get("roleRef") == old.get("roleRef"):
        return []
    return [bad("roleRef", new.get("roleRef"), "cannot change roleRef")]


def check_disruption_budget(obj: Object) -> list[Cause]:
    """What is wrong with a PodDisruptionBudget."""
    spec = mapping(obj, "spec")
    found = check_selector(spec.get("selector"), "spec.selector")
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        message = "minAvailable and maxUnavailable cannot be both set"
        found.append(bad("spec", spec, message))
    return found


def check_autoscaler(obj: Object) -> list[Cause]:
    """What is wrong with a HorizontalPodAutoscaler."""
    spec = mapping(obj, "spec")
    target = mapping(spec, "scaleTargetRef")
    found = [
        required(f"spec.scaleTargetRef.{name}")
        for name in ("kind", "name")
        if not text(target, name)
    ]
    low, high = spec.get("minReplicas"), spec.get("maxReplicas")
    if not isinstance(high, int) or high < 1:
        found.append(bad("spec.maxReplicas", high, "must be greater than 0"))
    elif isinstance(low, int) and high < low:
        message = "must be greater than or equal to `minReplicas`"
        found.append(bad("spec.maxReplicas", high, message))
    return found


def check_priority_class(obj: Object) -> list[Cause]:
    """What is wrong with a PriorityClass."""
    value, name = obj.get("value"), text(mapping(obj, "metadata"), "name")
    if isinstance(value, int) and value > _PRIORITY_LIMIT and not name.startswith("system-"):
        message = f"maximum allowed value of a user defined priority is {_PRIORITY_LIMIT}"
        return [forbidden("value", message)]
    return []


def keep_priority_class(new: Object, old: Object) -> list[Cause]:
    """A class's priority stays."""
    if new.get("value") == old.get("value"):
        return []
    return [forbidden("value", "may not be changed in an update.")]


def check_storage_class(obj: Object) -> list[Cause]:
    """What is wrong with a StorageClass."""
    found = [] if text(obj, "provisioner") else [required("provisioner")]
    modes = ("Immediate", "WaitForFirstConsumer")
    return found + one_of("volumeBindingMode", obj.get("volumeBindingMode"), modes)


def keep_definition(new: Object, old: Object) -> list[Cause]:
    """A definition's group, scope and established names stay."""
    ours, theirs = mapping(new, "spec"), mapping(old, "spec")
    found: list[Cause] = []
    for field in ("group", "scope"):
        found += unchanged(f"spec.{field}", ours.get(field), theirs.get(field))
    for field in ("kind", "plural"):
        new_name, old_name = (mapping(each, "names").get(field) for each in (ours, theirs))
        found += unchanged(f"spec.names.{field}", new_name, old_name)
    return found


def check_quota(obj: Object) -> list[Cause]:
    """What is wrong with a ResourceQuota."""
    return [
        bad(f"spec.hard[{name}]", amount, quantity.MESSAGE)
        for name, amount in mapping(mapping(obj, "spec"), "hard").items()
        if not quantity.is_quantity(amount)
    ]
