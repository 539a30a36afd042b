"""Role-based access control: who may do what, decided from roles and bindings.

Source: Kubernetes reference, "Using RBAC Authorization".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from underway.api import selectors
from underway.api.objects import Object, labels_of, name_of, namespace_of
from underway.base.errors import BadRequest, Forbidden
from underway.server.identity import (
    MASTERS,
    SERVICE_ACCOUNT_PREFIX,
    Attributes,
    User,
)


class RoleSource(Protocol):
    """Where roles and bindings are read from; objects are not to be written to."""

    def objects(self, resource: str, namespace: str | None = None) -> list[Object]:
        """Objects of ``roles``, ``rolebindings``, ``clusterroles`` or ``clusterrolebindings``."""
        ...

    def find(self, resource: str, namespace: str, name: str) -> Object | None:
        """One of them."""
        ...


Rule = Object


def _holds(allowed: Iterable[str] | None, value: str) -> bool:
    return any(each in ("*", value) for each in allowed or ())


def rule_allows(rule: Rule, wanted: Attributes) -> bool:
    """Whether one PolicyRule covers a request."""
    if not _holds(rule.get("verbs"), wanted.verb):
        return False
    if not wanted.resource:
        return any(_path_matches(each, wanted.path) for each in rule.get("nonResourceURLs") or ())
    if not _holds(rule.get("apiGroups"), wanted.group):
        return False
    names = rule.get("resourceNames")
    if names and wanted.target not in names:
        return False
    full = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
    for each in rule.get("resources") or ():
        if each in ("*", full):
            return True
        if wanted.subresource and each == f"*/{wanted.subresource}":
            return True
    return False


def _path_matches(pattern: str, path: str) -> bool:
    if pattern.endswith("*"):
        return path.startswith(pattern[:-1])
    return pattern == path


def subject_matches(subject: Object, user: User, namespace: str) -> bool:
    """Whether a binding's subject means this user; ``namespace`` is the binding's own."""
    name = subject.get("name", "")
    match subject.get("kind"):
        case "User":
            return bool(name in ("*", user.name))
        case "Group":
            return name in user.groups
        case "ServiceAccount":
            owner = subject.get("namespace") or namespace
            return user.name == f"{SERVICE_ACCOUNT_PREFIX}{owner}:{name}"
    return False


class Rbac:
    """Decisions over the roles and bindings a source holds at the moment of asking."""

    def __init__(self, source: RoleSource) -> None:
        self._source = source

    def allows(self, user: User, wanted: Attributes) -> bool:
        """Whether the user may do it."""
        if MASTERS in user.groups:
            return True
        return any(rule_allows(rule, wanted) for rule in self.rules(user, wanted.namespace))

    def decide(self, info: Object, asked: Object) -> tuple[bool, str]:
        """A check that an expression makes: a UserInfo, and attributes as a review has them."""
        user = User(
            str(info.get("username") or ""),
            tuple(info.get("groups") or ()),
            str(info.get("uid") or ""),
            {name: tuple(values) for name, values in (info.get("extra") or {}).items()},
        )
        allowed = self.allows(user, review_attributes(asked))
        return allowed, "allowed by RBAC" if allowed else ""

    def authorize(self, user: User, wanted: Attributes) -> None:
        """Let it pass.

        Raises:
            Forbidden: the user may not do it.
        """
        if not self.allows(user, wanted):
            raise forbidden(user, wanted)

    def rules(self, user: User, namespace: str) -> Iterator[Rule]:
        """The rules that hold for a user, cluster-wide first, then in the namespace."""
        for binding in self._source.objects("clusterrolebindings"):
            if self._binds(binding, user):
                yield from self.role_rules(binding.get("roleRef") or {}, "")
        if namespace:
            for binding in self._source.objects("rolebindings", namespace):
                if self._binds(binding, user):
                    yield from self.role_rules(binding.get("roleRef") or {}, namespace)

    def role_rules(self, reference: Object, namespace: str) -> Iterator[Rule]:
        """The rules of the role a roleRef names; none if it is not there."""
        name = reference.get("name", "")
        if reference.get("kind") == "Role":
            role = self._source.find("roles", namespace, name)
            yield from (role or {}).get("rules") or ()
            return
        role = self._source.find("clusterroles", "", name)
        if role is not None:
            yield from self._aggregated(role, {name})

    def _aggregated(self, role: Object, seen: set[str]) -> Iterator[Rule]:
        """A ClusterRole's rules and those of the roles it selects, before they are written in."""
        yield from role.get("rules") or ()
        found = (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()
        chosen = [selectors.from_object(each) for each in found]
        for other in self._source.objects("clusterroles") if chosen else ():
            name = name_of(other)
            if name not in seen and any(each.matches(labels_of(other)) for each in chosen):
                seen.add(name)
                yield from self._aggregated(other, seen)

    def lacks(self, user: User, rules: Iterable[Rule], namespace: str) -> str:
        """Why the user may not grant these rules, in upstream's words; empty if it may."""
        if MASTERS in user.groups:
            return ""
        held = list(self.rules(user, namespace))
        missing = [
            _compact(needed)
            for rule in rules
            for needed in _single_rules(rule)
            if not any(_covers(each, needed) for each in held)
        ]
        if not missing:
            return ""
        return (
            f"user {_quoted(user.name)} (groups={_quoted(user.groups)}) is attempting to grant"
            " RBAC permissions not currently held:\n" + "\n".join(missing)
        )

    @staticmethod
    def _binds(binding: Object, user: User) -> bool:
        namespace = namespace_of(binding)
        return any(
            subject_matches(subject, user, namespace) for subject in binding.get("subjects") or ()
        )


def _single_rules(rule: Rule) -> Iterator[Rule]:
    """A rule as rules of one verb on one resource (name) or path each."""
    for verb in rule.get("verbs") or ():
        for path in rule.get("nonResourceURLs") or ():
            yield {"verbs": [verb], "nonResourceURLs": [path]}
        for group in rule.get("apiGroups") or ():
            for resource in rule.get("resources") or ():
                single = {"verbs": [verb], "apiGroups": [group], "resources": [resource]}
                names = rule.get("resourceNames")
                if not names:
                    yield single
                for name in names or ():
                    yield {**single, "resourceNames": [name]}


def _compact(rule: Rule) -> str:
    fields = ("apiGroups", "resources", "nonResourceURLs", "resourceNames", "verbs")
    parts = [f"{f[0].upper()}{f[1:]}:{_quoted(rule[f])}" for f in fields if rule.get(f)]
    return f"{{{', '.join(parts)}}}".replace("ApiGroups", "APIGroups")


def _quoted(value: str | Iterable[str]) -> str:
    """As Go's ``%q`` has it."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return f"[{' '.join(map(_quoted, value))}]"


def _covers(held: Rule, needed: Rule) -> bool:
    def within(field: str, holds: Callable[[Iterable[str] | None, str], bool]) -> bool:
        return all(holds(held.get(field), value) for value in needed.get(field) or ())

    if not within("verbs", _holds):
        return False
    if "nonResourceURLs" in needed:
        owned = held.get("nonResourceURLs") or ()
        return all(
            any(_path_matches(own, path) for own in owned) for path in needed["nonResourceURLs"]
        )
    names = held.get("resourceNames")
    if names and not set(needed.get("resourceNames") or ("*",)) <= set(names):
        return False
    return within("apiGroups", _holds) and within("resources", _holds_resource)


def _holds_resource(allowed: Iterable[str] | None, value: str) -> bool:
    _, _, subresource = value.partition("/")
    return any(
        each in ("*", value) or (subresource and each == f"*/{subresource}")
        for each in allowed or ()
    )


def forbidden(user: User, wanted: Attributes) -> Forbidden:
    """The refusal, in upstream's words."""
    if not wanted.resource:
        return Forbidden(
            f'forbidden: User "{user.name}" cannot {wanted.verb} path "{wanted.path}"', details={}
        )
    full = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
    what = f"{wanted.resource}.{wanted.group}" if wanted.group else wanted.resource
    if wanted.target:
        what += f' "{wanted.target}"'
    scope = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
    return Forbidden(
        f'{what} is forbidden: User "{user.name}" cannot {wanted.verb} resource "{full}"'
        f' in API group "{wanted.group}" {scope}',
        details={"name": wanted.target, "group": wanted.group, "kind": wanted.resource},
    )


def review_attributes(spec: Object) -> Attributes:
    """What a SubjectAccessReview asks about.

    Raises:
        BadRequest: nothing.
    """
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if resource is not None:
        return Attributes(
            resource.get("verb") or "",
            resource.get("group") or "",
            resource.get("version") or "",
            resource.get("resource") or "",
            resource.get("subresource") or "",
            resource.get("namespace") or "",
            resource.get("name") or "",
        )
    if path is not None:
        return Attributes(path.get("verb") or "", path=path.get("path") or "")
    raise BadRequest(
        "spec.resourceAttributes: exactly one of nonResourceAttributes or resourceAttributes must"
        " be specified"
    )
