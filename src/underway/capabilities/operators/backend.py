"""Asking hooks: webhooks at a URL or behind a Service, with the credentials they want.

Source: Metacontroller's API reference, "Hook".
"""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from underway.api.objects import Object
from underway.api.resources import CONFIGMAPS, SECRETS, SERVICES, Resource
from underway.base.clock import Clock
from underway.base.errors import BadRequest, NotFound, RequestTimeout, ServiceUnavailable
from underway.capabilities.operators.model import Hook, SecretKey, ServiceReference, Webhook
from underway.client import Client
from underway.transport import pki
from underway.transport.client import HttpTransport
from underway.wire.http import Request

T = TypeVar("T", bound=msgspec.Struct)

ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")


class HookClient:
    """Calls the hooks of one controller; close it with ``aclose``."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._transports: dict[tuple[str, bytes], HttpTransport] = {}

    async def aclose(self) -> None:
        """Close every connection."""
        while self._transports:
            await self._transports.popitem()[1].aclose()

    async def ask(self, hook: Hook, question: Object, answer: type[T]) -> T:
        """POST ``question`` to a hook and read what it answers.

        Raises:
            ServiceUnavailable: it cannot be reached, or its answer is not status 200.
            RequestTimeout: it took longer than its ``timeout``.
            BadRequest: the answer is none, or the hook is not described well.
        """
        webhook = hook.webhook
        if webhook is None:
            raise BadRequest("a hook needs a webhook")
        base, path, query = await self._where(webhook)
        transport = await self._transport(base, webhook)
        headers = {"content-type": "application/json", **await self._credentials(webhook)}
        request = Request("POST", path, query, headers, msgspec.json.encode(question))
        timeout_s = duration_s(webhook.timeout)
        try:
            async with asyncio.timeout(timeout_s):
                response = await transport(request)
                data = await response.read()
        except TimeoutError as error:
            raise RequestTimeout(f"hook {base}{path}: no answer within {timeout_s:g} s") from error
        if response.status != 200:
            text = data[:256].decode("utf-8", "replace")
            raise ServiceUnavailable(f"hook {base}{path} answered {response.status}: {text}")
        return _decoded(data, answer, f"hook {base}{path}", strict=_strict(hook, webhook))

    async def _where(self, webhook: Webhook) -> tuple[str, str, str]:
        """Scheme and authority, path, and query."""
        if webhook.url:
            parts = urlsplit(webhook.url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise BadRequest(f"the hook's url {webhook.url} is no http(s) URL")
            host = await self._service_of(parts.hostname) or parts.hostname
            port = parts.port or (443 if parts.scheme == "https" else 80)
            return f"{parts.scheme}://{_bracketed(host)}:{port}", parts.path or "/", parts.query
        if webhook.service is None:
            raise BadRequest("a webhook needs a url or a service")
        return await self._through(webhook.service), webhook.path or "/", ""

    async def _through(self, service: ServiceReference) -> str:
        address = await self._address(service.name, service.namespace)
        if not address:
            raise ServiceUnavailable(f"Service {service.namespace}/{service.name} has no address")
        return f"{service.protocol}://{_bracketed(address)}:{service.port}"

    async def _service_of(self, host: str) -> str:
        """The address behind ``NAME.NAMESPACE[.svc…]``; empty if there is no such Service.

        The cluster's own DNS may not be this machine's, so that its names are looked up here.
        """
        parts = host.split(".")
        if len(parts) < 2 or parts[-1].isdigit() or (len(parts) > 2 and parts[2] != "svc"):
            return ""
        try:
            return await self._address(parts[0], parts[1])
        except NotFound:
            return ""

    async def _address(self, name: str, namespace: str) -> str:
        found = await self._client.get(SERVICES, name, namespace)
        address = (found.get("spec") or {}).get("clusterIP") or ""
        return "" if address == "None" else str(address)

    async def _transport(self, base: str, webhook: Webhook) -> HttpTransport:
        authority = b""
        if base.startswith("https") and webhook.ca_bundle is not None:
            bundle = webhook.ca_bundle
            if bundle.inline:
                authority = bundle.inline.encode()
            elif bundle.secret_ref:
                authority = await self._secret(bundle.secret_ref)
            elif bundle.config_map_ref:
                ref = bundle.config_map_ref
                authority = (await self._value(CONFIGMAPS, ref)).encode()
        key = (base, authority)
        if key not in self._transports:
            tls = pki.client_context(authority or None) if base.startswith("https") else None
            self._transports[key] = HttpTransport(base, tls=tls)
        return self._transports[key]

    async def _credentials(self, webhook: Webhook) -> dict[str, str]:
        if webhook.authorization is not None:
            token = (await self._secret(webhook.authorization.secret_ref)).decode().strip()
            return {"authorization": f"{webhook.authorization.type} {token}"}
        if webhook.basic_auth is not None:
            ref = webhook.basic_auth
            where = ref.secret_ref
            user, password = [
                await self._secret(SecretKey(where.name, where.namespace, key))
                for key in (ref.username_key, ref.password_key)
            ]
            return {"authorization": f"Basic {base64.b64encode(user + b':' + password).decode()}"}
        return {}

    async def _secret(self, ref: SecretKey) -> bytes:
        return base64.b64decode(await self._value(SECRETS, ref))

    async def _value(self, resource: Resource, ref: SecretKey) -> str:
        found = await self._client.get(resource, ref.name, ref.namespace)
        value = (found.get("data") or {}).get(ref.key)
        if value is None:
            raise NotFound(f"{resource.kind} {ref.namespace}/{ref.name} has no {ref.key}")
        return str(value)


def duration_s(text: str) -> float:
    """Seconds of a Go duration: ``10s``, ``1m30s``, ``500ms``.

    Raises:
        BadRequest: it is none, or not positive.
    """
    total, at = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != at:
            break
        total += float(part[1]) * _UNITS_S[part[2]]
        at = part.end()
    if at != len(text) or total <= 0:
        raise BadRequest(f"{text!r} is no duration such as 10s or 1m30s")
    return total


def _strict(hook: Hook, webhook: Webhook) -> bool:
    return (webhook.response_un_marshall_mode or ("loose", "strict")[hook.version == "v2"]) == (
        "strict"
    )


def _decoded(data: bytes, answer: type[T], what: str, *, strict: bool) -> T:
    if len(data) > ANSWER_LIMIT_BYTES:
        raise BadRequest(f"{what}: the answer exceeds {ANSWER_LIMIT_BYTES} bytes")
    try:
        found: Any = msgspec.json.decode(data)
        decoded = msgspec.convert(found, answer)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"{what}: cannot read the answer: {error}") from error
    unknown = sorted(set(found) - set(answer.__struct_encode_fields__)) if strict else []
    if unknown:
        raise BadRequest(f"{what}: the answer has unknown fields: {', '.join(unknown)}")
    return decoded


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
