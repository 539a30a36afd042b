"""The versions of a custom resource, and the webhook that turns one into another.

What converts objects is synchronous, as all that looks at them; a webhook is not. So a conversion
that has to be asked for raises ``Unconverted``; ``converted`` (or ``converted_async``), which
stands where waiting is possible, asks for everything that is missing and does the work again. What
was answered is known until the outermost of them is done, and no longer: upstream keeps nothing.

Source: Kubernetes "Versions in CustomResourceDefinitions", "Webhook conversion";
apiextensions/v1 ``ConversionReview``; apiextensions-apiserver
``pkg/apiserver/conversion/webhook_converter.go``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import msgspec

from underway.api.objects import Object, meta
from underway.base.errors import InternalError, UnderwayError
from underway.base.ids import new_uid
from underway.server.remotes import Remotes
from underway.wire.http import Request

REVIEW = "apiextensions.k8s.io/v1"
_BATCH = 250  # objects in one review
_ROUNDS = 16  # of asking, before what is asked for is taken to be new each time
_TIMEOUT_S = 30
_ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
_KEPT = ("name", "namespace", "uid")

T = TypeVar("T")
S = TypeVar("S")
Ask = Callable[[Object, str, list[bytes]], Awaitable[list[bytes]]]
"""(clientConfig, wanted apiVersion, objects) -> the objects converted, in order."""
Convert = Callable[[Object], Object]
_Known = dict[tuple[str, bytes], bytes]

_known: ContextVar[_Known | None] = ContextVar("converted objects", default=None)


class Unconverted(UnderwayError):
    """Objects a webhook has to convert before the work can go on."""

    def __init__(self, ask: Ask, config: Object, target: str, objects: list[bytes]) -> None:
        super().__init__(f"objects have to be converted to {target} first")
        self.ask = ask
        self.config = config
        self.target = target
        self.objects = objects

    async def answer(self) -> _Known:
        """Ask the webhook; raises InternalError."""
        found: _Known = {}
        for start in range(0, len(self.objects), _BATCH):
            batch = self.objects[start : start + _BATCH]
            answers = await self.ask(self.config, self.target, batch)
            for given, answer in zip(batch, answers, strict=True):
                found[self.target, given] = answer
        return found


@contextmanager
def _remembering() -> Iterator[_Known]:
    outer = _known.get()
    if outer is not None:
        yield outer
        return
    token = _known.set(known := {})
    try:
        yield known
    finally:
        _known.reset(token)


async def converted(work: Callable[[], T]) -> T:
    """What ``work``, which changes nothing, comes to once all it needs is converted.

    Raises:
        InternalError: a webhook could not be asked, or answered nonsense.
    """
    with _remembering() as known:
        for _ in range(_ROUNDS):
            try:
                return work()
            except Unconverted as missing:
                known |= await missing.answer()
        raise InternalError("an object to be converted changes all the time")


async def converted_async(work: Callable[[], Awaitable[T]]) -> T:
    """As ``converted``, for work that waits itself; done anew, it must do no harm twice."""
    with _remembering() as known:
        for _ in range(_ROUNDS):
            try:
                return await work()
            except Unconverted as missing:
                known |= await missing.answer()
        raise InternalError("an object to be converted changes all the time")


def each(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """``work`` done on each of many; what they lack is asked for together.

    Raises:
        Unconverted: conversions are missing.
    """
    results: list[T] = []
    lacking: Unconverted | None = None
    for item in items:
        try:
            results.append(work(item))
        except Unconverted as missing:
            if lacking is None:
                lacking = missing
            else:
                lacking.objects += missing.objects
    if lacking is not None:
        raise lacking
    return results


def renaming(target: str) -> Convert:
    """Conversion strategy None: nothing changes but the apiVersion."""

    def convert(obj: Object) -> Object:
        return {**obj, "apiVersion": target}

    return convert


def asking(ask: Ask, config: Object, target: str) -> Convert:
    """Conversion strategy Webhook."""

    def convert(obj: Object) -> Object:
        if obj.get("apiVersion") == target:
            return obj
        data = msgspec.json.encode(obj)
        answer = (_known.get() or {}).get((target, data))
        if answer is None:
            raise Unconverted(ask, config, target, [data])
        decoded: Object = msgspec.json.decode(answer)
        return decoded

    return convert


class ConversionWebhooks:
    """Asks the webhooks of CustomResourceDefinitions."""

    def __init__(self, remotes: Remotes) -> None:
        self._remotes = remotes

    async def ask(self, config: Object, target: str, objects: list[bytes]) -> list[bytes]:
        """The objects in another version, as the webhook answers.

        Raises:
            InternalError: it cannot be reached, refuses, or answers something else.
        """
        given = [msgspec.json.decode(data) for data in objects]
        what = "conversion webhook for {apiVersion}, Kind={kind}".format(**given[0])
        uid = new_uid()
        asked = {"uid": uid, "desiredAPIVersion": target, "objects": given}
        review = {"kind": "ConversionReview", "apiVersion": REVIEW, "request": asked}
        try:
            answers = _answers(await self._post(config, msgspec.json.encode(review)), uid)
        except _Failed as error:
            raise InternalError(f"{what} failed: {error}") from error
        if len(answers) != len(given):
            raise InternalError(f"{what} returned {len(answers)} objects, expected {len(given)}")
        for index, (before, after) in enumerate(zip(given, answers, strict=True)):
            try:
                _restore(before, after, target)
            except _Failed as error:
                raise InternalError(
                    f"{what} returned invalid converted object at index {index}: {error}"
                ) from error
        return [msgspec.json.encode(answer) for answer in answers]

    async def _post(self, config: Object, body: bytes) -> bytes:
        query = f"timeout={_TIMEOUT_S}s"
        what = "cannot be reached"
        try:
            remote = await self._remotes.reach(config)
            what = f'Post "{remote.shown}{remote.path}?{query}"'
            headers = {"content-type": "application/json", "accept": "application/json"}
            async with asyncio.timeout(_TIMEOUT_S):
                response = await remote.send(Request("POST", remote.path, query, headers, body))
                data = await response.read()
        except TimeoutError as error:
            raise _Failed(f"{what}: context deadline exceeded") from error
        except UnderwayError as error:
            raise _Failed(f"{what}: {error.message}") from error
        if not 200 <= response.status < 300:
            raise _Failed(f"{what}: the server answered {response.status}")
        if len(data) > _ANSWER_LIMIT_BYTES:
            raise _Failed(f"{what}: the answer exceeds {_ANSWER_LIMIT_BYTES} bytes")
        return data


class _Failed(Exception):
    """A webhook could not be asked, or answered nonsense."""


def _answers(data: bytes, uid: str) -> list[Any]:
    try:
        review = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _Failed(f"the answer is no JSON: {error}") from error
    said = (review.get("apiVersion"), review.get("kind")) if isinstance(review, dict) else None
    if said != (REVIEW, "ConversionReview"):
        raise _Failed(f"expected webhook response of {REVIEW}, Kind=ConversionReview, got {said}")
    response = review.get("response")
    if not isinstance(response, dict):
        raise _Failed("no response provided")
    if response.get("uid") != uid:
        raise _Failed(f'expected response.uid="{uid}", got "{response.get("uid")}"')
    result = response.get("result")
    result = result if isinstance(result, dict) else {}
    if result.get("status") != "Success":
        why = f"response.result.status was '{result.get('status') or ''}', not 'Success'"
        raise _Failed(str(result.get("message") or why))
    found = response.get("convertedObjects")
    return found if isinstance(found, list) else []


def _restore(before: Object, after: Any, target: str) -> None:
    """Check one answer, and undo what a webhook may not change: metadata but labels and
    annotations.
    """
    if not isinstance(after, dict) or after.get("apiVersion") != target:
        got = after.get("apiVersion") if isinstance(after, dict) else None
        raise _Failed(f"invalid groupVersion (expected {target}, received {got})")
    if after.get("kind") != before.get("kind"):
        raise _Failed(f"invalid kind (expected {before.get('kind')}, received {after.get('kind')})")
    given = after.get("metadata")
    if not isinstance(given, dict):
        raise _Failed("metadata must be an object")
    metadata = meta(before)
    for field in _KEPT:
        if given.get(field, "") != metadata.get(field, ""):
            raise _Failed(
                f"must have the same {field}: {metadata.get(field)} != {given.get(field)}"
            )
    restored = {k: v for k, v in metadata.items() if k not in ("labels", "annotations")}
    for field in ("labels", "annotations"):
        value = given.get(field)
        if value is None:
            continue
        texts = isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
        if not texts:
            raise _Failed(f"invalid metadata: metadata.{field} must be a map of texts")
        restored[field] = value
    after["metadata"] = restored
