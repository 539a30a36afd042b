"""Webhooks served by the SDK, asked by the embedded API server over real TLS."""

import asyncio
import base64
import contextlib
import ssl
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster import cluster

from underway.api.patches import json_patch
from underway.api.resources import (
    CONFIGMAPS,
    CUSTOMRESOURCEDEFINITIONS,
    MUTATINGWEBHOOKCONFIGURATIONS,
    SECRETS,
    VALIDATINGWEBHOOKCONFIGURATIONS,
)
from underway.base.clock import SystemClock
from underway.base.errors import Conflict, NotFound, UnderwayError
from underway.reconcile import (
    Admission,
    CustomResource,
    Denied,
    ManagedCertificate,
    WebhookServer,
    authority,
    definition,
)
from underway.reconcile.webhooks import json_difference
from underway.testing import MovableClock
from underway.transport import pki
from underway.transport.client import HttpTransport
from underway.wire.http import Request

INJECT = [
    (MUTATINGWEBHOOKCONFIGURATIONS, "colours"),
    (VALIDATINGWEBHOOKCONFIGURATIONS, "colours"),
    (CUSTOMRESOURCEDEFINITIONS, "doors.example.com"),
]


def served(manager, **lives) -> WebhookServer:
    certificate = ManagedCertificate(
        namespace="default", name="hooks", names=["127.0.0.1"], inject=INJECT, **lives
    )
    server = WebhookServer(certificate, host="127.0.0.1", port=0)

    async def paint(admission: Admission) -> None:
        admission.object.setdefault("data", {}).setdefault("colour", "grey")
        admission.object["metadata"].setdefault("labels", {})["a.b/c"] = "painted"

    async def judge(admission: Admission) -> None:
        if admission.object["data"]["colour"] == "pink":
            raise Denied("pink is not for doors")
        admission.warnings.append("colours fade")

    async def convert_nothing(obj, version):
        raise AssertionError

    server.mutate("/paint", paint)
    server.validate("/judge", judge)
    server.convert("/convert", convert)
    return server


def convert(obj, version):
    spec = obj.get("spec") or {}
    if version.endswith("/v2"):
        return {**obj, "spec": {"paint": {"colour": spec.get("colour", "")}}}
    return {**obj, "spec": {"colour": spec.get("paint", {}).get("colour", "")}}


def registration(kind: str, path: str, port: int) -> dict:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": "colours"},
        "webhooks": [
            {
                "name": f"{kind.lower()}.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "clientConfig": {"url": f"https://127.0.0.1:{port}{path}"},
                "objectSelector": {"matchLabels": {"door": "yes"}},
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["configmaps"],
                    }
                ],
            }
        ],
    }


def door(name: str, **data: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": {"door": "yes"}},
        "data": data,
    }


async def register(env, server) -> None:
    await server.started.wait()
    for resource, kind, path in (
        (MUTATINGWEBHOOKCONFIGURATIONS, "Mutating", "/paint"),
        (VALIDATINGWEBHOOKCONFIGURATIONS, "Validating", "/judge"),
    ):
        await env.client.create(resource, registration(kind, path, server.port))
        await env.until(resource, trusted)


def trusted(all_):
    found = all_.get("colours")
    return found and found["webhooks"][0]["clientConfig"].get("caBundle")


def test_the_api_server_asks_and_heeds_both_kinds_of_webhook(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            server = env.manager.add_webhooks(served(env.manager))
            await register(env, server)
            made = await env.client.create(CONFIGMAPS, door("plain", size="2"))
            assert made["data"] == {"colour": "grey", "size": "2"}
            assert made["metadata"]["labels"]["a.b/c"] == "painted"
            with pytest.raises(UnderwayError, match="pink is not for doors") as refused:
                await env.client.create(CONFIGMAPS, door("bold", colour="pink"))
            assert refused.value.code == 403
            with pytest.raises(NotFound):
                await env.client.get(CONFIGMAPS, "bold", "default")

    asyncio.run(main())


class Late(MovableClock):
    """Runs behind by so much that every certificate made in the test is valid now, too."""

    def now(self):
        return super().now() - timedelta(days=80)


def test_certificates_are_renewed_before_they_end_and_no_call_fails(tmp_path):
    async def main():
        clock = Late()
        async with cluster(tmp_path, clock=clock) as env:
            lives = {"life": timedelta(days=90), "authority_life": timedelta(days=105)}
            server = env.manager.add_webhooks(served(env.manager, **lives))
            await register(env, server)
            await env.client.create(CONFIGMAPS, door("first"))
            before = await secret(env)
            shown = await served_certificate(server.port, before)

            await clock.advance(61 * 86_400)  # past two thirds of the server's 90 days
            after = await changed(env, before)
            assert after["ca.crt"] == before["ca.crt"]
            assert await until_other(server.port, after, shown) == der(after)
            await env.client.create(CONFIGMAPS, door("second"))

            await clock.advance(10 * 86_400)  # past two thirds of the authority's 105 days
            new_authority = await changed(env, after)
            await env.until(
                VALIDATINGWEBHOOKCONFIGURATIONS,
                lambda all_: bundle(all_) == base64.b64decode(new_authority["ca.crt"]),
            )
            assert base64.b64decode(new_authority["ca.crt"]).count(b"BEGIN CERTIFICATE") == 2
            assert new_authority["ca.key"] != after["ca.key"]
            await env.client.create(CONFIGMAPS, door("third"))

    asyncio.run(main())


async def secret(env) -> dict:
    return (await env.client.get(SECRETS, "hooks", "default"))["data"]


async def changed(env, before: dict) -> dict:
    """The Secret's data once its server certificate is another one."""
    found = await env.until(
        SECRETS,
        lambda all_: (
            all_["default/hooks"]["data"]["tls.crt"] != before["tls.crt"] and all_["default/hooks"]
        ),
        "default",
    )
    return found["data"]


def bundle(all_) -> bytes:
    return base64.b64decode(all_["colours"]["webhooks"][0]["clientConfig"]["caBundle"])


def der(data: dict) -> bytes:
    return ssl.PEM_cert_to_DER_cert(base64.b64decode(data["tls.crt"]).decode())


async def served_certificate(port: int, data: dict) -> bytes:
    context = pki.client_context(base64.b64decode(data["ca.crt"]))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return found


async def until_other(port: int, data: dict, before: bytes) -> bytes:
    async with asyncio.timeout(20):
        while (found := await served_certificate(port, data)) == before:  # noqa: ASYNC110  # a foreign reader's view
            await asyncio.sleep(0.01)
    return found


def test_a_second_replica_shares_the_certificate(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            one = env.manager.add_webhooks(served(env.manager))
            await one.started.wait()
            data = await secret(env)
            other = ManagedCertificate(namespace="default", name="hooks", names=["127.0.0.1"])
            second = WebhookServer(other, host="127.0.0.1", port=0)
            other.attach(env.manager)
            env.manager.add_runnable(second.run, "second replica")
            await second.started.wait()
            shown = [await served_certificate(each.port, data) for each in (one, second)]
            assert shown[0] == shown[1]

    asyncio.run(main())


def test_a_secret_with_something_else_in_it_is_refused():
    with pytest.raises(UnderwayError, match="holds no certificates"):
        authority.read({"metadata": {"name": "x"}, "data": {"tls.crt": "bm90aGluZw=="}})


class DoorV1(msgspec.Struct):
    colour: str = ""


class Paint(msgspec.Struct):
    colour: str = ""


class DoorV2(msgspec.Struct):
    paint: Paint = msgspec.field(default_factory=Paint)


DOOR_V1 = CustomResource("example.com", "v1", "Door", DoorV1)
DOOR_V2 = CustomResource("example.com", "v2", "Door", DoorV2)


def test_the_api_server_converts_between_versions_through_the_webhook(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            server = env.manager.add_webhooks(served(env.manager))
            await server.started.wait()
            url = f"https://127.0.0.1:{server.port}/convert"
            webhook = {"conversionReviewVersions": ["v1"], "clientConfig": {"url": url}}
            conversion = {"strategy": "Webhook", "webhook": webhook}
            crd = definition(DOOR_V2, DOOR_V1, storage="v1", conversion=conversion)
            await env.client.create(CUSTOMRESOURCEDEFINITIONS, crd)
            await env.until(CUSTOMRESOURCEDEFINITIONS, crd_ready)
            await env.client.create(
                DOOR_V1.resource, DOOR_V1.object("red", DoorV1("red"), "default")
            )
            seen = await env.client.get(DOOR_V2.resource, "red", "default")
            assert seen["spec"] == {"paint": {"colour": "red"}}
            assert seen["apiVersion"] == "example.com/v2"

    asyncio.run(main())


def crd_ready(all_):
    found = all_.get("doors.example.com")
    if not found:
        return False
    config = found["spec"]["conversion"]["webhook"]["clientConfig"]
    conditions = (found.get("status") or {}).get("conditions") or ()
    named = any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
    return named and config.get("caBundle")


def test_a_conversion_keeps_metadata_and_says_when_it_fails(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            server = env.manager.add_webhooks(served(env.manager))
            await server.started.wait()
            data = await secret(env)
            tls = pki.client_context(base64.b64decode(data["ca.crt"]))
            async with HttpTransport(f"https://127.0.0.1:{server.port}", tls=tls) as transport:
                obj = {
                    "apiVersion": "example.com/v1",
                    "kind": "Door",
                    "metadata": {"name": "a", "uid": "1"},
                    "spec": {"colour": "red"},
                }
                review = await ask(transport, "example.com/v2", [obj])
                assert review["response"]["uid"] == "u"
                (converted,) = review["response"]["convertedObjects"]
                assert converted["metadata"] == {"name": "a", "uid": "1"}
                assert converted["spec"] == {"paint": {"colour": "red"}}
                failed = await ask(transport, "example.com/v2", [{"spec": "no object"}])
                assert failed["response"]["result"]["status"] == "Failure"
                assert "convertedObjects" not in failed["response"]
                nowhere = await transport(Request("POST", "/elsewhere", body=b"{}"))
                nonsense = await transport(Request("POST", "/paint", body=b"["))
                assert (nowhere.status, nonsense.status) == (404, 400)

    asyncio.run(main())


async def ask(transport, version: str, objects: list) -> dict:
    question = {"uid": "u", "desiredAPIVersion": version, "objects": objects}
    body = msgspec.json.encode({"kind": "ConversionReview", "request": question})
    response = await transport(Request("POST", "/convert", body=body))
    return msgspec.json.decode(await response.read())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=3), values, max_size=4)


@given(objects, objects)
def test_the_patch_of_a_mutation_makes_exactly_the_changed_object(old, new):
    assert json_patch(old, json_difference(old, new)) == new


def test_two_replicas_that_make_the_secret_at_once_end_with_one(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            certificate = ManagedCertificate(namespace="default", name="hooks", names=["a"])
            certificate.attach(env.manager)
            await certificate.ready()
            pair = authority.new_authority("x", SystemClock().now())
            server = authority.pem(authority.new_server(pair, ["a"], SystemClock().now()))
            material = authority.Material((pair.certificate,), pair, *server)
            with pytest.raises(Conflict, match="another replica"):
                await certificate._write({}, material)

    asyncio.run(main())
