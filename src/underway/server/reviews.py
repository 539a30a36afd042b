"""Reviews: questions asked by creating an object that is never stored.

Source: kubernetes/api authorization/v1 and authentication/v1.
"""

from __future__ import annotations

from underway.api.objects import Object
from underway.base.clock import Clock, rfc3339
from underway.base.errors import BadRequest, Invalid, Unauthorized
from underway.server.auth import AUDIENCES, Authenticator
from underway.server.identity import User
from underway.server.rbac import Rbac, review_attributes


class Reviews:
    """Answers every kind of review."""

    def __init__(self, rbac: Rbac, authenticator: Authenticator, clock: Clock) -> None:
        self._rbac = rbac
        self._authenticator = authenticator
        self._clock = clock
        self._answers = {
            "SelfSubjectAccessReview": self._self_access,
            "SubjectAccessReview": self._access,
            "LocalSubjectAccessReview": self._access,
            "SelfSubjectRulesReview": self._rules,
            "SelfSubjectReview": self._self,
            "TokenReview": self._token,
        }

    def handles(self, kind: str) -> bool:
        """Whether objects of a kind are reviews."""
        return kind in self._answers

    def answer(self, kind: str, review: Object, user: User, namespace: str = "") -> Object:
        """The review with its status; ``namespace`` is the one the review is asked in.

        Raises:
            BadRequest: it asks nothing, or a local one asks about another namespace.
        """
        spec = review.get("spec") or {}
        if kind == "LocalSubjectAccessReview":
            asked = (spec.get("resourceAttributes") or {}).get("namespace") or ""
            if asked != namespace:
                raise BadRequest(
                    f"spec.resourceAttributes.namespace must match namespace: {namespace}"
                )
        answered = {**review, "spec": spec, "status": self._answers[kind](spec, user)}
        answered.setdefault("metadata", {})["creationTimestamp"] = rfc3339(self._clock.now())
        return answered

    def _self_access(self, spec: Object, user: User) -> Object:
        return self._decide(spec, user)

    def _access(self, spec: Object, _user: User) -> Object:
        if not spec.get("user") and not spec.get("groups"):
            raise Invalid(
                "spec.user: Invalid value: at least one of user or group must be specified"
            )
        asked = User(spec.get("user") or "", tuple(spec.get("groups") or ()))
        return self._decide(spec, asked)

    def _decide(self, spec: Object, user: User) -> Object:
        allowed = self._rbac.allows(user, review_attributes(spec))
        return {"allowed": True, "reason": "allowed by RBAC"} if allowed else {"allowed": False}

    def _rules(self, spec: Object, user: User) -> Object:
        namespace = spec.get("namespace")
        if not namespace:
            raise BadRequest("no namespace on request")
        resources, paths = [], []
        for rule in self._rbac.rules(user, namespace):
            if rule.get("nonResourceURLs"):
                paths.append({"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]})
            else:
                fields = ("verbs", "apiGroups", "resources", "resourceNames")
                resources.append({name: rule[name] for name in fields if rule.get(name)})
        return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}

    def _self(self, _spec: Object, user: User) -> Object:
        return {"userInfo": user.info()}

    def _token(self, spec: Object, _user: User) -> Object:
        wanted = tuple(spec.get("audiences") or ())
        try:
            found, audiences = self._authenticator.by_token(spec.get("token") or "", wanted)
        except Unauthorized as error:
            return {"authenticated": False, "error": error.message, "user": {}}
        return {
            "authenticated": True,
            "user": found.info(),
            "audiences": audiences if wanted else [a for a in AUDIENCES if a in audiences],
        }
