"""Asking hooks: over TLS, through Services, with credentials, in time."""

from __future__ import annotations

import asyncio
import base64
import contextlib

import pytest
from tests.cluster import cluster

from underway.api.objects import name_of
from underway.api.resources import SECRETS, SERVICES
from underway.base.clock import SystemClock
from underway.base.errors import BadRequest, RequestTimeout, ServiceUnavailable
from underway.capabilities.operators.backend import HookClient
from underway.capabilities.operators.model import (
    Authorization,
    BasicAuth,
    CaBundle,
    Hook,
    SecretKey,
    SecretName,
    ServiceReference,
    SyncAnswer,
    Webhook,
)
from underway.reconcile import authority
from underway.transport import front, pki
from underway.wire.http import Response, json_response


@contextlib.asynccontextmanager
async def asking(tmp_path, answer, tls=None):
    """A client of hooks, and the port of one that answers."""
    async with cluster(tmp_path) as env, await front.serve(answer, tls=tls) as server:
        client = HookClient(env.client, SystemClock())
        try:
            yield env, client, server.port
        finally:
            await client.aclose()


def secret(name: str, **values: str) -> dict:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    header = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": header, "data": data}


async def echo(request):
    body = request.headers.get("authorization", "")
    return json_response({"status": {"said": body, "path": request.path}, "children": []})


def test_credentials_come_from_secrets(tmp_path):
    async def main():
        async with asking(tmp_path, echo) as (env, client, port):
            await env.client.create(SECRETS, secret("token", key="t0ken\n"))
            await env.client.create(SECRETS, secret("login", username="ada", password="pw"))
            url = f"http://127.0.0.1:{port}/sync"
            bearer = Authorization(SecretKey("token", "default", "key"))
            basic = BasicAuth(SecretName("login", "default"))
            for webhook, said in (
                (Webhook(url, authorization=bearer), "Bearer t0ken"),
                (Webhook(url, basic_auth=basic), "Basic " + base64.b64encode(b"ada:pw").decode()),
                (Webhook(url), ""),
            ):
                answer = await client.ask(Hook(webhook=webhook), {}, SyncAnswer)
                assert answer.status == {"said": said, "path": "/sync"}

    asyncio.run(main())


def test_a_hook_over_tls_is_trusted_by_its_bundle_alone(tmp_path):
    async def main():
        now = SystemClock().now()
        ca = authority.new_authority("hooks", now)
        certificate, key = authority.pem(authority.new_server(ca, ["127.0.0.1"], now))
        tls = pki.server_context(certificate, key)
        async with asking(tmp_path, echo, tls) as (env, client, port):
            await env.client.create(
                SECRETS, secret("ca", **{"ca.crt": authority.pem(ca)[0].decode()})
            )
            url = f"https://127.0.0.1:{port}/sync"
            trusted = Webhook(url, ca_bundle=CaBundle(secret_ref=SecretKey("ca", "default")))
            inline = Webhook(url, ca_bundle=CaBundle(inline=authority.pem(ca)[0].decode()))
            for webhook in (trusted, inline):
                answer = await client.ask(Hook(webhook=webhook), {}, SyncAnswer)
                assert answer.children == []
            with pytest.raises(ServiceUnavailable):
                await client.ask(Hook(webhook=Webhook(url)), {}, SyncAnswer)

    asyncio.run(main())


def test_services_are_found_by_reference_and_by_name(tmp_path):
    async def main():
        async with asking(tmp_path, echo) as (env, client, port):
            spec = {"ports": [{"port": 80}], "selector": {"a": "b"}}
            made = await env.client.create(
                SERVICES,
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": "hook", "namespace": "default"},
                    "spec": spec,
                },
            )
            address = made["spec"]["clusterIP"]
            assert name_of(made) == "hook"
            reference = ServiceReference("hook", "default", port)
            assert await client._where(Webhook(service=reference, path="/sync")) == (
                f"http://{address}:{port}",
                "/sync",
                "",
            )
            for host in ("hook.default", "hook.default.svc", "hook.default.svc.cluster.local"):
                found = await client._where(Webhook(f"http://{host}/sync?a=b"))
                assert found == (f"http://{address}:80", "/sync", "a=b")
            outside = await client._where(Webhook("https://hooks.example.com/x"))
            assert outside == ("https://hooks.example.com:443", "/x", "")

    asyncio.run(main())


def test_an_answer_that_is_late_wrong_or_none_is_told_as_such(tmp_path):
    async def answer(request):
        if request.path == "/late":
            await asyncio.Event().wait()
        if request.path == "/broken":
            return Response(500, {}, b"oops")
        if request.path == "/text":
            return Response(200, {}, b"hello")
        return json_response({"children": [], "odd": 1})

    async def main():
        async with asking(tmp_path, answer) as (_, client, port):

            async def ask(path, timeout="10s", version="v1"):
                webhook = Webhook(f"http://127.0.0.1:{port}/{path}", timeout)
                return await client.ask(Hook(version, webhook), {}, SyncAnswer)

            with pytest.raises(RequestTimeout, match=r"0\.05 s"):
                await ask("late", "50ms")
            with pytest.raises(ServiceUnavailable, match="answered 500: oops"):
                await ask("broken")
            with pytest.raises(BadRequest, match="cannot read"):
                await ask("text")
            assert (await ask("odd")).children == []
            with pytest.raises(BadRequest, match="unknown fields: odd"):
                await ask("odd", version="v2")
            for wrong in (Webhook(), Webhook("ftp://x/"), Webhook("http://x/", "soon")):
                with pytest.raises(BadRequest):
                    await client.ask(Hook(webhook=wrong), {}, SyncAnswer)

    asyncio.run(main())
