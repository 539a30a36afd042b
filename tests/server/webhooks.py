"""Real HTTPS admission webhook servers, and their registration."""

from __future__ import annotations

import base64
import json
import ssl
from contextlib import asynccontextmanager
from datetime import timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from underway.base.clock import SystemClock
from underway.transport import front
from underway.wire.http import json_response


def certificate(directory, *names):
    """A self-signed certificate: its file, its key's file, and its PEM text."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hook")])
    now = SystemClock().now()
    alternatives = [
        x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
        for name in names
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hook.crt").write_bytes(pem)
    (directory / "hook.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return directory / "hook.crt", directory / "hook.key", pem


class Hook:
    """Answers reviews with ``decide(request)`` and remembers them."""

    def __init__(self, decide):
        self.decide = decide
        self.seen = []
        self.queries = []

    async def __call__(self, request):
        review = json.loads(await request.read())
        asked = review["request"]
        self.seen.append(asked)
        self.queries.append(request.query)
        answer = self.decide(asked)
        if hasattr(answer, "__await__"):
            answer = await answer
        answer = {"uid": asked["uid"], "allowed": True, **(answer or {})}
        return json_response(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
        )


def patch(*operations):
    """An answer that changes the object."""
    data = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"patchType": "JSONPatch", "patch": data}


@asynccontextmanager
async def hooked(directory, decide, host="127.0.0.1", names=("127.0.0.1",)):
    """A webhook over HTTPS; its ``client`` is the clientConfig that leads to it."""
    cert, key, pem = certificate(directory, *names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    hook = Hook(decide)
    async with await front.serve(hook, host=host, tls=context) as server:
        hook.port = server.port
        hook.bundle = base64.b64encode(pem).decode()
        hook.client = {"url": f"https://{host}:{server.port}/review", "caBundle": hook.bundle}
        try:
            yield hook
        finally:
            await server.close(grace_s=0.01)  # the API server keeps its connection open


def configuration(kind, name, *hooks):
    """A MutatingWebhookConfiguration or ValidatingWebhookConfiguration."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": list(hooks),
    }


def entry(client, name="hook.example.com", resources=("configmaps",), operations=("*",), **more):
    """One webhook of a configuration, for resources of the core group."""
    return {
        "name": name,
        "clientConfig": client,
        "rules": [
            {
                "operations": list(operations),
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": list(resources),
            }
        ],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **more,
    }
