"""delete: grace periods, finalizers, propagation, preconditions.

Source: Kubernetes "Garbage Collection", "Finalizers", "Pod Lifecycle: termination"; apiserver
``pkg/registry/rest/delete.go``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec

from underway.api.objects import Object, deleting, meta, name_of, uid_of
from underway.base.clock import Clock, parse_rfc3339, rfc3339
from underway.base.errors import BadRequest
from underway.server.admission import Admission, Write
from underway.server.call import Call, conflict, not_found
from underway.server.catalog import Served
from underway.server.identity import User
from underway.server.store import Along, Key, Row, Store
from underway.server.writing import finished

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
_POLICIES = ("Orphan", "Background", "Foreground")
_DEFAULT_GRACE_S = 30


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """``meta/v1 DeleteOptions``; an empty ``propagation`` leaves the choice to the server.

    ``sent`` are the options as the client gave them, ``warnings`` takes what it is to be told,
    ``annotations`` what the audit log is.
    """

    grace_s: int | None = None
    uid: str = ""
    resource_version: str = ""
    propagation: str = ""
    dry_run: bool = False
    sent: Object = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, call: Call, body: Any) -> DeleteOptions:
        """The options in a request's body, or else in its query.

        Raises:
            BadRequest: they make no sense.
        """
        options = body if isinstance(body, dict) else {}
        if body is not None and options.get("kind", "DeleteOptions") != "DeleteOptions":
            raise BadRequest(f"expected DeleteOptions in the body, got {options.get('kind')}")
        grace = options.get("gracePeriodSeconds")
        if grace is None:
            grace = call.number("gracePeriodSeconds")
        propagation = options.get("propagationPolicy") or call.params.get("propagationPolicy", "")
        orphan = options.get("orphanDependents")
        if not propagation and orphan is not None:
            propagation = "Orphan" if orphan else "Background"
        if propagation and propagation not in _POLICIES:
            raise BadRequest(
                f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value:'
                f' "{propagation}": supported values: "Foreground", "Background", "Orphan"'
            )
        preconditions = options.get("preconditions") or {}
        return cls(
            grace,
            preconditions.get("uid") or "",
            preconditions.get("resourceVersion") or "",
            propagation,
            call.dry_run or "All" in (options.get("dryRun") or ()),
            {"apiVersion": "meta.k8s.io/v1", **options, "kind": "DeleteOptions"},
            call.warnings,
            call.annotations,
        )


@dataclass(frozen=True, slots=True)
class Deleted:
    """The object's JSON as it is now, and whether it is gone."""

    data: bytes
    gone: bool


def _alone(_obj: Object) -> Along:
    """Nothing else is stored."""
    return ()


class Deleter:
    """Begins deletions, and finishes those that nothing holds."""

    def __init__(self, store: Store, admission: Admission, clock: Clock) -> None:
        self._store = store
        self._admission = admission
        self._clock = clock

    async def delete(
        self,
        served: Served,
        key: Key,
        options: DeleteOptions,
        user: User,
        along: Callable[[Object], Along] = _alone,
    ) -> Deleted:
        """Delete one object, or mark it as being deleted.

        Args:
            along: asked last, with the object's latest state, which it may change or refuse; what
                it returns is stored in the same transaction.

        Raises:
            NotFound: it is not there.
            Conflict: a precondition does not hold.
            Forbidden: admission refuses it.
        """
        row = self._store.latest(key)
        if row is None:
            raise not_found(served, key.name)
        self._check(served, row, options)
        row = await self._admitted(served, row, options, user)
        obj = row.decode()
        others = along(obj)
        already = deleting(obj)
        grace_s = self._grace(served, obj, options)
        _set_propagation(obj, options.propagation)
        metadata = meta(obj)
        if already:
            # A grace period can only become shorter.
            earlier = metadata.get("deletionGracePeriodSeconds") or 0
            if grace_s < earlier:
                begun = parse_rfc3339(metadata["deletionTimestamp"]) - timedelta(seconds=earlier)
                metadata["deletionTimestamp"] = rfc3339(begun + timedelta(seconds=grace_s))
                metadata["deletionGracePeriodSeconds"] = grace_s
        else:
            self._begin(served, obj, grace_s)
        gone = finished(served, obj)
        if options.dry_run:
            return Deleted(msgspec.json.encode(obj), gone)
        if gone:
            if not already:
                for name in ("deletionTimestamp", "deletionGracePeriodSeconds"):
                    metadata.pop(name, None)
            return Deleted((await self._store.delete(key, obj, row, others)).data, gone=True)
        if obj == row.decode():
            await self._store.settle(key)
            return Deleted(row.data, gone=False)
        return Deleted((await self._store.replace(key, obj, row, others)).data, gone=False)

    async def _admitted(self, served: Served, row: Row, options: DeleteOptions, user: User) -> Row:
        """The object's latest state once nobody objects to its deletion."""
        write = Write(
            served,
            "DELETE",
            user,
            old=row.decode(),
            dry_run=options.dry_run,
            options=options.sent,
            warnings=options.warnings,
            annotations=options.annotations,
        )
        await self._admission.validate(write)
        latest = self._store.latest(row.key)
        if latest is None or latest.uid != row.uid:
            raise not_found(served, row.key.name)
        if latest != row:  # somebody wrote while webhooks were asked
            self._check(served, latest, options)
        return latest

    def _check(self, served: Served, row: Row, options: DeleteOptions) -> None:
        name = row.key.name
        if options.uid and options.uid != row.uid:
            why = (
                f"Precondition failed: UID in precondition: {options.uid},"
                f" UID in object meta: {row.uid}"
            )
            raise conflict(served, name, why)
        if options.resource_version and options.resource_version != str(row.rv):
            why = (
                "Precondition failed: ResourceVersion in precondition:"
                f" {options.resource_version}, ResourceVersion in object meta: {row.rv}"
            )
            raise conflict(served, name, why)

    def _grace(self, served: Served, obj: Object, options: DeleteOptions) -> int:
        """How long the object stays after its deletion was asked for, in seconds."""
        if served.storage != "pods":
            return 0
        spec = obj.get("spec") or {}
        phase = (obj.get("status") or {}).get("phase")
        if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
            return 0
        if options.grace_s is not None:
            return options.grace_s if options.grace_s >= 0 else 1
        if deleting(obj):
            return int(meta(obj).get("deletionGracePeriodSeconds") or 0)
        return int(spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S))

    def _begin(self, served: Served, obj: Object, grace_s: int) -> None:
        metadata = meta(obj)
        metadata["deletionTimestamp"] = rfc3339(self._clock.now() + timedelta(seconds=grace_s))
        metadata["deletionGracePeriodSeconds"] = grace_s
        if metadata.get("generation"):
            metadata["generation"] += 1
        if served.storage == "namespaces":
            obj.setdefault("status", {})["phase"] = "Terminating"


def _set_propagation(obj: Object, propagation: str) -> None:
    """Let finalizers hold the object as its dependents' treatment demands."""
    if not propagation:
        return
    finalizers = [f for f in meta(obj).get("finalizers") or () if f not in (ORPHAN, FOREGROUND)]
    if propagation == "Orphan":
        finalizers.append(ORPHAN)
    elif propagation == "Foreground":
        finalizers.append(FOREGROUND)
    if finalizers:
        meta(obj)["finalizers"] = finalizers
    else:
        meta(obj).pop("finalizers", None)


def success(served: Served, obj: Object) -> Object:
    """The Status that says an object is gone."""
    resource = served.resource
    details: Object = {"name": name_of(obj), "kind": resource.plural, "uid": uid_of(obj)}
    if resource.group:
        details["group"] = resource.group
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }
