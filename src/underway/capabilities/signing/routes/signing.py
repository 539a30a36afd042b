"""TUF repositories, the signing authority and the transparency log over HTTP.

    /tuf/NAME/metadata/FILE, /tuf/NAME/targets/PATH
    /trusted_root.json
    /api/v2/signingCert, /api/v2/trustBundle            as Fulcio
    /api/v1/log, /api/v1/log/proof, /api/v1/log/entries  as Rekor

Source: sigstore/fulcio ``fulcio.proto``; sigstore/rekor ``openapi.yaml`` 1.0.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from underway.base.clock import Clock
from underway.base.errors import BadRequest, MethodNotAllowed, NotFound, UnderwayError
from underway.base.home import Home
from underway.base.threads import run_blocking
from underway.capabilities.signing.backend.authority import Authority, check_possession
from underway.capabilities.signing.rules import certificates, keys, translog
from underway.kit.registry import Ports
from underway.wire.http import Handler, Request, Response, json_response

_BODY_LIMIT = 1024 * 1024
_PIECE = 1024 * 1024
_KINDS = ("dsse", "hashedrekord")
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")


def app(home: Home, _ports: Ports, clock: Clock | None = None) -> Handler:
    """The service of a home."""
    return SigningService(home, clock).handle


class SigningService:
    """Answers anybody: what is served is signed, and certificates want a token."""

    def __init__(self, home: Home, clock: Clock | None) -> None:
        self._home, self._clock = home, clock

    @functools.cached_property
    def _authority(self) -> Authority:
        return Authority(self._home, self._clock)

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        try:
            segments = request.segments()
            if segments[:1] == ["tuf"] and len(segments) > 3:
                return await self._tuf(request, segments[1], segments[2], segments[3:])
            value = await run_blocking(self._answer, request.method, segments, request.params(),
                                       await request.read(_BODY_LIMIT))  # fmt: skip
            return json_response(value, 201 if request.method == "POST" else 200)
        except UnderwayError as error:
            return json_response({"code": error.code, "message": error.message}, error.code)

    async def _tuf(self, request: Request, name: str, kind: str, rest: list[str]) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{request.method} is not supported on a TUF repository")
        unsafe = any(part in (".", "..") or "/" in part or part.startswith(".") for part in rest)
        if not _NAME.fullmatch(name) or kind not in ("metadata", "targets") or unsafe:
            raise NotFound("the TUF repository has no such file")
        path = self._home.signing / "tuf" / name / kind / Path(*rest)
        try:
            stream = await run_blocking(path.open, "rb")
        except OSError as error:
            raise NotFound(f"TUF repository {name} has no {kind}/{'/'.join(rest)}") from error
        size = path.stat().st_size

        async def pieces() -> Any:
            with stream:
                while piece := await run_blocking(stream.read, _PIECE):
                    yield piece

        headers = {"content-type": "application/octet-stream", "content-length": str(size)}
        if request.method == "HEAD":
            stream.close()
            return Response(200, headers)
        return Response(200, headers, pieces())

    def _answer(self, method: str, segments: list[str], params: dict[str, str], body: bytes) -> Any:
        log = self._authority.log
        match (method, *segments):
            case ("GET", "trusted_root.json"):
                return msgspec.json.decode(self._authority.trust_root())
            case ("POST", "api", "v2", "signingCert"):
                return self._certificate(_decoded(body))
            case ("GET", "api", "v2", "trustBundle"):
                chain = [certificates.pem(self._authority.certificate).decode()]
                return {"chains": [{"certificates": chain}]}
            case ("GET", "api", "v1", "log"):
                note = log.checkpoint()
                stated = translog.check_note(note, log.key)
                return {
                    "rootHash": stated.root.hex(),
                    "treeSize": stated.size,
                    "signedTreeHead": note,
                    "treeID": log.id.hex(),
                }
            case ("GET", "api", "v1", "log", "publicKey"):
                return keys.public_pem(log.key).decode()
            case ("GET", "api", "v1", "log", "proof"):
                last = _number(params, "lastSize", log.size())
                proof = log.consistency(_number(params, "firstSize", 1), last)
                return {"hashes": [each.hex() for each in proof]}
            case ("GET", "api", "v1", "log", "entries"):
                return _entry(log.entry(_number(params, "logIndex", -1)))
            case ("POST", "api", "v1", "log", "entries"):
                return _entry(log.append(_proposed(_decoded(body))))
        raise NotFound("the signing service has no such path")

    def _certificate(self, value: dict[str, Any]) -> dict[str, Any]:
        """Fulcio's ``CreateSigningCertificate``."""
        try:
            token = value["credentials"]["oidcIdentityToken"]
            subject, identity = self._authority.identify(str(token))
            if "certificateSigningRequest" in value:
                pem = base64.b64decode(value["certificateSigningRequest"])
                asked = x509.load_pem_x509_csr(pem)
                if not asked.is_signature_valid:
                    raise BadRequest("the signing request is not signed by its key")
                public = keys.checked(asked.public_key(), "the signing request's key")
            else:
                wanted = value["publicKeyRequest"]
                public = keys.load_public(wanted["publicKey"]["content"].encode(), "the key")
                check_possession(public, base64.b64decode(wanted["proofOfPossession"]), subject)
        except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
            raise BadRequest(f"no request for a certificate: {error}") from error
        chain = [
            certificates.pem(each).decode() for each in self._authority.issue(identity, public)
        ]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON object: {error}") from error


def _number(params: dict[str, str], name: str, otherwise: int) -> int:
    try:
        return int(params.get(name, otherwise))
    except ValueError as error:
        raise BadRequest(f"{name} is no number") from error


def _proposed(value: dict[str, Any]) -> bytes:
    """The entry for what was proposed, once its own signatures hold."""
    from underway.capabilities.signing.rules import proposals

    if value.get("kind") not in _KINDS:
        raise BadRequest(f"the log takes entries of kind {' and '.join(_KINDS)}")
    return proposals.body(value)


def _entry(entry: translog.Entry) -> dict[str, Any]:
    """An entry in Rekor's form, under its id."""
    leaf = entry.as_dict()
    proof = leaf["inclusionProof"]
    return {
        f"{entry.log_id.hex()[:16]}{translog.entry_id(entry)}": {
            "body": leaf["canonicalizedBody"],
            "integratedTime": entry.integrated_time,
            "logID": entry.log_id.hex(),
            "logIndex": entry.index,
            "verification": {
                "signedEntryTimestamp": leaf["inclusionPromise"]["signedEntryTimestamp"],
                "inclusionProof": {
                    "checkpoint": entry.checkpoint,
                    "hashes": [each.hex() for each in entry.proof],
                    "logIndex": entry.index,
                    "rootHash": entry.root.hex(),
                    "treeSize": int(proof["treeSize"]),
                },
            },
        }
    }
