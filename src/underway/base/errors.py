"""The one family of errors.

Each class carries the Kubernetes ``Status`` reason and HTTP code it answers with, and whether
trying again can help. Foreign exceptions are mapped to this family once, at the boundary where
they arise, with ``from``.

Source: kubernetes/apimachinery ``pkg/apis/meta/v1/types.go`` (StatusReason), ``pkg/api/errors``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

MESSAGE_LIMIT = 32_768  # characters; a foreign body quoted in a message is capped to this


@dataclass(frozen=True, slots=True)
class Cause:
    """One field that made a request invalid: ``reason`` is the field error's type name."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"

    def as_dict(self) -> dict[str, str]:
        """The entry as it stands in ``Status.details.causes``."""
        return {"reason": self.reason, "message": self.message, "field": self.field}


class UnderwayError(Exception):
    """Root of all errors raised on purpose.

    Args:
        message: a sentence for the user naming what failed and where.
        hint: the next thing to try, or empty.
        details: ``Status.details`` (``name``, ``group``, ``kind``, ``uid``).
        causes: the fields at fault.
        retry_after_s: for errors that go away by themselves, seconds until a retry is useful.
    """

    reason: ClassVar[str] = "InternalError"
    code: ClassVar[int] = 500
    retriable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        details: dict[str, Any] | None = None,
        causes: list[Cause] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message[:MESSAGE_LIMIT])
        self.message = message[:MESSAGE_LIMIT]
        self.hint = hint
        self.details = details or {}
        self.causes = causes or []
        self.retry_after_s = retry_after_s

    def to_status(self) -> dict[str, Any]:
        """The error as a ``meta.k8s.io/v1 Status`` object."""
        details: dict[str, Any] = dict(self.details)
        if self.causes:
            details["causes"] = [cause.as_dict() for cause in self.causes]
        if self.retry_after_s is not None:
            details["retryAfterSeconds"] = self.retry_after_s
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if details:
            status["details"] = details
        return status


class BadRequest(UnderwayError):
    """The request cannot be understood."""

    reason = "BadRequest"
    code = 400


class Unauthorized(UnderwayError):
    """Nobody the server knows made the request."""

    reason = "Unauthorized"
    code = 401


class Forbidden(UnderwayError):
    """The user may not do this."""

    reason = "Forbidden"
    code = 403


class NotFound(UnderwayError):
    """The object or path does not exist."""

    reason = "NotFound"
    code = 404


class MethodNotAllowed(UnderwayError):
    """The resource has no such verb."""

    reason = "MethodNotAllowed"
    code = 405


class NotAcceptable(UnderwayError):
    """None of the media types asked for can be served."""

    reason = "NotAcceptable"
    code = 406


class RequestTimeout(UnderwayError):
    """The operation did not finish in the time given."""

    reason = "Timeout"
    code = 504
    retriable = True


class AlreadyExists(UnderwayError):
    """An object of that name is there already."""

    reason = "AlreadyExists"
    code = 409


class Conflict(UnderwayError):
    """The object changed since it was read, or somebody else owns the field."""

    reason = "Conflict"
    code = 409
    retriable = True


class Expired(UnderwayError):
    """The resourceVersion or continue token lies before the kept history."""

    reason = "Expired"
    code = 410


class TooLarge(UnderwayError):
    """The body is larger than the server accepts."""

    reason = "RequestEntityTooLarge"
    code = 413


class UnsupportedMediaType(UnderwayError):
    """The body's content type is not one the server reads."""

    reason = "UnsupportedMediaType"
    code = 415


class Invalid(UnderwayError):
    """The object breaks a rule of its kind; ``causes`` name the fields."""

    reason = "Invalid"
    code = 422


class TooManyRequests(UnderwayError):
    """Wait and try again."""

    reason = "TooManyRequests"
    code = 429
    retriable = True


class InternalError(UnderwayError):
    """A bug of ours or a broken machine."""


class ServiceUnavailable(UnderwayError):
    """The other side is not there, or not there yet."""

    reason = "ServiceUnavailable"
    code = 503
    retriable = True


def from_status(status: dict[str, Any]) -> UnderwayError:
    """The error a ``Status`` object stands for; unknown reasons fall back to the HTTP code."""
    family = [
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        NotAcceptable,
        RequestTimeout,
        AlreadyExists,
        Conflict,
        Expired,
        TooLarge,
        UnsupportedMediaType,
        Invalid,
        TooManyRequests,
        ServiceUnavailable,
    ]
    reason, code = status.get("reason", ""), int(status.get("code") or 500)
    cls: type[UnderwayError] = InternalError
    for candidate in family:
        if candidate.reason == reason or (not reason and candidate.code == code):
            cls = candidate
            break
    details = dict(status.get("details") or {})
    causes = [
        Cause(c.get("field", ""), c.get("message", ""), c.get("reason", ""))
        for c in details.pop("causes", None) or []
    ]
    retry_after = details.pop("retryAfterSeconds", None)
    message = status.get("message") or reason or f"HTTP {code}"
    return cls(message, details=details, causes=causes, retry_after_s=retry_after)
