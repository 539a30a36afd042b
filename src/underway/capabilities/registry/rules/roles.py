"""Who may do what in a project: Harbor's roles and its public projects, as sets of rights.

A right is ``resource:action``. Source: goharbor/harbor src/common/rbac/project (roles and their
policies) and src/common/rbac/const.go (names).
"""

from __future__ import annotations

from collections.abc import Iterable

from underway.capabilities.registry.model import Access, Permission

ROLES = {1: "projectAdmin", 2: "developer", 3: "guest", 4: "maintainer", 5: "limitedGuest"}

_CRUDL = ("create", "read", "update", "delete", "list")
_ALL: dict[str, tuple[str, ...]] = {
    "project": ("read", "update", "delete"),
    "metadata": _CRUDL,
    "member": _CRUDL,
    "log": ("list",),
    "label": _CRUDL,
    "quota": ("read",),
    "repository": ("read", "update", "delete", "list", "pull", "push"),
    "artifact": ("create", "read", "delete", "list"),
    "artifact-addition": ("read",),
    "artifact-label": ("create", "delete"),
    "tag": ("create", "delete", "list"),
    "accessory": ("list",),
    "tag-retention": (*_CRUDL, "operate"),
    "immutable-tag": _CRUDL,
    "configuration": ("read", "update"),
    "robot": _CRUDL,
    "notification-policy": _CRUDL,
    "scan": ("create", "read", "stop"),
    "sbom": ("create", "read", "stop"),
    "scanner": ("create", "read"),
    "export-cve": ("create", "read", "list"),
}


def _set(*groups: str) -> frozenset[str]:
    found = set()
    for group in groups:
        resource, _, actions = group.partition(":")
        found |= {f"{resource}:{a}" for a in (actions.split(",") if actions else _ALL[resource])}
    return frozenset(found)


_LIMITED_GUEST = _set(
    "project:read", "quota", "repository:list,pull", "configuration:read", "scan:read", "sbom:read",
    "artifact:read,list", "tag:list", "accessory", "artifact-addition", "scanner:read",
)  # fmt: skip
_GUEST = _LIMITED_GUEST | _set(
    "member:read,list", "label:read,list", "log", "repository:read", "robot:read,list",
    "metadata:read,list",
)  # fmt: skip
_DEVELOPER = _GUEST | _set(
    "repository:update,push", "artifact:create", "artifact-label", "tag:create", "export-cve",
)  # fmt: skip
_MAINTAINER = _DEVELOPER | _set(
    "metadata", "label", "repository", "artifact", "tag", "tag-retention", "immutable-tag", "scan",
    "sbom", "notification-policy:list,read",
)  # fmt: skip
ADMINISTRATOR = _set(*_ALL)
PUBLIC = _set(
    "project:read", "repository:list,read,pull", "configuration:read", "scan:read", "sbom:read",
    "label:read,list", "artifact:read,list", "tag:list", "accessory", "artifact-addition",
    "scanner:read", "metadata:read,list",
)  # fmt: skip

OF_ROLE = {1: ADMINISTRATOR, 2: _DEVELOPER, 3: _GUEST, 4: _MAINTAINER, 5: _LIMITED_GUEST}

SYSTEM: dict[str, tuple[str, ...]] = {
    "audit-log": ("list",),
    "catalog": ("read",),
    "garbage-collection": (*_CRUDL, "stop"),
    "jobservice-monitor": ("list", "stop"),
    "label": ("create", "read", "update", "delete"),
    "project": ("create", "list"),
    "purge-audit": (*_CRUDL, "stop"),
    "quota": ("list", "read", "update"),
    "registry": _CRUDL,
    "replication": ("create", "list", "read"),
    "replication-adapter": ("list",),
    "replication-policy": _CRUDL,
    "robot": ("create", "list", "read", "delete"),
    "scan-all": ("create", "read", "stop", "update"),
    "scanner": _CRUDL,
    "security-hub": ("list", "read"),
    "system-volumes": ("read",),
    "user": _CRUDL,
    "user-group": _CRUDL,
}


def robot_rights(permissions: Iterable[Permission], project: str) -> frozenset[str]:
    """A robot's rights in a project; ``project`` empty: on the registry itself."""
    rights = set()
    for permission in permissions:
        if project:
            applies = permission.kind == "project" and permission.namespace in (project, "*")
        else:
            applies = permission.kind == "system"
        if applies:
            rights |= {f"{each.resource}:{each.action}" for each in permission.access
                       if each.effect != "deny"}  # fmt: skip
    if "repository:push" in rights:
        rights.add("repository:pull")  # who pushes has to look
    return frozenset(rights)


def image_actions(rights: frozenset[str]) -> frozenset[str]:
    """What rights mean to the distribution API: some of pull, push and delete."""
    found = {action for action in ("pull", "push") if f"repository:{action}" in rights}
    if rights & {"artifact:delete", "repository:delete"}:
        found.add("delete")
    return frozenset(found)


def image_permission(project: str, actions: Iterable[str]) -> Permission:
    """The permission to pull, push or delete in a project."""
    wanted = [Access("repository", action) for action in actions]
    if "delete" in actions:
        wanted += [Access("artifact", "delete"), Access("tag", "delete")]
    if "pull" in actions:
        wanted += [Access(each, "list") for each in ("repository", "artifact", "tag")]
        wanted.append(Access("artifact", "read"))
    return Permission("project", project, tuple(wanted))


def catalogue() -> dict[str, list[dict[str, str]]]:
    """Every permission a robot can have, as ``/permissions`` lists them."""
    return {
        "project": [{"resource": r, "action": a} for r, actions in _ALL.items() for a in actions],
        "system": [{"resource": r, "action": a} for r, actions in SYSTEM.items() for a in actions],
    }
