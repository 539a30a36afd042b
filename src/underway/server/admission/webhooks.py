"""Mutating and validating admission webhooks: asking them, and heeding what they answer.

Source: Kubernetes "Dynamic Admission Control"; API reference ``admission.k8s.io/v1``; apiserver
``pkg/admission/plugin/webhook``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from underway.api.objects import Object, meta
from underway.api.patches import copy_json, json_patch
from underway.base.errors import BadRequest, InternalError, UnderwayError
from underway.base.ids import new_uid
from underway.server.admission import conditions
from underway.server.admission.hooks import MUTATING, VALIDATING, Hook, Hooks, Match
from underway.server.admission.write import Write
from underway.server.catalog import Catalog, Served
from underway.server.evaluating import Evaluations
from underway.server.store import Key, Store
from underway.server.versions import converted
from underway.transport import pki
from underway.transport.client import HttpTransport
from underway.wire.http import Request

log = logging.getLogger(__name__)

OWN_USER = "system:apiserver"
_ANSWER_LIMIT_BYTES = 3 * 1024 * 1024
_TRANSPORTS = 64
_WARNING_LIMIT = 256  # characters of one warning; upstream's
_REVIEW = "admission.k8s.io/v1"


class Denied(UnderwayError):
    """A webhook's no, with the code and reason it chose."""

    def __init__(self, hook: str, status: Object) -> None:
        text = status.get("message") or status.get("reason")
        why = f": {text}" if text else " without explanation"
        super().__init__(
            f'admission webhook "{hook}" denied the request{why}',
            details={k: v for k, v in (status.get("details") or {}).items() if k != "causes"},
        )
        code = status.get("code")
        self.code = code if isinstance(code, int) and 400 <= code < 600 else 400  # type: ignore[misc]
        self.reason = str(status.get("reason") or "")  # type: ignore[misc]


class _CallFailed(Exception):  # becomes an InternalError, or is forgiven
    """A webhook could not be asked, or answered nonsense."""


class Webhooks:
    """Asks the cluster's webhooks. One connection pool each, closed by ``aclose``."""

    def __init__(self, store: Store, catalog: Catalog, evaluations: Evaluations) -> None:
        self._evaluations = evaluations
        self._store = store
        self._hooks = Hooks(store, catalog)
        self._transports: dict[tuple[str, str, str], HttpTransport] = {}

    async def aclose(self) -> None:
        """Close every connection."""
        while self._transports:
            await self._transports.popitem()[1].aclose()

    def _matching(self, storage: str, write: Write) -> list[Match]:
        # The server's own upkeep must not depend on webhooks that may not be up yet.
        return [] if write.user.name == OWN_USER else self._hooks.matching(storage, write)

    async def mutate(self, write: Write, complete: Callable[[Object], None]) -> bool:
        """Ask the mutating webhooks one after another, changing ``write.new``.

        ``complete`` brings a changed object into its kind's shape. Webhooks that want to be asked
        again when others changed the object after them are, once.

        Returns:
            Whether the object was changed.

        Raises:
            Denied: a webhook refuses the write.
            InternalError: one that must be heard could not be asked.
            BadRequest: the write is a dry run, and one has side effects.
        """
        asked: list[tuple[str, str, int]] = []  # by (configuration, webhook), after which change
        changes = 0
        for match in self._matching(MUTATING, write):
            changed = await self._ask_to_change(match, write, complete)
            changes += changed
            asked.append((match.hook.configuration, match.hook.name, changes))
        if not changes:
            return False
        before = {(config, name): count for config, name, count in asked}
        for match in self._matching(MUTATING, write):
            seen = before.get((match.hook.configuration, match.hook.name))
            if match.hook.spec.get("reinvocationPolicy") == "IfNeeded" and seen not in (
                None,
                changes,
            ):
                await self._ask_to_change(match, write, complete)
        return True

    async def _ask_to_change(
        self, match: Match, write: Write, complete: Callable[[Object], None]
    ) -> bool:
        answer = await self._ask(match, write)
        patch = answer.get("patch") if answer else None
        if not patch or write.new is None:
            return False
        try:
            changed = await self._patched(match, write, answer or {}, patch)
            complete(changed)
        except (UnderwayError, _CallFailed) as error:
            self._forgive(match.hook, error)
            return False
        if changed == write.new:
            return False
        write.new.clear()
        write.new.update(changed)
        return True

    async def _patched(self, match: Match, write: Write, answer: Object, patch: Any) -> Object:
        name = match.hook.name
        if answer.get("patchType") != "JSONPatch":
            raise _CallFailed(f'webhook "{name}" returned patchType {answer.get("patchType")!r}')
        try:
            operations = msgspec.json.decode(base64.b64decode(patch, validate=True))
        except (ValueError, binascii.Error, TypeError) as error:
            raise _CallFailed(f'webhook "{name}" returned a patch that is no JSON') from error
        assert write.new is not None
        new, convert = write.new, match.shown.to_stored
        if write.served.hub:
            convert = write.served.to_shown
        shown = json_patch(await converted(lambda: _shown(match.shown, new)), operations)
        changed = await converted(lambda: convert(shown)) if convert else shown
        for field in ("name", "namespace", "uid"):
            if meta(changed).get(field) != meta(write.new).get(field):
                raise _CallFailed(f'webhook "{name}" changed metadata.{field}')
        return changed

    async def validate(self, write: Write) -> None:
        """Ask the validating webhooks, all at once.

        Raises:
            Denied: a webhook refuses the write.
            InternalError: one that must be heard could not be asked.
            BadRequest: the write is a dry run, and one has side effects.
        """
        matches = self._matching(VALIDATING, write)
        if not matches:
            return
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._refusal(match, write)) for match in matches]
        for task in tasks:
            if (refusal := task.result()) is not None:
                raise refusal

    async def _refusal(self, match: Match, write: Write) -> UnderwayError | None:
        try:
            await self._ask(match, write)
        except UnderwayError as error:
            return error
        return None

    # -- one call --------------------------------------------------------------------------

    async def _ask(self, match: Match, write: Write) -> Object | None:
        """The webhook's answer; None where it has nothing to say, or that is forgiven."""
        hook = match.hook
        request = await converted(lambda: _request(match, write))
        if not await self._evaluations.run(lambda: conditions.hold(hook, request, write)):
            return None
        if write.dry_run and hook.spec.get("sideEffects") not in ("None", "NoneOnDryRun"):
            raise BadRequest(f'admission webhook "{hook.name}" does not support dry run')
        try:
            answer = await self._call(hook, request)
        except _CallFailed as error:
            self._forgive(hook, error)
            return None
        for text in answer.get("warnings") or ():
            write.warn(str(text)[:_WARNING_LIMIT])
        if answer.get("allowed") is not True:
            status = answer.get("status")
            raise Denied(hook.name, status if isinstance(status, dict) else {})
        return answer

    def _forgive(self, hook: Hook, error: Exception) -> None:
        """Go on without the webhook, if it may be.

        Raises:
            InternalError: it may not.
        """
        text = f'failed calling webhook "{hook.name}": {error}'
        if not hook.fails_open:
            raise InternalError(f"Internal error occurred: {text}") from error
        log.warning("%s; going on without it, as its failurePolicy is Ignore", text)

    async def _call(self, hook: Hook, request: Object) -> Object:
        review = {"kind": "AdmissionReview", "apiVersion": _REVIEW, "request": request}
        body = msgspec.json.encode(review)
        timeout_s = int(hook.spec.get("timeoutSeconds") or 10)
        query = f"timeout={timeout_s}s"
        what = "failed to call webhook"
        try:
            url, path, transport = await self._reach(hook)
            what = f'failed to call webhook: Post "{url}{path}?{query}"'
            async with asyncio.timeout(timeout_s):
                headers = {"content-type": "application/json", "accept": "application/json"}
                response = await transport(Request("POST", path, query, headers, body))
                data = await response.read()
        except TimeoutError as error:
            raise _CallFailed(f"{what}: context deadline exceeded") from error
        except UnderwayError as error:
            raise _CallFailed(f"{what}: {error.message}") from error
        if not 200 <= response.status < 300:
            raise _CallFailed(f"{what}: the server answered {response.status}")
        return _answer(data, request["uid"])

    async def _reach(self, hook: Hook) -> tuple[str, str, HttpTransport]:
        """Where the webhook is: the server, the path there, and the way to it."""
        config = hook.spec.get("clientConfig") or {}
        server_name = ""
        service = config.get("service")
        if service:
            url = self._service_url(service)
            path = service.get("path") or "/"
            server_name = f"{service['name']}.{service['namespace']}.svc"
        else:
            parts = urlsplit(str(config.get("url")))
            url, path = f"https://{parts.netloc}", parts.path or "/"
        bundle = str(config.get("caBundle") or "")
        key = (url, bundle, server_name)
        transport = self._transports.get(key)
        if transport is None:
            try:
                authority = base64.b64decode(bundle) or None
            except binascii.Error as error:
                raise _CallFailed("its caBundle is no base64") from error
            tls = pki.client_context(authority)
            if len(self._transports) >= _TRANSPORTS:  # of configurations that changed, mostly
                oldest = next(iter(self._transports))
                await self._transports.pop(oldest).aclose()
            transport = HttpTransport(url, tls=tls, server_name=server_name)
            self._transports[key] = transport
        shown = f"https://{server_name}:{url.rpartition(':')[2]}" if server_name else url
        return shown, path, transport

    def _service_url(self, reference: Object) -> str:
        namespace, name = reference.get("namespace", ""), reference.get("name", "")
        row = self._store.get(Key("services", namespace, name))
        if row is None:
            raise _CallFailed(f'failed to call webhook: service "{name}" not found')
        spec = row.decode().get("spec") or {}
        port = reference.get("port") or 443
        if spec.get("type") == "ExternalName":
            return f"https://{spec.get('externalName')}:{port}"
        if all(each.get("port") != port for each in spec.get("ports") or ()):
            raise _CallFailed(
                f'failed to call webhook: no service port {port} found for service "{name}"'
            )
        address = spec.get("clusterIP") or "None"
        if address == "None":
            raise _CallFailed(f'failed to call webhook: service "{name}" has no cluster IP')
        return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"


def _answer(data: bytes, uid: str) -> Object:
    if len(data) > _ANSWER_LIMIT_BYTES:
        raise _CallFailed(f"the answer exceeds {_ANSWER_LIMIT_BYTES} bytes")
    try:
        review = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise _CallFailed(f"received invalid webhook response: {error}") from error
    said = (review.get("apiVersion"), review.get("kind")) if isinstance(review, dict) else None
    if said != (_REVIEW, "AdmissionReview"):
        raise _CallFailed(
            f"received invalid webhook response: expected webhook response of {_REVIEW},"
            f" Kind=AdmissionReview, got {said}"
        )
    answer = review.get("response")
    if not isinstance(answer, dict):
        raise _CallFailed("webhook response was absent")
    if answer.get("uid") != uid:
        raise _CallFailed(
            f'received invalid webhook response: expected response.uid="{uid}", got'
            f' "{answer.get("uid")}"'
        )
    return answer


def _shown(served: Served, obj: Object) -> Object:
    copy = copy_json(obj)
    shown: Object = served.to_shown(copy) if served.to_shown else copy
    return {**shown, "apiVersion": served.resource.api_version, "kind": served.resource.kind}


def _request(match: Match, write: Write) -> Object:
    shown, asked = match.shown.resource, write.served.resource
    request: Object = {
        "uid": new_uid(),
        "kind": {"group": shown.group, "version": shown.version, "kind": shown.kind},
        "resource": {"group": shown.group, "version": shown.version, "resource": shown.plural},
        "requestKind": {"group": asked.group, "version": asked.version, "kind": asked.kind},
        "requestResource": {
            "group": asked.group,
            "version": asked.version,
            "resource": asked.plural,
        },
        "name": write.name,
        "operation": write.operation,
        "userInfo": write.user.info(),
        "object": None if write.new is None else _shown(match.shown, write.new),
        "oldObject": None if write.old is None else _shown(match.shown, write.old),
        "dryRun": write.dry_run,
        "options": write.options or None,
    }
    if write.subresource:
        request["subResource"] = request["requestSubResource"] = write.subresource
    if write.namespace or asked.plural == "namespaces":
        request["namespace"] = write.namespace or write.name
    return request
