"""Admission and conversion webhooks, served over TLS.

Source: Kubernetes "Dynamic Admission Control", "Versions in CustomResourceDefinitions"; API
reference ``admission.k8s.io/v1``, ``apiextensions.k8s.io/v1`` (ConversionReview).
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from underway.api.objects import Object, meta
from underway.api.patches import copy_json
from underway.base.errors import BadRequest, Forbidden, UnderwayError
from underway.reconcile.certificates import ManagedCertificate
from underway.transport import front
from underway.wire.http import Request, Response, json_response

log = logging.getLogger(__name__)

BODY_LIMIT_BYTES = 16 * 1024 * 1024  # a ConversionReview holds many objects
GRACE_S = 10.0

_ADMISSION = "admission.k8s.io/v1"
_CONVERSION = "apiextensions.k8s.io/v1"


class Denied(Forbidden):
    """A validating or mutating webhook's no; the message goes to the user."""


@dataclass
class Admission:
    """What is to be admitted.

    ``object`` is None for DELETE, ``old_object`` for CREATE. A mutating webhook changes
    ``object`` in place. Texts in ``warnings`` are shown to the user.
    """

    operation: str
    object: Object | None
    old_object: Object | None
    namespace: str
    name: str
    subresource: str
    user: Object
    dry_run: bool
    request: Object
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, request: Object) -> Admission:
        """The admission that an ``AdmissionReview.request`` asks for."""
        return cls(
            operation=str(request.get("operation") or ""),
            object=copy_json(request.get("object")),
            old_object=copy_json(request.get("oldObject")),
            namespace=str(request.get("namespace") or ""),
            name=str(request.get("name") or ""),
            subresource=str(request.get("subResource") or ""),
            user=request.get("userInfo") or {},
            dry_run=bool(request.get("dryRun")),
            request=request,
        )


Judge = Callable[[Admission], Awaitable[None]]
"""Returns to admit, raises to refuse: ``Denied``, ``Invalid`` or another UnderwayError."""
Convert = Callable[[Object, str], Object]
"""From an object and the apiVersion wanted to the object in that version."""
_Answer = Callable[[Object], Awaitable[Object]]


class WebhookServer:
    """Serves webhooks while its manager runs, on every replica.

    Args:
        certificate: what it shows; see ``ManagedCertificate``.
        host: address to listen on.
        port: TCP; 0 picks a free one.

    Attributes:
        port: the port, once ``started`` is set.
    """

    def __init__(
        self,
        certificate: ManagedCertificate,
        *,
        host: str = "0.0.0.0",  # noqa: S104  # the API server calls from elsewhere
        port: int = 9443,
    ) -> None:
        self.certificate = certificate
        self.port = port
        self.started = asyncio.Event()
        self._host = host
        self._answers: dict[str, _Answer] = {}

    def validate(self, path: str, judge: Judge) -> None:
        """Serve a validating webhook at ``path``."""
        self._add(path, lambda review: _admit(review, judge, mutating=False))

    def mutate(self, path: str, judge: Judge) -> None:
        """Serve a mutating webhook at ``path``."""
        self._add(path, lambda review: _admit(review, judge, mutating=True))

    def convert(self, path: str, convert: Convert) -> None:
        """Serve a conversion webhook at ``path``."""

        async def answer(review: Object) -> Object:
            return _converted(review, convert)

        self._add(path, answer)

    def paths(self) -> list[str]:
        """Where it serves something."""
        return sorted(self._answers)

    async def run(self) -> None:
        """Serve until cancelled, once there is a certificate; calls under way are finished."""
        await self.certificate.ready()
        server = await front.serve(
            self.handle, host=self._host, port=self.port, tls=self.certificate.context
        )
        try:
            self.port = server.port
            self.started.set()
            log.info("webhooks on port %d: %s", self.port, ", ".join(self.paths()))
            await asyncio.Event().wait()
        finally:
            await server.close(GRACE_S)

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        answer = self._answers.get(request.path)
        if answer is None:
            return Response(404, {"content-type": "text/plain"}, b"no webhook here")
        if request.method != "POST":
            return Response(405, {"content-type": "text/plain"}, b"reviews are posted")
        try:
            review = msgspec.json.decode(await request.read(BODY_LIMIT_BYTES))
            if not isinstance(review, dict) or not isinstance(review.get("request"), dict):
                raise BadRequest("the body is no review")
            return json_response(await answer(review))
        except (msgspec.DecodeError, UnderwayError) as error:
            text = f"cannot answer: {error}".encode()
            return Response(getattr(error, "code", 400), {"content-type": "text/plain"}, text)

    def _add(self, path: str, answer: _Answer) -> None:
        if not path.startswith("/"):
            raise ValueError(f"the path of a webhook begins with a slash: {path}")
        if path in self._answers:
            raise ValueError(f"there is a webhook at {path} already")
        self._answers[path] = answer


async def _admit(review: Object, judge: Judge, *, mutating: bool) -> Object:
    request = review["request"]
    admission = Admission.of(request)
    response: Object = {"uid": request.get("uid", ""), "allowed": True}
    try:
        await judge(admission)
    except UnderwayError as error:
        status = error.to_status()
        response |= {"allowed": False, "status": status}
    except Exception as error:
        log.exception("a webhook failed for %s %s", admission.operation, admission.name)
        status = {"code": 500, "message": f"the webhook failed: {error}"}
        response |= {"allowed": False, "status": status}
    else:
        operations = json_difference(request.get("object"), admission.object) if mutating else []
        if operations:
            encoded = base64.b64encode(msgspec.json.encode(operations)).decode()
            response |= {"patchType": "JSONPatch", "patch": encoded}
    if admission.warnings:
        response["warnings"] = admission.warnings
    return {"apiVersion": _ADMISSION, "kind": "AdmissionReview", "response": response}


def _converted(review: Object, convert: Convert) -> Object:
    request = review["request"]
    wanted = str(request.get("desiredAPIVersion") or "")
    response: Object = {"uid": request.get("uid", ""), "result": {"status": "Success"}}
    try:
        response["convertedObjects"] = [
            _kept(each, convert(copy_json(each), wanted), wanted)
            for each in request.get("objects") or ()
        ]
    except Exception as error:
        if not isinstance(error, UnderwayError):
            log.exception("converting to %s failed", wanted)
        response["result"] = {"status": "Failure", "message": str(error) or type(error).__name__}
    return {"apiVersion": _CONVERSION, "kind": "ConversionReview", "response": response}


def _kept(before: Object, after: Object, wanted: str) -> Object:
    """A converted object with what a conversion may not change."""
    header = meta(before)
    changeable = {name: meta(after).get(name) for name in ("labels", "annotations")}
    kept = {**header, **{name: value for name, value in changeable.items() if value}}
    return {**after, "apiVersion": wanted, "kind": before.get("kind"), "metadata": kept}


def json_difference(old: Any, new: Any, at: str = "") -> list[Object]:
    """JSON Patch operations that make ``new`` of ``old``; lists are replaced whole."""
    if old == new:
        return []
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [{"op": "replace", "path": at, "value": new}]
    found: list[Object] = [
        {"op": "remove", "path": f"{at}/{_token(name)}"} for name in old if name not in new
    ]
    for name, value in new.items():
        path = f"{at}/{_token(name)}"
        if name not in old:
            found.append({"op": "add", "path": path, "value": value})
        else:
            found += json_difference(old[name], value, path)
    return found


def _token(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
