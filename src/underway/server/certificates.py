"""CertificateSigningRequests: who may ask, approve and sign, and the signers of the platform's CA.

Source: Kubernetes reference, "Certificates and Certificate Signing Requests";
kubernetes ``pkg/registry/certificates``, ``pkg/controller/certificates/signer``, and the admission
plugins CertificateApproval, CertificateSigning and CertificateSubjectRestriction.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from underway.api.objects import Object, find_condition, name_of, uid_of
from underway.base.clock import Clock, rfc3339
from underway.base.errors import Cause, Conflict, Forbidden, InternalError, Invalid
from underway.server.call import Call
from underway.server.identity import MASTERS, NODE_PREFIX, NODES, Attributes, User
from underway.server.rbac import Rbac
from underway.server.writing import Transform

GROUP = "certificates.k8s.io"
STORAGE = f"certificatesigningrequests.{GROUP}"
CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
_MIN_LIFE_S = 600
_LIFE = timedelta(days=365)
_SKEW = timedelta(minutes=5)  # clocks of clients may be behind ours
_PEM_LIMIT = 64 * 1024  # bytes
_SIGNING = frozenset({"digital signature", "key encipherment"})
_PURPOSES = {
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
}
_PURPOSE_OF = {CLIENT: "client auth", KUBELET_CLIENT: "client auth", KUBELET_SERVING: "server auth"}


class Refused(Exception):
    """The signer does not sign such a request; the text says why."""


# -- asking, approving ---------------------------------------------------------------------


class Certificates:
    """What the server sees to when a request is made, approved or given its certificate."""

    def __init__(self, rbac: Rbac, clock: Clock) -> None:
        self._rbac = rbac
        self._clock = clock

    def prepare(self, request: Object, user: User) -> None:
        """Check a new request and write into it who asks.

        Raises:
            Invalid: it holds no proper PKCS #10 request, or asks nothing.
            Forbidden: it asks for membership in ``system:masters``.
        """
        spec = request.setdefault("spec", {})
        if not isinstance(spec, dict):
            raise _invalid(request, [Cause("spec", "Required value", "FieldValueRequired")])
        spec["username"], spec["groups"] = user.name, list(user.groups)
        spec["uid"] = user.uid
        spec["extra"] = {name: list(values) for name, values in user.extra.items()}
        for name in ("uid", "extra"):
            if not spec[name]:
                del spec[name]
        problems = _problems(spec)
        if problems:
            raise _invalid(request, problems)
        wanted = _parse(spec["request"])
        if spec["signerName"] == CLIENT and MASTERS in _names(wanted, NameOID.ORGANIZATION_NAME):
            raise Forbidden(
                f'{STORAGE} "{name_of(request)}" is forbidden: use of {CLIENT} signer with'
                f" {MASTERS} group is not allowed"
            )

    def guarded(self, call: Call, transform: Transform) -> Transform:
        """A change of the approval or the status, so that only who may decide and sign does.

        Raises:
            Forbidden: the user may not approve for, or sign as, the request's signer.
            Invalid: it is both approved and denied, or a decision is taken back.
        """
        if call.subresource not in ("approval", "status"):
            return transform

        def checked(present: Object | None) -> Object:
            old_status = dict((present or {}).get("status") or {})
            signer = str(((present or {}).get("spec") or {}).get("signerName") or "")
            before = [dict(c) for c in old_status.get("conditions") or ()]
            certificate = old_status.get("certificate")
            new = transform(present)
            if present is None:
                return new
            if call.subresource == "approval":
                self._authorize(call, "approve", signer)
                self._decide(new, before)
            elif (new.get("status") or {}).get("certificate") != certificate:
                self._authorize(call, "sign", signer)
            return new

        return checked

    def _authorize(self, call: Call, verb: str, signer: str) -> None:
        domain = signer.partition("/")[0]
        for name in (signer, f"{domain}/*"):
            wanted = Attributes(verb, GROUP, "*", "signers", name=name)
            if self._rbac.allows(call.user, wanted):
                return
        raise Forbidden(
            f'{STORAGE} "{call.attributes.name}" is forbidden: user not permitted to {verb}'
            f' requests with signerName "{signer}"'
        )

    def _decide(self, request: Object, before: list[Object]) -> None:
        conditions = (request.get("status") or {}).get("conditions") or []
        kinds = {str(c.get("type")) for c in conditions}
        if {"Approved", "Denied"} <= kinds:
            message = "Approved and Denied conditions are mutually exclusive"
            raise _invalid(request, [Cause("status.conditions", f"Invalid value: {message}")])
        for kind in ("Approved", "Denied", "Failed"):
            if find_condition(before, kind) and kind not in kinds:
                message = f"Forbidden: the {kind} condition may not be removed"
                cause = Cause("status.conditions", message, "FieldValueForbidden")
                raise _invalid(request, [cause])
        now = rfc3339(self._clock.now())
        for condition in conditions:
            condition.setdefault("status", "True")
            condition["lastUpdateTime"] = condition.get("lastUpdateTime") or now
            condition["lastTransitionTime"] = condition.get("lastTransitionTime") or now


def _problems(spec: Object) -> list[Cause]:
    found: list[Cause] = []
    try:
        _parse(spec.get("request"))
    except ValueError as error:
        message = f"Invalid value: {error}"
        found.append(Cause("spec.request", message))
    if not isinstance(spec.get("usages"), list) or not spec["usages"]:
        found.append(Cause("spec.usages", "Required value: usages must be provided"))
    signer = spec.get("signerName")
    domain, slash, path = str(signer or "").partition("/")
    if not signer:
        found.append(Cause("spec.signerName", "Required value", "FieldValueRequired"))
    elif not (slash and path and "." in domain):
        message = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        found.append(Cause("spec.signerName", f'Invalid value: "{signer}": {message}'))
    elif signer == "kubernetes.io/legacy-unknown":
        message = "the legacy signerName is not allowed via this API version"
        found.append(Cause("spec.signerName", f'Invalid value: "{signer}": {message}'))
    life_s = spec.get("expirationSeconds")
    if isinstance(life_s, int) and life_s < _MIN_LIFE_S:
        message = "may not specify a duration less than 600 seconds (10 minutes)"
        found.append(Cause("spec.expirationSeconds", f"Invalid value: {life_s}: {message}"))
    return found


def _invalid(request: Object, problems: list[Cause]) -> Invalid:
    name = name_of(request)
    listed = ", ".join(f"{cause.field}: {cause.message}" for cause in problems)
    return Invalid(
        f'CertificateSigningRequest.{GROUP} "{name}" is invalid: {listed}',
        details={"name": name, "group": GROUP, "kind": "CertificateSigningRequest"},
        causes=problems,
    )


def _parse(text: object) -> x509.CertificateSigningRequest:
    """The PKCS #10 request in a base64 field; raises ValueError."""
    if not isinstance(text, str) or not text or len(text) > _PEM_LIMIT:
        raise ValueError("PEM block type must be CERTIFICATE REQUEST")
    parsed = x509.load_pem_x509_csr(b64decode(text, validate=True))
    if not parsed.is_signature_valid:
        raise ValueError("the request's signature does not match its key")
    return parsed


def _names(request: x509.CertificateSigningRequest, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(each.value) for each in request.subject.get_attributes_for_oid(oid)]


# -- signing -------------------------------------------------------------------------------


def awaits_approval(request: Object) -> bool:
    """Whether a request is a kubelet's for a client certificate, and nobody has decided yet."""
    if (request.get("spec") or {}).get("signerName") != KUBELET_CLIENT:
        return False
    conditions = (request.get("status") or {}).get("conditions")
    return not any(find_condition(conditions, kind) for kind in ("Approved", "Denied", "Failed"))


@dataclass(frozen=True)
class Approver:
    """Approves kubelets' client certificates where RBAC lets whoever asks have one.

    A node may renew its own (``create`` on ``certificatesigningrequests/selfnodeclient``); a
    bootstrapping kubelet may get its first one (``certificatesigningrequests/nodeclient``).

    Source: kubernetes ``pkg/controller/certificates/approver``.
    """

    rbac: Rbac
    clock: Clock

    def approval(self, request: Object) -> Callable[[Object | None], Object] | None:
        """A change that approves a request; None where a human has to decide."""
        spec = request.get("spec") or {}
        try:
            wanted = _parse(spec.get("request"))
            names = _alternative_names(wanted)
            _check(KUBELET_CLIENT, wanted, {str(u) for u in spec.get("usages") or ()}, names)
        except (ValueError, Refused):
            return None
        asks = User(str(spec.get("username") or ""), tuple(spec.get("groups") or ()))
        own = [asks.name] == _names(wanted, NameOID.COMMON_NAME)
        for kind, whose in (("selfnodeclient", "self "), ("nodeclient", "")):
            if kind == "selfnodeclient" and not own:
                continue
            check = Attributes("create", GROUP, "v1", "certificatesigningrequests", kind)
            if self.rbac.allows(asks, check):
                now = rfc3339(self.clock.now())
                condition = {
                    "type": "Approved",
                    "status": "True",
                    "reason": "AutoApproved",
                    "message": f"Auto approving {whose}kubelet client certificate after"
                    " SubjectAccessReview.",
                    "lastUpdateTime": now,
                    "lastTransitionTime": now,
                }
                return _with_condition(request, condition)
        return None


def awaits_signing(request: Object) -> bool:
    """Whether a request is approved, is for one of our signers, and has no answer yet."""
    status = request.get("status") or {}
    conditions = status.get("conditions")
    if status.get("certificate") or find_condition(conditions, "Failed"):
        return False
    if find_condition(conditions, "Denied") or not find_condition(conditions, "Approved"):
        return False
    return (request.get("spec") or {}).get("signerName") in _PURPOSE_OF


@dataclass(frozen=True)
class Signer:
    """Signs with the authority whose key and certificate lie in a directory."""

    pki: Path
    clock: Clock

    def answered(self, request: Object) -> Callable[[Object | None], Object]:
        """A change that gives a request its certificate, or says why it gets none.

        Blocking, a millisecond. Raises InternalError where the authority cannot be read.
        """
        try:
            issued = self.sign(request.get("spec") or {})
        except Refused as error:
            now = rfc3339(self.clock.now())
            failed = {
                "type": "Failed",
                "status": "True",
                "reason": "SignerValidationFailure",
                "message": str(error),
                "lastUpdateTime": now,
                "lastTransitionTime": now,
            }
            return _with_condition(request, failed)
        return _with_certificate(request, b64encode(issued).decode())

    def sign(self, spec: Object) -> bytes:
        """The certificate a request asks for, in PEM.

        Raises:
            Refused: the signer does not sign such a request.
            InternalError: the authority cannot be read.
        """
        try:
            wanted = _parse(spec.get("request"))
        except ValueError as error:
            raise Refused(f"the request cannot be read: {error}") from error
        signer, usages = str(spec.get("signerName")), [str(u) for u in spec.get("usages") or ()]
        names = _alternative_names(wanted)
        _check(signer, wanted, set(usages), names)
        key, authority = self._authority()
        now = self.clock.now()
        ends = min(now + _life(spec), authority.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(wanted.subject)
            .issuer_name(authority.subject)
            .public_key(wanted.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([_PURPOSES[u] for u in usages if u in _PURPOSES]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
                critical=False,
            )
        )
        if _SIGNING & {*usages}:  # an empty key usage would allow nothing
            builder = builder.add_extension(_key_usage(usages), critical=True)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        signed = builder.sign(key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def _authority(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        try:
            data = (self.pki / "ca.key").read_bytes()
            key = serialization.load_pem_private_key(data, password=None)
            authority = x509.load_pem_x509_certificate((self.pki / "ca.crt").read_bytes())
        except (OSError, ValueError) as error:
            raise InternalError(f"the authority in {self.pki} cannot sign: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InternalError(f"the authority's key in {self.pki} is no elliptic curve key")
        return key, authority


def _life(spec: Object) -> timedelta:
    asked = spec.get("expirationSeconds")
    return min(timedelta(seconds=asked), _LIFE) if isinstance(asked, int) else _LIFE


def _key_usage(usages: list[str]) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="digital signature" in usages,
        content_commitment=False,
        key_encipherment="key encipherment" in usages,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(
    wanted: x509.CertificateSigningRequest,
) -> x509.SubjectAlternativeName | None:
    try:
        return wanted.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    except ValueError as error:
        raise Refused(f"the request's extensions cannot be read: {error}") from error


def _check(
    signer: str,
    wanted: x509.CertificateSigningRequest,
    usages: set[str],
    names: x509.SubjectAlternativeName | None,
) -> None:
    """What the signer allows; raises Refused."""
    purpose = _PURPOSE_OF[signer]
    if purpose not in usages:
        raise Refused(f'usages must include "{purpose}"')
    foreign = usages - _SIGNING - {purpose}
    if foreign:
        raise Refused(f"usages not allowed by {signer}: {', '.join(sorted(foreign))}")
    if signer == CLIENT:
        if MASTERS in _names(wanted, NameOID.ORGANIZATION_NAME):
            raise Refused(f"the organization {MASTERS} is not allowed")
        return
    if _names(wanted, NameOID.ORGANIZATION_NAME) != [NODES]:
        raise Refused(f'the subject organization must be exactly "{NODES}"')
    if not all(n.startswith(NODE_PREFIX) for n in _names(wanted, NameOID.COMMON_NAME) or [""]):
        raise Refused(f'the subject common name must begin with "{NODE_PREFIX}"')
    if signer == KUBELET_CLIENT and names is not None:
        raise Refused("subject alternative names are not allowed")
    if signer == KUBELET_SERVING:
        kinds = {type(each) for each in names or ()}
        if not kinds & {x509.DNSName, x509.IPAddress}:
            raise Refused("at least one DNS name or IP address must be given")
        if kinds - {x509.DNSName, x509.IPAddress}:
            raise Refused("only DNS names and IP addresses are allowed as alternative names")


def _with_certificate(request: Object, certificate: str) -> Callable[[Object | None], Object]:
    def change(present: Object | None) -> Object:
        latest = _same(request, present)
        latest.setdefault("status", {})["certificate"] = certificate
        return latest

    return change


def _with_condition(request: Object, condition: Object) -> Callable[[Object | None], Object]:
    def change(present: Object | None) -> Object:
        latest = _same(request, present)
        latest.setdefault("status", {}).setdefault("conditions", []).append(condition)
        return latest

    return change


def _same(request: Object, present: Object | None) -> Object:
    if present is None:
        raise LookupError(name_of(request))
    if uid_of(present) != uid_of(request):
        raise Conflict(f"the request {name_of(request)} was made anew meanwhile")
    return present


def expired(request: Object, now: datetime, created: datetime) -> bool:
    """Whether a request has lain long enough: an hour once decided, a day undecided.

    Source: kubernetes ``pkg/controller/certificates/cleaner``.
    """
    conditions = (request.get("status") or {}).get("conditions") or []
    decided = any(c.get("type") in ("Approved", "Denied", "Failed") for c in conditions)
    return now - created > (timedelta(hours=1) if decided else timedelta(hours=24))
