"""Which admission webhooks a write concerns.

Source: API reference ``admissionregistration.k8s.io/v1``; Kubernetes "Dynamic Admission Control".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from underway.api import selectors
from underway.api.objects import Object, labels_of, name_of
from underway.server.admission.write import Write
from underway.server.catalog import Catalog, Served
from underway.server.store import Key, Store

GROUP = "admissionregistration.k8s.io"
MUTATING = f"mutatingwebhookconfigurations.{GROUP}"
VALIDATING = f"validatingwebhookconfigurations.{GROUP}"
# They must stay changeable when a webhook is broken, so no webhook is asked about them.
_EXCLUDED = frozenset({MUTATING, VALIDATING})


@dataclass(frozen=True)
class Hook:
    """One webhook of a configuration, ready to be matched."""

    configuration: str
    spec: Object
    namespaces: selectors.LabelSelector
    objects: selectors.LabelSelector

    @property
    def name(self) -> str:
        """Its qualified name."""
        return str(self.spec.get("name") or "")

    @property
    def fails_open(self) -> bool:
        """Whether a write goes on when the webhook cannot be asked."""
        return self.spec.get("failurePolicy") == "Ignore"


@dataclass(frozen=True)
class Match:
    """A webhook that is to be asked, and the API version it wants to see the object in."""

    hook: Hook
    shown: Served


class Hooks:
    """The registered webhooks, by the order in which they are asked."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog
        self._parsed: dict[Key, tuple[int, list[Hook]]] = {}

    def matching(self, storage: str, write: Write) -> list[Match]:
        """The webhooks of a kind of configuration that want to know of the write, in order."""
        rows = self._store.rows(storage)
        if not rows or write.served.storage in _EXCLUDED:
            return []
        found = []
        for row in rows:
            known = self._parsed.get(row.key)
            if known is None or known[0] != row.rv:
                known = self._parsed[row.key] = (row.rv, _parse(row.decode()))
            for hook in known[1]:
                shown = self.wanted(hook, write)
                if shown is not None:
                    found.append(Match(hook, shown))
        return found

    def wanted(self, hook: Hook, write: Write) -> Served | None:
        """The API version in which a webhook wants to see a write; None if it does not care."""
        shown = self._ruled(hook, write)
        if shown is None or not self._namespace_matches(hook, write):
            return None
        candidates = (write.new, write.old)
        if any(each is not None and hook.objects.matches(labels_of(each)) for each in candidates):
            return shown
        return None

    def _ruled(self, hook: Hook, write: Write) -> Served | None:
        """The API version in which a rule wants the write: its own, else an equivalent one."""
        rules = hook.spec.get("rules") or ()
        if any(_covers(rule, write, write.served) for rule in rules):
            return write.served
        if hook.spec.get("matchPolicy") == "Exact":
            return None
        for other in self._catalog:
            if other.storage != write.served.storage or other is write.served:
                continue
            if any(_covers(rule, write, other) for rule in rules):
                return other
        return None

    def _namespace_matches(self, hook: Hook, write: Write) -> bool:
        if not hook.namespaces.requirements:
            return True
        if write.served.storage == "namespaces":
            return hook.namespaces.matches(labels_of(write.subject))
        if not write.served.resource.namespaced:
            return True
        row = self._store.latest(Key("namespaces", "", write.namespace))
        return hook.namespaces.matches(labels_of(row.decode()) if row else {})


def _parse(configuration: Object) -> list[Hook]:
    return [
        Hook(
            name_of(configuration),
            spec,
            selectors.from_object(spec.get("namespaceSelector") or {}),
            selectors.from_object(spec.get("objectSelector") or {}),
        )
        for spec in configuration.get("webhooks") or ()
    ]


def _covers(rule: Object, write: Write, shown: Served) -> bool:
    resource = shown.resource
    scope = rule.get("scope") or "*"
    # A namespace itself is cluster-scoped.
    if scope != "*" and (scope == "Namespaced") != resource.namespaced:
        return False
    return (
        _listed(rule.get("operations"), write.operation)
        and _listed(rule.get("apiGroups"), resource.group)
        and _listed(rule.get("apiVersions"), resource.version)
        and any(
            _names(each, resource.plural, write.subresource) for each in rule.get("resources") or ()
        )
    )


def _listed(values: Iterable[str] | None, wanted: str) -> bool:
    return any(each in ("*", wanted) for each in values or ())


def _names(pattern: str, plural: str, subresource: str) -> bool:
    """Whether ``pods``, ``pods/*``, ``*/scale``, ``*`` or ``*/*`` names what is written."""
    wanted, _, sub = pattern.partition("/")
    return wanted in ("*", plural) and sub in (("*", subresource) if sub else (subresource,))
