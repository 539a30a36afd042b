"""``authorizer`` in expressions: may the user of the request do this?

Values are maps: the authorizer itself, what is built up for a check, and the decision. Who decides
is said around an evaluation with ``deciding``.

Source: Kubernetes reference, "Common Expression Language in Kubernetes", authorizer library;
k8s.io/apiserver ``pkg/cel/library/authz.go``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from underway.api.objects import Object

Decide = Callable[[Object, Object], tuple[bool, str]]
"""(UserInfo, attributes as a SubjectAccessReview's spec has them) -> (allowed, why)."""

Add = Callable[..., None]
_AUTHORIZER, _CHECK, _DECISION = "authorizer", "check", "decision"
_ACCOUNT = "system:serviceaccount:"
_decide: ContextVar[Decide | None] = ContextVar("decide", default=None)


def authorizer_of(user: Object, request: Object | None = None) -> Object:
    """The value of the variable ``authorizer``.

    Args:
        user: the UserInfo of whoever asks.
        request: ``group``, ``resource``, ``subresource``, ``namespace`` and ``name`` of what the
            request is about.
    """
    resource = {_CHECK: {"user": user, "resourceAttributes": dict(request or {})}}
    return {_AUTHORIZER: user, "requestResource": resource}


@contextmanager
def deciding(decide: Decide) -> Iterator[None]:
    """Within this block, checks are decided by ``decide``."""
    token = _decide.set(decide)
    try:
        yield
    finally:
        _decide.reset(token)


def _of(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        raise ValueError(f"no such overload: the value is no {name}")
    return value[name]


def _resource(value: Object, **more: str) -> Object:
    check = _of(value, _CHECK)
    given = {**_of(check, "resourceAttributes"), **more}
    return {_CHECK: {**check, "resourceAttributes": given}}


def _group(value: Object, group: str) -> Object:
    return {_CHECK: {"user": _of(value, _AUTHORIZER), "resourceAttributes": {"group": group}}}


def _path(value: Object, path: str) -> Object:
    if not path:
        raise ValueError("path must not be empty")
    user = _of(value, _AUTHORIZER)
    return {_CHECK: {"user": user, "nonResourceAttributes": {"path": path}}}


def _service_account(value: Object, namespace: str, name: str) -> Object:
    _of(value, _AUTHORIZER)
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    groups.append("system:authenticated")
    return {_AUTHORIZER: {"username": f"{_ACCOUNT}{namespace}:{name}", "groups": groups}}


def _check(value: Object, verb: str) -> Object:
    asked = _of(value, _CHECK)
    decide = _decide.get()
    if decide is None:
        raise ValueError("there is no authorizer here")
    kind = "resourceAttributes" if "resourceAttributes" in asked else "nonResourceAttributes"
    allowed, reason = decide(asked["user"], {kind: {**asked[kind], "verb": verb}})
    return {_DECISION: {"allowed": allowed, "reason": reason}}


def declare(add: Add, types: Any) -> None:
    """Declare the library's functions."""
    value, text, boolean = types.Map(types.STRING, types.DYN), types.STRING, types.BOOL
    check, decision = {"of": _CHECK}, {"of": _DECISION}
    add("group", value, [value, text], _group, of=_AUTHORIZER)
    add("path", value, [value, text], _path, of=_AUTHORIZER)
    add("serviceAccount", value, [value, text, text], _service_account, of=_AUTHORIZER)
    for name in ("resource", "subresource", "namespace", "name", "fieldSelector", "labelSelector"):
        add(name, value, [value, text], _setter(name), **check)
    add("check", value, [value, text], _check, **check)
    add("allowed", boolean, [value], lambda v: bool(_of(v, _DECISION)["allowed"]), **decision)
    add("reason", text, [value], lambda v: str(_of(v, _DECISION)["reason"]), **decision)
    # A decision that cannot be made is an error of the evaluation, never one of the decision.
    add("errored", boolean, [value], lambda v: _of(v, _DECISION) is None, **decision)
    add("error", text, [value], lambda v: "" if _of(v, _DECISION) else "undecided", **decision)


def _setter(name: str) -> Callable[[Object, str], Object]:
    return lambda value, text: _resource(value, **{name: text})
