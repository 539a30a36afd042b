"""As whom a container runs: securityContext over the image's USER.

Source: OCI image-spec 1.1 config.md (``User``); Kubernetes API reference "SecurityContext".
"""

from __future__ import annotations

from dataclasses import dataclass

from underway.api.objects import Object
from underway.base.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Identity:
    """Numeric user and groups."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def security_context(pod: Object, container: Object) -> Object:
    """The container's securityContext, with what the pod's says where it says nothing itself."""
    shared = (pod.get("spec") or {}).get("securityContext") or {}
    return {**shared, **(container.get("securityContext") or {})}


def resolve(context: Object, image_user: str, passwd: str, group: str) -> Identity:
    """User, group and supplementary groups.

    Args:
        context: the merged securityContext.
        image_user: the image's ``User``: ``name``, ``uid``, ``name:group``, ``uid:gid``.
        passwd: the image's ``/etc/passwd``, empty where it has none.
        group: the image's ``/etc/group``.

    Raises:
        BadRequest: a name is not in the files, or the user is root where that is forbidden.
    """
    asked_user, _, asked_group = image_user.partition(":")
    if context.get("runAsUser") is not None:
        asked_user, asked_group = str(context["runAsUser"]), ""
    entry = _find_user(asked_user or "0", passwd)
    if entry is None:
        raise BadRequest(f"unable to find user {asked_user}: no matching entries in passwd file")
    uid, gid, home, name = entry
    if asked_group:
        found = _find_group(asked_group, group)
        if found is None:
            raise BadRequest(f"unable to find group {asked_group}: no such entry in group file")
        gid = found
    if context.get("runAsGroup") is not None:
        gid = int(context["runAsGroup"])
    if context.get("runAsNonRoot"):
        if uid == 0:
            raise BadRequest("container has runAsNonRoot and image will run as root")
        if context.get("runAsUser") is None and not asked_user.isdigit():
            raise BadRequest(
                f"container has runAsNonRoot and image has non-numeric user ({asked_user}), "
                "cannot verify user is non-root"
            )
    groups = set(context.get("supplementalGroups") or ())
    if context.get("fsGroup") is not None:
        groups.add(int(context["fsGroup"]))
    if context.get("supplementalGroupsPolicy", "Merge") == "Merge" and name:
        groups |= _memberships(name, group)
    return Identity(uid, gid, tuple(sorted(groups)), home)


def _find_user(asked: str, passwd: str) -> tuple[int, int, str, str] | None:
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) < 6 or not fields[2].isdigit() or not fields[3].isdigit():
            continue
        if asked in (fields[0], fields[2]):
            return int(fields[2]), int(fields[3]), fields[5] or "/", fields[0]
    if asked.isdigit():
        return int(asked), 0, "/root" if asked == "0" else "/", ""
    if asked == "root":
        return 0, 0, "/root", ""
    return None


def _find_group(asked: str, group: str) -> int | None:
    for line in group.splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[2].isdigit() and asked in (fields[0], fields[2]):
            return int(fields[2])
    return int(asked) if asked.isdigit() else None


def _memberships(user: str, group: str) -> set[int]:
    found = set()
    for line in group.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[2].isdigit() and user in fields[3].split(","):
            found.add(int(fields[2]))
    return found
