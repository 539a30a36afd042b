"""ControllerRevisions: the templates a StatefulSet or DaemonSet had, for ``rollout undo``.

Source: Kubernetes API reference, ControllerRevision v1 apps.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from underway.api.objects import (
    Object,
    controller_of,
    labels_of,
    meta,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from underway.api.resources import CONTROLLERREVISIONS
from underway.base.errors import AlreadyExists, NotFound
from underway.capabilities.workloads.model import spec_of, template_hash
from underway.reconcile import Informer, Manager

HASH = "controller.kubernetes.io/hash"
DEFAULT_HISTORY_LIMIT = 10


@dataclass(frozen=True)
class Revisions:
    """All revisions of an owner, oldest first; the last is that of its template."""

    all: tuple[Object, ...]

    @property
    def update(self) -> Object:
        """The revision of the template as it is."""
        return self.all[-1]


def hash_of(revision: Object) -> str:
    """The part of a revision's name that tells it from the owner's others."""
    return labels_of(revision).get(HASH, name_of(revision))


def template_of(revision: Object) -> Object:
    """The pod template that a revision keeps."""
    template = dict(revision["data"]["spec"]["template"])
    template.pop("$patch", None)
    return template


async def sync(manager: Manager, revisions: Informer, owner: Object) -> Revisions:
    """The owner's revisions, after one for its template was made or moved to the front."""
    found = sorted(
        (each for each in revisions.owned_by(uid_of(owner)) if _controls(owner, each)),
        key=lambda each: (each.get("revision") or 0, name_of(each)),
    )
    template = spec_of(owner)["template"]
    digest = template_hash(template)
    name = f"{name_of(owner)}-{digest}"
    number = max((each.get("revision") or 0 for each in found), default=0) + 1
    current = next((each for each in found if name_of(each) == name), None)
    if current is None:
        # A revision of the same content under another name is as good: nothing is rolled for it.
        current = next((each for each in reversed(found) if template_of(each) == template), None)
    if current is None:
        current = await _create(manager, owner, template, name, digest, number)
    elif current is not found[-1]:
        current = await manager.client.replace(CONTROLLERREVISIONS, {**current, "revision": number})
    rest = [each for each in found if name_of(each) != name_of(current)]
    return Revisions((*rest, current))


async def prune(manager: Manager, owner: Object, revisions: Revisions, used: set[str]) -> None:
    """Delete the oldest revisions beyond the history limit.

    ``used`` are hashes or names of revisions that pods are of.
    """
    limit = spec_of(owner).get("revisionHistoryLimit")
    limit = DEFAULT_HISTORY_LIMIT if limit is None else int(limit)
    idle = [each for each in revisions.all[:-1] if used.isdisjoint((hash_of(each), name_of(each)))]
    for each in idle[: max(0, len(idle) - limit)]:
        with contextlib.suppress(NotFound):
            await manager.client.delete(
                CONTROLLERREVISIONS, name_of(each), namespace_of(each), uid=uid_of(each)
            )


async def _create(
    manager: Manager, owner: Object, template: Object, name: str, digest: str, number: int
) -> Object:
    labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH: digest}
    revision: Object = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "namespace": meta(owner)["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(owner)],
        },
        "data": {"spec": {"template": {**template, "$patch": "replace"}}},
        "revision": number,
    }
    if cause := (meta(owner).get("annotations") or {}).get("kubernetes.io/change-cause"):
        revision["metadata"]["annotations"] = {"kubernetes.io/change-cause": cause}
    try:
        return await manager.client.create(CONTROLLERREVISIONS, revision)
    except AlreadyExists:
        # The cache has yet to show it.
        return await manager.client.get(CONTROLLERREVISIONS, name, namespace_of(owner))


def _controls(owner: Object, revision: Object) -> bool:
    controller = controller_of(revision)
    return controller is not None and controller["uid"] == uid_of(owner)
