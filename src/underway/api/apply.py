"""Server-side apply, and the record of who owns which field that every write keeps.

Source: Kubernetes "Server-Side Apply"; apimachinery ``pkg/util/managedfields``. All versions of a
kind are taken to have the same fields, so entries of other versions are compared as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from underway.api import fieldsets
from underway.api.fieldsets import Comparison, FieldSet, Path, path_text
from underway.api.objects import Object, name_of, namespace_of
from underway.api.patches import copy_json, same_json
from underway.api.schema import Schema, unknown_fields, validate
from underway.api.validation import shown
from underway.base.errors import BadRequest, Cause, Conflict

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
BEFORE_FIRST_APPLY = "before-first-apply"
ANCIENT_CHANGES = "ancient-changes"
UPDATE_MANAGERS_LIMIT = 10  # entries of operation Update; the oldest beyond them become one

_NEVER_OWNED: FieldSet = {
    ("f:apiVersion",),
    ("f:kind",),
    ("f:metadata",),
    *(
        ("f:metadata", f"f:{name}")
        for name in (
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        )
    ),
}


Versions = Callable[[Object, str], tuple[Schema, Object] | None]
"""(object, apiVersion) -> that version's type and the object in it; None if it is not served. An
empty object is empty in every version."""


@dataclass(frozen=True, slots=True)
class _Key:
    """What tells one entry of ``managedFields`` from the others."""

    manager: str
    operation: str
    api_version: str  # empty for Apply: one applier has one entry, whatever the version
    subresource: str

    def shown(self) -> str:
        """The manager as messages name it."""
        text = shown(self.manager)
        if self.subresource:
            text += f" with subresource {shown(self.subresource)}"
        return f"{text} using {self.api_version}" if self.operation == "Update" else text


@dataclass(frozen=True, slots=True)
class _Entry:
    """What one manager owns. ``time`` is RFC 3339, empty where unknown."""

    fields: FieldSet
    api_version: str
    time: str = ""


@dataclass(slots=True)
class _Managers:
    """All entries of one object."""

    entries: dict[_Key, _Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, managed_fields: Any) -> _Managers:
        """The entries of ``metadata.managedFields``.

        Raises:
            BadRequest: they are malformed.
        """
        found = cls()
        for item in managed_fields or ():
            if not isinstance(item, dict) or item.get("operation") not in ("Apply", "Update"):
                raise BadRequest("metadata.managedFields: operation must be Apply or Update")
            operation, version = item["operation"], str(item.get("apiVersion") or "")
            key = _Key(
                str(item.get("manager") or ""),
                operation,
                version if operation == "Update" else "",
                str(item.get("subresource") or ""),
            )
            paths = fieldsets.from_fields_v1(item.get("fieldsV1") or {})
            found.entries[key] = _Entry(paths, version, str(item.get("time") or ""))
        return found

    def write(self, obj: Object) -> None:
        """Put the entries into the object's metadata."""
        metadata = obj.setdefault("metadata", {})
        items = sorted(
            self.entries.items(),
            key=lambda e: (e[0].operation, e[1].time, e[0].manager, e[1].api_version),
        )
        if not items:
            metadata.pop("managedFields", None)
            return
        metadata["managedFields"] = [
            {
                "manager": key.manager,
                "operation": key.operation,
                "apiVersion": entry.api_version,
                **({"time": entry.time} if entry.time else {}),
                "fieldsType": "FieldsV1",
                "fieldsV1": fieldsets.to_fields_v1(entry.fields),
                **({"subresource": key.subresource} if key.subresource else {}),
            }
            for key, entry in items
        ]

    def set(self, key: _Key, entry: _Entry) -> None:
        """Replace an entry, dropping one that owns nothing."""
        owned = entry.fields - _NEVER_OWNED
        if owned:
            self.entries[key] = replace(entry, fields=owned)
        else:
            self.entries.pop(key, None)

    def conflicts(self, change: _Change, by: _Key | None) -> list[tuple[_Key, Path]]:
        """The fields of others that a change takes from them."""
        found = []
        for key, entry in sorted(self.entries.items(), key=lambda e: e[0].shown()):
            seen = change.seen(entry.api_version) if key != by else None
            if seen is not None:
                taken = entry.fields & (seen.modified | seen.added)
                found += [(key, path) for path in sorted(taken, key=_leaves_first)]
        return found

    def give_up(self, change: _Change, by: _Key | None) -> None:
        """Everybody but ``by`` stops owning what changed or went away.

        An entry of a version that is not served any more is dropped.
        """
        for key, entry in list(self.entries.items()):
            if key == by:
                continue
            seen = change.seen(entry.api_version)
            if seen is None:
                del self.entries[key]
                continue
            gone = entry.fields & (seen.modified | seen.added | seen.removed)
            if gone:
                self.set(key, replace(entry, fields=entry.fields - gone))

    def cap(self) -> None:
        """Fold the oldest Update entries of each version into one."""
        updates = sorted(
            (key for key in self.entries if key.operation == "Update"),
            key=lambda key: (self.entries[key].time, key.manager),
        )
        surplus = len(updates) - UPDATE_MANAGERS_LIMIT
        first: dict[str, _Key] = {}
        for key in updates:
            if surplus <= 0:
                return
            entry = self.entries[key]
            bucket = _Key(ANCIENT_CHANGES, "Update", entry.api_version, "")
            oldest = first.setdefault(entry.api_version, key)
            if oldest == key:
                continue
            if bucket not in self.entries:
                self.entries[bucket] = self.entries.pop(oldest)
            merged = entry.fields | self.entries[bucket].fields
            del self.entries[key]
            self.entries[bucket] = replace(entry, fields=merged)
            surplus -= 1


class _Change:
    """What a write changed, as each version in which managers own fields sees it."""

    def __init__(
        self,
        schema: Schema,
        old: Object,
        new: Object,
        ignored: Collection[tuple[str, ...]],
        versions: Versions | None,
    ) -> None:
        self.own = _compare(schema, old, new, ignored)
        self._old, self._new = old, new
        self._ignored = ignored
        self._versions = versions
        self._version = str(new.get("apiVersion") or old.get("apiVersion") or "")
        self._seen: dict[str, Comparison | None] = {self._version: self.own}

    def seen(self, version: str) -> Comparison | None:
        """The change in a version; None if that is not served any more."""
        if self._versions is None or not version:
            return self.own
        if version not in self._seen:
            found = self._versions(self._old, version), self._versions(self._new, version)
            old, new = found
            made = _compare(new[0], old[1], new[1], self._ignored) if old and new else None
            self._seen[version] = made
        return self._seen[version]


def _leaves_first(path: Path) -> list[tuple[bool, str]]:
    """Orders paths as upstream's messages do: of each level what is owned whole comes first."""
    return [(depth < len(path), element) for depth, element in enumerate(path, start=1)]


def _compare(
    schema: Schema, old: Object, new: Object, ignored: Collection[tuple[str, ...]]
) -> Comparison:
    change = fieldsets.compare(schema, old, new)
    return Comparison(
        _unignored(change.added, ignored),
        _unignored(change.modified, ignored),
        _unignored(change.removed, ignored),
    )


def _unignored(paths: FieldSet, ignored: Iterable[tuple[str, ...]]) -> FieldSet:
    prefixes = [tuple(f"f:{name}" for name in path) for path in ignored]
    return {p for p in paths if not any(p[: len(prefix)] == prefix for prefix in prefixes)}


def _unmanaged(obj: Object | None) -> Object:
    """The object without managedFields, for reading: all else is shared."""
    metadata = (obj or {}).get("metadata")
    if obj is None or not isinstance(metadata, dict):
        return obj or {}
    return {**obj, "metadata": {k: v for k, v in metadata.items() if k != "managedFields"}}


def _managed_fields(obj: Object | None) -> Any:
    return ((obj or {}).get("metadata") or {}).get("managedFields")


# Create, update and patch


def track(
    live: Object | None,
    new: Object,
    *,
    manager: str,
    operation: str = "Update",
    schema: Schema,
    now: str,
    subresource: str = "",
    ignored: Collection[tuple[str, ...]] = (),
    versions: Versions | None = None,
) -> None:
    """Record in ``new`` that ``manager`` owns what a create, update or patch changed.

    Writes ``new["metadata"]["managedFields"]``. A request that sets ``managedFields`` itself is
    followed, one that sets it to ``[{}]`` ends the tracking. Never fails: what cannot be
    tracked stays as it was recorded in ``live``.

    Args:
        live: the stored object, None when it is being created.
        new: the object about to be stored.
        manager: the request's ``fieldManager``, or its user agent up to the first slash.
        operation: ``Update``; ``Apply`` is what `apply` does.
        schema: the kind's type.
        now: the time, RFC 3339.
        subresource: the subresource written through, or empty.
        ignored: fields the request cannot set, such as ``("status",)``.
        versions: converts, for managers that own fields of another version; without it all
            versions are taken to be alike.
    """
    managers = _managers_for_update(live, new, subresource)
    if managers is None:
        new.setdefault("metadata", {}).pop("managedFields", None)
        return
    if live is not None and not managers.entries:
        managers.write(new)
        return
    try:
        change = _Change(schema, _unmanaged(live), _unmanaged(new), ignored, versions)
        _update(managers, change, new, manager, operation, now, subresource)
    except BadRequest:  # a list whose items lack their keys cannot be tracked
        managers = _Managers.read(_managed_fields(live))
    managers.write(new)


def _managers_for_update(live: Object | None, new: Object, subresource: str) -> _Managers | None:
    """The entries to go on from: the request's where it has any, else the stored; None to reset."""
    given = _managed_fields(new)
    if given == [{}] and not subresource:
        return None
    try:
        if given and not subresource:
            return _Managers.read(given)
    except BadRequest:
        pass  # clients that mangle managedFields must not lose them
    try:
        return _Managers.read(_managed_fields(live))
    except BadRequest:
        return _Managers()


def _update(
    managers: _Managers,
    change: _Change,
    new: Object,
    manager: str,
    operation: str,
    now: str,
    subresource: str,
) -> None:
    version = str(new.get("apiVersion") or "")
    managers.give_up(change, by=None)
    taken = (change.own.modified | change.own.added) - _NEVER_OWNED
    if taken:
        key = _Key(manager, operation, version, subresource)
        before = managers.entries.get(key)
        owned = taken | (before.fields if before else set())
        managers.set(key, _Entry(owned, version, now))
    managers.cap()


# Apply


def apply(
    live: Object | None,
    applied: Object,
    *,
    manager: str,
    force: bool,
    schema: Schema,
    now: str,
    subresource: str = "",
    ignored: Collection[tuple[str, ...]] = (),
    versions: Versions | None = None,
) -> Object:
    """The object after ``manager`` applied its intent to it; neither argument is changed.

    Fields the manager applied before and no longer names go, unless somebody else owns them.
    ``managedFields`` of the result are up to date; its other metadata is the server's to fill in.

    Args:
        live: the stored object, None when the apply creates it.
        applied: what the manager wants, partial.
        manager: the request's ``fieldManager``.
        force: take over fields that others own instead of failing.
        schema: the kind's type.
        now: the time, RFC 3339.
        subresource: the subresource written through, or empty.
        ignored: fields the request cannot set, such as ``("status",)``.
        versions: as for `track`.

    Raises:
        BadRequest: ``applied`` has unknown fields, repeated list items or managedFields.
        Conflict: others own fields that would change; ``causes`` name them.
    """
    metadata_type = schema.field("metadata")
    if metadata_type and (wrong := validate(metadata_type, applied.get("metadata", {}))):
        raise BadRequest(f"metadata.{wrong[0].field}: {wrong[0].message}", causes=wrong)
    if _managed_fields(applied) is not None:
        raise BadRequest("metadata.managedFields must be nil")
    unknown = unknown_fields(schema, applied)
    if unknown:
        raise BadRequest(
            f"failed to create typed patch object ({_named(applied)}): "
            + ", ".join(f".{path}: field not declared in schema" for path in unknown)
        )
    state = _Apply(live, applied, manager, schema, now, subresource, ignored, versions)
    try:
        result = state.run(force=force)
    except _Conflicts as error:
        allowed = state.last_applied() if manager == "kubectl" else set()
        rest = [conflict for conflict in error.paths if conflict[1] not in allowed]
        if rest:
            raise _conflict_error(rest) from None
        result = state.run(force=True)
    annotations = (result.get("metadata") or {}).get("annotations") or {}
    if manager == "kubectl" and annotations.get(LAST_APPLIED):
        annotations[LAST_APPLIED] = _last_applied_text(applied)
    return result


class _Conflicts(Exception):  # never leaves this module
    def __init__(self, paths: list[tuple[_Key, Path]]) -> None:
        super().__init__()
        self.paths = paths


class _Apply:
    """One apply request."""

    def __init__(
        self,
        live: Object | None,
        applied: Object,
        manager: str,
        schema: Schema,
        now: str,
        subresource: str,
        ignored: Collection[tuple[str, ...]],
        versions: Versions | None,
    ) -> None:
        self.stored = live
        self.versions = versions
        self.live = _unmanaged(live)
        self.applied = applied
        self.schema = schema
        self.now = now
        self.ignored = ignored
        self.version = str(applied.get("apiVersion") or "")
        self.key = _Key(manager, "Apply", "", subresource)

    def managers(self) -> _Managers:
        """The stored entries; those of an object nobody tracked belong to one manager."""
        managers = _Managers.read(_managed_fields(self.stored))
        if self.stored is not None and not managers.entries:
            owned = fieldsets.compare(self.schema, {}, self.live).added
            version = str(self.live.get("apiVersion") or self.version)
            key = _Key(BEFORE_FIRST_APPLY, "Update", version, "")
            managers.set(key, _Entry(owned, version, self.now))
        return managers

    def run(self, *, force: bool) -> Object:
        """The outcome.

        Raises:
            _Conflicts: others own fields that would change and ``force`` is off.
        """
        managers = self.managers()
        last = managers.entries.get(self.key)
        owned = _unignored(fieldsets.fields_of(self.schema, self.applied), self.ignored)
        managers.entries[self.key] = _Entry(owned, self.version, last.time if last else "")
        merged = fieldsets.merge(self.schema, self.live, self.applied)
        result = self._prune(merged, managers, last)
        change = _Change(self.schema, self.live, result, self.ignored, self.versions)
        conflicts = managers.conflicts(change, by=self.key)
        if conflicts and not force:
            raise _Conflicts(conflicts)
        managers.give_up(change, by=self.key)
        unchanged = last is not None and last.fields == owned - _NEVER_OWNED
        if not (unchanged and same_json(self.live, result)):
            managers.entries[self.key] = _Entry(owned, self.version, self.now)
        managers.set(self.key, managers.entries[self.key])
        _drop_nulls(self.schema, result)
        managers.write(result)
        return result

    def _prune(self, merged: Object, managers: _Managers, last: _Entry | None) -> Object:
        """``merged`` without what was applied last time and now belongs to nobody.

        Source: structured-merge-diff ``merge/update.go`` (prune).
        """
        found = self._in_version(merged, last.api_version) if last and last.fields else None
        if last is None or found is None:
            return merged
        schema, base = found
        fields = fieldsets.with_named_fields(schema, last.fields)
        everything = _fields_with_names(schema, base)
        pruned = self._with_owned(managers, base, fieldsets.without(schema, base, fields), last)
        found = self._in_version(pruned, last.api_version)
        kept = _fields_with_names(schema, found[1]) if found else set()
        dangling: Object = fieldsets.without(schema, base, (everything - kept) & fields)
        back = self._in_version(dangling, self.version)
        return back[1] if back else merged

    def _with_owned(
        self, managers: _Managers, merged: Object, pruned: Object, last: _Entry
    ) -> Object:
        """``pruned`` with what managers own in it, put back version by version."""
        owned: dict[str, FieldSet] = {}
        for entry in managers.entries.values():
            owned[entry.api_version] = owned.get(entry.api_version, set()) | entry.fields
        for version in sorted(owned, key=lambda each: (each != last.api_version, each)):
            whole, rest = self._in_version(merged, version), self._in_version(pruned, version)
            if whole is None or rest is None:
                continue
            (schema, merged), (_, pruned) = whole, rest
            everything, kept = (
                _fields_with_names(schema, merged),
                _fields_with_names(schema, pruned),
            )
            claimed = fieldsets.with_named_fields(schema, owned[version])
            pruned = fieldsets.without(schema, merged, everything - kept - claimed)
        return pruned

    def _in_version(self, obj: Object, version: str) -> tuple[Schema, Object] | None:
        if self.versions is None or not version or obj.get("apiVersion") == version:
            return self.schema_of(version), obj
        return self.versions(obj, version)

    def schema_of(self, version: str) -> Schema:
        """The type in a version that is served."""
        if self.versions is None or not version or version == self.version:
            return self.schema
        found = self.versions({}, version)
        return found[0] if found else self.schema

    def last_applied(self) -> FieldSet:
        """The live fields that still are as client-side apply left them."""
        text = ((self.live.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED)
        try:
            before = msgspec.json.decode(text or "")
            if before.get("apiVersion") != self.version:
                return set()
            change = fieldsets.compare(self.schema, before, self.live)
            found = fieldsets.fields_of(self.schema, before)
        except (msgspec.DecodeError, AttributeError, BadRequest):
            return set()
        return found - change.modified - change.added - change.removed


def _fields_with_names(schema: Schema, obj: Object) -> FieldSet:
    return fieldsets.with_named_fields(schema, fieldsets.fields_of(schema, obj))


def _drop_nulls(schema: Schema, value: Any) -> None:
    if isinstance(value, dict):
        for name in list(value):
            child = schema.field(name)
            if child is None or not child.type:
                continue
            if value[name] is None and not child.nullable:
                del value[name]
            else:
                _drop_nulls(child, value[name])
    elif isinstance(value, list) and schema.items is not None:
        for item in value:
            _drop_nulls(schema.items, item)


def _named(obj: Object) -> str:
    name = "/".join(filter(None, (namespace_of(obj), name_of(obj))))
    return f"{name}; {obj.get('apiVersion')}, Kind={obj.get('kind')}"


def _last_applied_text(applied: Object) -> str:
    copy = copy_json(applied)
    ((copy.get("metadata") or {}).get("annotations") or {}).pop(LAST_APPLIED, None)
    return msgspec.json.encode(copy, order="sorted").decode() + "\n"


def _conflict_error(conflicts: list[tuple[_Key, Path]]) -> Conflict:
    causes = [
        Cause(path_text(path), f"conflict with {key.shown()}", "FieldManagerConflict")
        for key, path in conflicts
    ]
    if len(conflicts) == 1:
        key, path = conflicts[0]
        message = f"Apply failed with 1 conflict: conflict with {key.shown()}: {path_text(path)}"
    else:
        lines: list[str] = []
        for key in dict.fromkeys(key for key, _ in conflicts):
            lines.append(f"conflicts with {key.shown()}:")
            lines += [f"- {path_text(path)}" for other, path in conflicts if other == key]
        message = f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)
    return Conflict(message, causes=causes)
