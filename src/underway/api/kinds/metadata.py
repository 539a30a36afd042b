"""Rules of ``metadata``: names, labels, annotations, owners, and what an update may not change.

Source: Kubernetes apimachinery ``pkg/api/validation/objectmeta.go``; names by kind from each
group's ``validation.go``.
"""

from __future__ import annotations

from collections.abc import Callable

from underway.api import names
from underway.api.kinds import infrastructure
from underway.api.kinds.causes import bad, forbidden, required, unchanged
from underway.api.objects import Object
from underway.api.resources import Resource
from underway.api.shape import items, mapping, sequence, text, texts
from underway.base.errors import Cause

ANNOTATIONS_LIMIT_BYTES = 256 * 1024
_NAME_RULES: dict[tuple[str, str], Callable[[str], list[str]]] = {
    **infrastructure.NAMES,
    ("", "Namespace"): names.dns_label,
    ("", "Service"): names.dns_1035_label,
    ("rbac.authorization.k8s.io", "ClusterRole"): names.path_segment,
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): names.path_segment,
    ("rbac.authorization.k8s.io", "Role"): names.path_segment,
    ("rbac.authorization.k8s.io", "RoleBinding"): names.path_segment,
}


def check_metadata(resource: Resource, obj: Object) -> list[Cause]:
    """What is wrong with a new object's metadata."""
    metadata = mapping(obj, "metadata")
    rule = _NAME_RULES.get((resource.group, resource.kind), names.dns_subdomain)
    found: list[Cause] = []
    name, generate = text(metadata, "name"), text(metadata, "generateName")
    if name:
        found += [bad("metadata.name", name, message) for message in rule(name)]
    else:
        found.append(required("metadata.name", "name or generateName is required"))
    if generate:
        # What follows a generated name's base is alphanumeric, so a dash at its end is fine.
        probe = generate.rstrip("-") or generate
        found += [bad("metadata.generateName", generate, each) for each in rule(probe)]
    namespace = text(metadata, "namespace")
    if resource.namespaced:
        if not namespace:
            found.append(required("metadata.namespace"))
        else:
            messages = names.dns_label(namespace)
            found += [bad("metadata.namespace", namespace, each) for each in messages]
    elif namespace:
        found.append(forbidden("metadata.namespace", "not allowed on this type"))
    return found + _check_common(metadata)


def _check_common(metadata: Object) -> list[Cause]:
    found = check_labels(texts(metadata, "labels"), "metadata.labels")
    found += check_annotations(texts(metadata, "annotations"), "metadata.annotations")
    for number, finalizer in enumerate(sequence(metadata, "finalizers")):
        field = f"metadata.finalizers[{number}]"
        found += [bad(field, finalizer, each) for each in names.qualified_name(str(finalizer))]
    found += _check_owners(items(metadata, "ownerReferences"))
    return found


def _check_owners(owners: list[Object]) -> list[Cause]:
    found: list[Cause] = []
    controllers = 0
    for number, owner in enumerate(owners):
        field = f"metadata.ownerReferences[{number}]"
        found += [
            bad(f"{field}.{name}", "", f"{name} must not be empty")
            for name in ("apiVersion", "kind", "name", "uid")
            if not text(owner, name)
        ]
        controllers += bool(owner.get("controller"))
        if controllers > 1:
            detail = "Only one reference can have Controller set to true"
            found.append(bad("metadata.ownerReferences", owner.get("name"), detail))
            controllers = 1
    return found


def check_labels(labels: dict[str, str], field: str) -> list[Cause]:
    """What is wrong with labels."""
    found: list[Cause] = []
    for key, value in labels.items():
        found += [bad(field, key, message) for message in names.qualified_name(key)]
        found += [bad(field, value, message) for message in names.label_value(value)]
    return found


def check_annotations(annotations: dict[str, str], field: str) -> list[Cause]:
    """What is wrong with annotations: their keys, and their size together."""
    found: list[Cause] = []
    size_bytes = 0
    for key, value in annotations.items():
        found += [bad(field, key, message) for message in names.qualified_name(key.lower())]
        size_bytes += len(key.encode()) + len(value.encode())
    if size_bytes > ANNOTATIONS_LIMIT_BYTES:
        message = f"Too long: may not be more than {ANNOTATIONS_LIMIT_BYTES} bytes"
        found.append(Cause(field, message, "FieldValueTooLong"))
    return found


def check_metadata_update(new: Object, old: Object) -> list[Cause]:
    """What is wrong with changed metadata."""
    ours, theirs = mapping(new, "metadata"), mapping(old, "metadata")
    found: list[Cause] = []
    for name in ("name", "namespace", "uid", "creationTimestamp"):
        found += unchanged(f"metadata.{name}", ours.get(name), theirs.get(name))
    if theirs.get("deletionTimestamp"):
        added = set(sequence(ours, "finalizers")) - set(sequence(theirs, "finalizers"))
        if added:
            listed = ", ".join(f'"{name}"' for name in sorted(added))
            detail = (
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}"
            )
            found.append(forbidden("metadata.finalizers", detail))
    return found + _check_common(ours)
