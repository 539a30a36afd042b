"""ResourceQuota: what a namespace may use in all.

What is used is counted from the objects themselves, those being written included, so two writes
at once never pass together where only one may, and no count can drift.

Source: Kubernetes "Resource Quotas"; apiserver ``pkg/admission/plugin/resourcequota``.
"""

from __future__ import annotations

from fractions import Fraction

from underway.api import quantity
from underway.api.objects import Object, name_of
from underway.base.errors import Forbidden
from underway.server.admission.usage import (
    Footprint,
    Usage,
    footprint,
    storage_of,
    unsaid,
    written,
)
from underway.server.admission.write import CREATE, UPDATE, Write
from underway.server.call import refused
from underway.server.store import Key, Row, Store

QUOTAS = "resourcequotas"
_GROWING = ("services", "persistentvolumeclaims")  # whose updates may use more than before


class Quotas:
    """Charges writes to the quotas of their namespace."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Key, tuple[int, Footprint]] = {}

    def charge(self, write: Write) -> None:
        """Whether the quotas of the namespace leave room for a write.

        Raises:
            Forbidden: one does not, or cannot be told how much is asked for.
        """
        if write.new is None or not write.namespace or not _counts(write):
            return
        rows = self._store.latest_rows(QUOTAS, write.namespace)
        if not rows:
            return
        storage = write.served.storage
        after = footprint(storage, write.new)
        before = footprint(storage, write.old) if write.old is not None else Footprint({})
        for row in rows:
            quota = row.decode()
            names = [name for name in _hard(quota) if storage_of(name) == storage]
            if names and after.under(quota):
                self._charge(write, quota, names, after.usage, before.usage)

    def _charge(
        self, write: Write, quota: Object, names: list[str], after: Usage, before: Usage
    ) -> None:
        assert write.new is not None
        if write.served.storage == "pods" and write.operation == CREATE:
            missing = unsaid(write.new.get("spec") or {}, names)
            if missing:
                why = f"failed quota: {name_of(quota)}: {missing}"
                raise refused(Forbidden, write.served, write.name, why)
        asked = {name: after.get(name, Fraction()) - before.get(name, Fraction()) for name in names}
        asked = {name: amount for name, amount in asked.items() if amount > 0}
        if not asked:
            return
        used, hard = self.used(quota, list(asked)), _hard(quota)
        over = [
            name for name in sorted(asked) if used[name] + asked[name] > quantity.parse(hard[name])
        ]
        if over:
            why = (
                f"exceeded quota: {name_of(quota)}, requested: {_listed(asked, over)},"
                f" used: {_listed(used, over)},"
                f" limited: {','.join(f'{name}={hard[name]}' for name in over)}"
            )
            raise refused(Forbidden, write.served, write.name, why)

    def used(self, quota: Object, names: list[str]) -> Usage:
        """How much of these entries the quota's namespace uses."""
        namespace = quota["metadata"]["namespace"]
        total: Usage = dict.fromkeys(names, Fraction())
        for storage in {storage_of(name) for name in names}:
            for row in self._store.latest_rows(storage, namespace):
                found = self._footprint(row)
                if found.under(quota):
                    for name in names:
                        total[name] += found.usage.get(name, 0)
        return total

    def _footprint(self, row: Row) -> Footprint:
        known = self._known.get(row.key)
        if known is None or known[0] != row.rv:
            known = self._known[row.key] = (row.rv, footprint(row.key.resource, row.decode()))
        return known[1]

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._known.pop(key, None)

    def concerned(self, key: Key) -> bool:
        """Whether a change of the object may change the status of a quota."""
        if key.resource == QUOTAS:
            return True
        return any(
            storage_of(name) == key.resource
            for row in self._store.rows(QUOTAS, key.namespace)
            for name in _hard(row.decode())
        )

    def status(self, quota: Object) -> Object:
        """The status a quota should show."""
        hard = _hard(quota)
        used = self.used(quota, list(hard))
        return {"hard": hard, "used": {name: written(name, used[name]) for name in hard}}


def _counts(write: Write) -> bool:
    if write.operation == UPDATE:
        if write.served.storage == "pods":
            return write.subresource == "resize"
        return write.served.storage in _GROWING and not write.subresource
    return True


def _hard(quota: Object) -> dict[str, str]:
    return (quota.get("spec") or {}).get("hard") or {}


def _listed(amounts: Usage, names: list[str]) -> str:
    return ",".join(f"{name}={written(name, amounts[name])}" for name in names)
