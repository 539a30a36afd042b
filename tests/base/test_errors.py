from __future__ import annotations

import pytest

from underway.base import errors
from underway.base.errors import Cause, UnderwayError, from_status

FAMILY = [
    errors.BadRequest, errors.Unauthorized, errors.Forbidden, errors.NotFound,
    errors.MethodNotAllowed, errors.NotAcceptable, errors.RequestTimeout, errors.AlreadyExists,
    errors.Conflict, errors.Expired, errors.TooLarge, errors.UnsupportedMediaType, errors.Invalid,
    errors.TooManyRequests, errors.ServiceUnavailable, errors.InternalError,
]  # fmt: skip


@pytest.mark.parametrize("cls", FAMILY, ids=lambda cls: cls.reason)
def test_status_round_trip_keeps_the_class(cls: type[UnderwayError]) -> None:
    sent = cls(
        "what failed",
        details={"name": "x", "kind": "pods"},
        causes=[Cause("spec.a", "Required value", "FieldValueRequired")],
        retry_after_s=3,
    )
    back = from_status(sent.to_status())
    assert type(back) is cls
    assert (back.message, back.details, back.causes, back.retry_after_s) == (
        "what failed", {"name": "x", "kind": "pods"}, sent.causes, 3,
    )  # fmt: skip


def test_status_without_reason_is_told_by_its_code() -> None:
    assert type(from_status({"code": 404})) is errors.NotFound
    assert type(from_status({"code": 599, "message": "odd"})) is errors.InternalError


def test_long_messages_are_capped() -> None:
    assert len(errors.BadRequest("x" * 100_000).message) == errors.MESSAGE_LIMIT
