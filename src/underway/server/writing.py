"""create, update and patch: the way of an object from a request into the store.

Nothing between reading the latest state and handing the new one to the store awaits but admission
and conversion webhooks, so two writes of one object never interleave, and a patch without a
resourceVersion cannot conflict. Where a webhook was asked and the object changed meanwhile, the
write is made anew.

Source: Kubernetes API concepts; k8s.io/apiserver ``pkg/registry/generic/registry/store.go``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from underway.api import apply as server_side_apply
from underway.api import kinds, strategy
from underway.api import schema as schemas
from underway.api.defaults import apply_defaults
from underway.api.defaults.setting import drop_nulls
from underway.api.fitting import fits
from underway.api.objects import Object, deleting, meta, name_of, namespace_of, uid_of
from underway.api.patches import copy_json
from underway.base.clock import Clock, rfc3339
from underway.base.errors import BadRequest, Cause, Invalid
from underway.base.ids import generate_name, new_uid
from underway.server import crds
from underway.server.admission import Admission, Write
from underway.server.call import already_exists, conflict, not_found
from underway.server.catalog import Catalog, Served
from underway.server.identity import User
from underway.server.store import Key, Row, Store
from underway.server.versions import converted

_ATTEMPTS = 16  # of a write that waits for webhooks while others change the object

# Kinds that a PUT creates when they are missing.
# Source: ``AllowCreateOnUpdate`` of the strategies in kubernetes ``pkg/registry``.
_PUT_CREATES = frozenset(
    {
        "clusterrolebindings.rbac.authorization.k8s.io",
        "clusterroles.rbac.authorization.k8s.io",
        "endpoints",
        "events",
        "leases.coordination.k8s.io",
        "limitranges",
        "rolebindings.rbac.authorization.k8s.io",
        "roles.rbac.authorization.k8s.io",
        "services",
    }
)


@dataclass(frozen=True)
class By:
    """In whose name and how an object is written.

    ``tracked`` says that managedFields are up to date already; ``raw`` that the change is the
    server's own and not subject to what a client may touch. ``options`` are the request's, for
    webhooks; ``warnings`` takes what the client is to be told, ``annotations`` what the audit log
    is.
    """

    user: User
    manager: str
    subresource: str = ""
    dry_run: bool = False
    tracked: bool = False
    raw: bool = False
    options: Object = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)

    def write(
        self, served: Served, operation: str, new: Object, old: Object | None = None
    ) -> Write:
        """The write as admission sees it."""
        return Write(
            served,
            operation,
            self.user,
            new,
            old,
            self.subresource,
            self.dry_run,
            self.options,
            self.warnings,
            self.annotations,
        )


@dataclass(frozen=True, slots=True)
class Written:
    """The stored JSON after a write, and whether the write created the object."""

    data: bytes
    created: bool = False


Transform = Callable[[Object | None], Object]
"""From the present object as shown (None: there is none) to the wanted one, each time anew."""


class Writer:
    """Writes objects, whole."""

    def __init__(self, store: Store, catalog: Catalog, admission: Admission, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._admission = admission
        self._clock = clock

    async def create(self, served: Served, obj: Object, namespace: str, by: By) -> Written:
        """Store a new object.

        Raises:
            AlreadyExists: the name is taken.
            Invalid: it breaks the rules of its kind.
            Forbidden: admission refuses it.
        """
        new = served.to_stored(obj) if served.to_stored and not served.hub else obj
        metadata = meta(new)
        _place(served, metadata, namespace)
        if metadata.get("resourceVersion"):
            raise BadRequest("resourceVersion should not be set on objects to be created")
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            metadata.pop(name, None)
        metadata["uid"] = new_uid()
        metadata["creationTimestamp"] = rfc3339(self._clock.now())
        key = Key(served.storage, namespace if served.resource.namespaced else "", name_of(new))
        complete(served, new)
        await self._track(served, None, new, by)
        write = by.write(served, "CREATE", new)
        await self._admission.mutate(write, lambda changed: complete(served, changed))
        release = self._admission.allocate(write)
        try:
            strategy.prepare_create(served.resource, new)
            self._admission.finish(write)
            _raise_invalid(served, new, await self._problems_of_new(served, new))
            await self._admission.validate(write)
            stored = await _for_store(served, new)
            self._admission.settle(write)
            if self._store.latest(key) is not None:
                raise already_exists(served, key.name)
            if by.dry_run:
                release()
                return Written(msgspec.json.encode(new), created=True)
            row = await self._store.create(key, stored)
        except BaseException:
            release()
            raise
        return Written(row.data, created=True)

    async def modify(self, served: Served, key: Key, transform: Transform, by: By) -> Written:
        """Store a new state of an object.

        Raises:
            NotFound: there is none, and the kind or the transform does not create one.
            Conflict: the wanted state was made for another version or another object.
            Invalid: it breaks the rules of its kind.
            Forbidden: admission refuses it.
        """
        for _ in range(_ATTEMPTS):
            row = self._store.latest(key)
            if row is None:
                return await self._create_missing(served, key, transform, by)
            written = await self._modify(served, row, transform, by)
            if written is not None:
                return written
        raise conflict(served, key.name)

    async def _modify(
        self, served: Served, row: Row, transform: Transform, by: By
    ) -> Written | None:
        """One attempt; None if the object changed while webhooks were asked."""
        key, old = row.key, row.decode()
        if served.hub:
            old = await _worked_on(served, row)
            present = old
            new = await converted(lambda: transform(copy_json(present)))
        else:
            convert = served.to_shown
            wanted = await converted(
                lambda: transform(convert(row.decode()) if convert else row.decode())
            )
            new = served.to_stored(wanted) if served.to_stored else wanted
        self._check_identity(served, key, row, new)
        if not by.raw:
            complete(served, new)
            strategy.prepare_update(served.resource, new, old, by.subresource)
        self._clean_deletion(new, old)
        await self._track(served, old, new, by)
        write = by.write(served, "UPDATE", new, old)
        if not by.raw and await self._admission.mutate(
            write, lambda changed: complete(served, changed)
        ):
            strategy.prepare_update(served.resource, new, old, by.subresource)
        release = self._admission.allocate(write)
        try:
            self._admission.finish(write)
            if not by.raw:
                problems = await self._problems_of_changed(served, new, old, by.subresource)
                _raise_invalid(served, new, problems)
                await self._admission.validate(write)
            stored = await _for_store(served, new)
            if (served.custom is not None or not by.raw) and self._store.latest(key) != row:
                release()
                return None
            if not by.raw:
                self._admission.settle(write)
            if _same(new, old) and not _stale(served, row):
                release()
                await self._store.settle(key)
                return Written(row.data)
            if by.dry_run:
                release()
                return Written(msgspec.json.encode(new))
            if finished(served, new):
                return Written((await self._store.delete(key, stored, row)).data)
            return Written((await self._store.replace(key, stored, row)).data)
        except BaseException:
            release()
            raise

    async def _create_missing(
        self, served: Served, key: Key, transform: Transform, by: By
    ) -> Written:
        try:
            wanted = transform(None)
        except LookupError:
            raise not_found(served, key.name) from None
        creates = by.tracked or served.storage in _PUT_CREATES
        if by.subresource or not creates or meta(wanted).get("uid"):
            raise not_found(served, key.name)
        if name_of(wanted) != key.name:
            raise _other_name(name_of(wanted), key.name)
        meta(wanted).pop("resourceVersion", None)
        return await self.create(served, wanted, key.namespace, by)

    def _check_identity(self, served: Served, key: Key, row: Row, new: Object) -> None:
        metadata = meta(new)
        if name_of(new) != key.name:
            raise _other_name(name_of(new), key.name)
        if served.resource.namespaced:
            if not namespace_of(new):
                metadata["namespace"] = key.namespace
            elif namespace_of(new) != key.namespace:
                raise _other_namespace()
        else:
            metadata.pop("namespace", None)
        if uid_of(new) and uid_of(new) != row.uid:
            raise conflict(
                served,
                key.name,
                f"Precondition failed: UID in precondition: {uid_of(new)},"
                f" UID in object meta: {row.uid}",
            )
        version = metadata.get("resourceVersion")
        if version and version != str(row.rv):
            raise conflict(served, key.name)
        if not version and served.custom is not None:
            problem = "metadata.resourceVersion: Invalid value: 0: must be specified for an update"
            raise Invalid(f'{served.resource.group_resource} "{key.name}" is invalid: {problem}')
        metadata["resourceVersion"] = str(row.rv)

    def _clean_deletion(self, new: Object, old: Object) -> None:
        if deleting(old):
            before = set(meta(old).get("finalizers") or ())
            added = [f for f in meta(new).get("finalizers") or () if f not in before]
            if added:
                raise Invalid(
                    "metadata.finalizers: Forbidden: no new finalizers can be added if the object"
                    f" is being deleted, found new finalizers {added}"
                )
        if not meta(new).get("finalizers"):
            meta(new).pop("finalizers", None)

    async def _problems_of_new(self, served: Served, new: Object) -> list[Cause]:
        found = kinds.validate_create(served.resource, new)
        return [*found, *await self._broken_rules(served, new)]

    async def _problems_of_changed(
        self, served: Served, new: Object, old: Object, subresource: str
    ) -> list[Cause]:
        problems = kinds.validate_update(served.resource, new, old, subresource)
        return [*problems, *await self._broken_rules(served, new, old)]

    async def _broken_rules(
        self, served: Served, obj: Object, old: Object | None = None
    ) -> list[Cause]:
        if served.custom is None:
            return _own_rules(served, obj, old)
        return await self._admission.evaluations.run(lambda: _own_rules(served, obj, old))

    async def _track(self, served: Served, old: Object | None, new: Object, by: By) -> None:
        """Record who owns what, in terms of the version the request speaks."""
        if by.tracked or (by.raw and not by.manager):
            return
        shown, before = new, old
        if served.to_shown is not None and not served.hub:
            shown = served.to_shown(copy_json(new))
            before = served.to_shown(copy_json(old)) if old is not None else None
        now = rfc3339(self._clock.now())

        def track() -> None:
            server_side_apply.track(
                before,
                shown,
                manager=by.manager,
                operation="Update",
                schema=served.schema,
                now=now,
                subresource=by.subresource,
                ignored=unowned(served, by.subresource),
                versions=self.versions_of(served),
            )

        if served.custom is not None:
            await converted(track)
            return
        track()
        if shown is not new:
            meta(new).pop("managedFields", None)
            if "managedFields" in meta(shown):
                meta(new)["managedFields"] = meta(shown)["managedFields"]

    def versions_of(self, served: Served) -> server_side_apply.Versions:
        """Converts objects of the kind between the versions that are served."""
        return self._catalog.versions_of(served)


async def _worked_on(served: Served, row: Row) -> Object:
    """A stored custom resource in the version the request speaks."""
    assert served.to_shown is not None
    convert = served.to_shown
    return await converted(lambda: convert(row.decode()))


async def _for_store(served: Served, obj: Object) -> Object:
    """A custom resource in its storage version; other objects are in it already."""
    if not served.hub or served.to_stored is None:
        return obj
    convert = served.to_stored
    return await converted(lambda: convert(obj))


def _stale(served: Served, row: Row) -> bool:
    """Whether an object lies in a version that is no longer the one to store."""
    return served.hub and row.decode().get("apiVersion") != served.stored_version


def _own_rules(served: Served, obj: Object, old: Object | None = None) -> list[Cause]:
    """The rules of a custom resource's schema; those between a definition and its status."""
    if served.storage == crds.STORAGE:
        return crds.check_stored(obj)
    return crds.problems(served.custom, obj, old) if served.custom is not None else []


def unowned(served: Served, subresource: str) -> tuple[tuple[str, ...], ...]:
    """The fields a write through the subresource cannot set, and so does not own."""
    if subresource == "status":
        return (("spec",),)
    if subresource == "" and "status" in served.resource.subresources:
        return (("status",),)
    return ()


def stored_schema(served: Served) -> schemas.Schema:
    """The type of the objects as stored."""
    if served.to_stored is None or served.custom is not None:
        return served.schema
    found = schemas.builtin(served.stored_version, served.resource.kind)
    assert found is not None
    return found


def complete(served: Served, obj: Object) -> None:
    """Bring an object into its type's shape: drop nulls and unknown fields, fill in defaults."""
    if served.custom is not None:
        schemas.prune(served.schema, obj)
        schemas.apply_schema_defaults(served.schema, obj)
        drop_nulls(meta(obj))
        return
    drop_nulls(obj)
    kind = stored_schema(served)
    if not fits(kind, obj):
        _make_fit(served, kind, obj)
    apply_defaults(served.resource, obj)
    if served.storage == crds.STORAGE:
        # What is served from a definition is computed from it while it is written.
        _raise_invalid(served, obj, crds.validate(obj))


def _make_fit(served: Served, kind: schemas.Schema, obj: Object) -> None:
    """Drop fields the type does not know.

    Raises:
        BadRequest: a field is of another type.
    """
    schemas.prune(kind, obj)
    wrong = [c for c in schemas.validate(kind, obj) if c.reason == "FieldValueTypeInvalid"]
    if wrong:
        resource = served.resource
        raise BadRequest(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a'
            f" {resource.kind}: json: {wrong[0].field}: {wrong[0].message}"
        )


def finished(served: Served, obj: Object) -> bool:
    """Whether an object whose deletion has begun is held by nothing any more."""
    metadata = meta(obj)
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if metadata.get("deletionGracePeriodSeconds"):
        return False
    return not (served.storage == "namespaces" and (obj.get("spec") or {}).get("finalizers"))


def _same(new: Object, old: Object) -> bool:
    """Whether nothing changed but the times of managedFields."""
    if {k: v for k, v in new.items() if k != "metadata"} != {
        k: v for k, v in old.items() if k != "metadata"
    }:
        return False
    return _plain_metadata(new) == _plain_metadata(old)


def _plain_metadata(obj: Object) -> Object:
    plain = dict(meta(obj))
    plain["managedFields"] = [
        {name: value for name, value in entry.items() if name != "time"}
        for entry in plain.get("managedFields") or ()
    ]
    return plain


def _place(served: Served, metadata: Object, namespace: str) -> None:
    if served.resource.namespaced:
        if metadata.get("namespace") and metadata["namespace"] != namespace:
            raise _other_namespace()
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = generate_name(metadata["generateName"])


def _raise_invalid(served: Served, obj: Object, problems: list[Cause]) -> None:
    if problems:
        raise kinds.invalid(served.resource, name_of(obj), problems)


def _other_name(given: str, wanted: str) -> BadRequest:
    return BadRequest(
        f"the name of the object ({given}) does not match the name on the URL ({wanted})"
    )


def _other_namespace() -> BadRequest:
    return BadRequest(
        "the namespace of the provided object does not match the namespace sent on the request"
    )
