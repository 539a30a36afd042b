"""From the policies users write, of whatever kind, to the one form that is judged by.

A policy with a mistake becomes a broken one, which refuses what it may be about: a policy that
cannot be read must never be one that lets everything pass. Source: grafeas/kritis
docs/resources.md; sigstore/policy-controller ClusterImagePolicy v1beta1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from underway.api import selectors
from underway.api.objects import Object, name_of, namespace_of, uid_of
from underway.api.patterns import compile_pattern
from underway.base.errors import UnderwayError
from underway.capabilities.provenance.model import (
    SEVERITIES,
    Attested,
    Authority,
    Identity,
    Policy,
    Vulnerabilities,
)
from underway.capabilities.provenance.rules import keys, patterns
from underway.capabilities.provenance.rules.policy import compile_condition

PREDICATES = {
    "slsaprovenance": "https://slsa.dev/provenance/v0.2",
    "slsaprovenance02": "https://slsa.dev/provenance/v0.2",
    "slsaprovenance1": "https://slsa.dev/provenance/v1",
    "spdx": "https://spdx.dev/Document",
    "spdxjson": "https://spdx.dev/Document",
    "cyclonedx": "https://cyclonedx.org/bom",
    "vuln": "https://cosign.sigstore.dev/attestation/vuln/v1",
    "link": "https://in-toto.io/attestation/link/v0.3",
    "custom": "https://cosign.sigstore.dev/attestation/v1",
}
"""cosign's short names of predicate types."""
_KRITIS = {"BLOCK_ALL": None, "ALLOW_ALL": "Critical", "MINIMAL": "Negligible"} | {
    each.upper(): each for each in SEVERITIES if each != "Unknown"
}


def compiled(obj: Object, authorities: Iterable[Object] = ()) -> Policy:
    """A policy from an object of any of the kinds; ``authorities`` are Kritis' own."""
    make = _MAKERS[obj["kind"]]
    header = {
        "kind": obj["kind"],
        "name": name_of(obj),
        "uid": uid_of(obj),
        "generation": int(obj["metadata"].get("generation") or 0),
        "namespace": namespace_of(obj),
    }
    try:
        return _checked(Policy(**header, **make(obj, list(authorities))))
    except (UnderwayError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Policy(**header, broken=str(error) or type(error).__name__)


def _checked(policy: Policy) -> Policy:
    """The same policy, of which every pattern, key and expression can be used."""
    for pattern in (*policy.images, *policy.exempt):
        patterns.matches_image(pattern, "")
    for authority in (*policy.every, *policy.one_of):
        for pem in authority.keys:
            keys.load_pem(pem)
        for identity in authority.identities:
            compile_pattern(identity.issuer_pattern)
            compile_pattern(identity.subject_pattern)
        for attested in authority.attestations:
            for condition in attested.conditions:
                compile_condition(condition)
    return policy


def _image_policy(obj: Object, _authorities: list[Object]) -> dict[str, Any]:
    spec = obj.get("spec") or {}
    selector = spec.get("namespaceSelector")
    _check_selector(selector)
    vulnerabilities = spec.get("vulnerabilities")
    return {
        "namespaces": selectors.from_object({} if selector is None else selector),
        "images": tuple(spec.get("images") or ("**",)),
        "exempt": tuple(spec.get("allowedImages") or ()),
        "vulnerabilities": None if vulnerabilities is None else _vulnerabilities(vulnerabilities),
        "every": tuple(_authority(each) for each in spec.get("authorities") or ()),
        "digest_required": bool(spec.get("requireDigest")),
        "enforced": spec.get("mode", "Enforce") == "Enforce",
        "break_glass": bool(spec.get("breakGlass", True)),
    }


def _check_selector(selector: Any) -> None:
    """A selector as the API's own validation has it; what it refuses must not mean "nothing"."""
    if selector is None:
        return
    if not isinstance(selector, dict):
        raise ValueError("namespaceSelector is no object")  # noqa: TRY004  # a policy's form
    unknown = selector.keys() - {"matchLabels", "matchExpressions"}
    if unknown:
        raise ValueError(f"namespaceSelector has no {min(unknown)}")
    for each in selector.get("matchExpressions") or ():
        operator, values = each.get("operator"), each.get("values") or ()
        if not each.get("key") or operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            raise ValueError(f"namespaceSelector: {each!r} is no requirement")
        if (operator in ("In", "NotIn")) != bool(values):
            raise ValueError(f"namespaceSelector: {operator} and its values do not fit")


def _vulnerabilities(value: Mapping[str, Any]) -> Vulnerabilities:
    maximum = _severity(value.get("maximumSeverity", "Critical"))
    return Vulnerabilities(
        maximum,
        _severity(value["maximumFixUnavailableSeverity"])
        if value.get("maximumFixUnavailableSeverity")
        else maximum,
        tuple(value.get("allowedCVEs") or ()),
        bool(value.get("allowStale")),
    )


def _severity(text: str) -> str | None:
    if text == "None":
        return None
    if text not in SEVERITIES or text == "Unknown":
        raise ValueError(f"{text!r} is no severity: None, {', '.join(SEVERITIES[1:])}")
    return text


def _authority(value: Mapping[str, Any]) -> Authority:
    attestations = tuple(
        Attested(
            str(each.get("name") or each["predicateType"]),
            _predicate_type(each["predicateType"]),
            tuple(each.get("conditions") or ()),
        )
        for each in value.get("attestations") or ()
    )
    return Authority(
        str(value["name"]),
        tuple(value.get("keys") or ()),
        tuple(_identity(each) for each in value.get("identities") or ()),
        attestations,
    )


def _identity(value: Mapping[str, Any]) -> Identity:
    found = Identity(
        value.get("issuer") or "",
        value.get("subject") or "",
        value.get("issuerRegExp") or "",
        value.get("subjectRegExp") or "",
    )
    if not (found.issuer or found.issuer_pattern) or not (found.subject or found.subject_pattern):
        raise ValueError("an identity needs an issuer and a subject")
    return found


def _predicate_type(text: str) -> str:
    return PREDICATES.get(text, text)


def _image_security_policy(obj: Object, _authorities: list[Object]) -> dict[str, Any]:
    spec = obj.get("spec") or {}
    asked = spec.get("packageVulnerabilityRequirements") or spec.get("packageVulnerabilityPolicy")
    names = spec.get("imageAllowlist") or spec.get("imageWhitelist") or ()
    result: dict[str, Any] = {"exempt": tuple(names)}
    if asked is not None:
        maximum = _kritis_severity(asked.get("maximumSeverity") or "ALLOW_ALL")
        unfixed = asked.get("maximumFixUnavailableSeverity") or asked.get(
            "maximumFixNotAvailableSeverity"
        )
        allowed = asked.get("allowlistCVEs") or asked.get("whitelistCVEs") or ()
        # Kritis names a CVE by its note: projects/x/notes/CVE-2020-1.
        plain = tuple(str(each).rpartition("/")[2] for each in allowed)
        result["vulnerabilities"] = Vulnerabilities(
            maximum, _kritis_severity(unfixed) if unfixed else None if maximum is None else
            maximum, plain,
        )  # fmt: skip
    return result


def _kritis_severity(text: str) -> str | None:
    if text.upper() not in _KRITIS:
        raise ValueError(f"{text!r} is no severity: {', '.join(_KRITIS)}")
    return _KRITIS[text.upper()]


def _generic_attestation_policy(obj: Object, authorities: list[Object]) -> dict[str, Any]:
    spec = obj.get("spec") or {}
    names = spec.get("attestationAuthorityNames") or ()
    if not names:
        raise ValueError("attestationAuthorityNames is empty")
    known = {name_of(each): each for each in authorities if namespace_of(each) == namespace_of(obj)}
    return {
        "exempt": tuple(spec.get("admissionAllowlistPatterns") or ()),
        "every": tuple(_kritis_authority(str(name), known) for name in names),
    }


def _kritis_authority(name: str, known: Mapping[str, Object]) -> Authority:
    if name not in known:
        raise ValueError(f"there is no AttestationAuthority {name}")
    spec = known[name].get("spec") or {}
    pems = [each.get("asciiArmoredPublicKey") or "" for each in spec.get("publicKeys") or ()]
    pems += [spec["publicKeyData"]] if spec.get("publicKeyData") else []
    usable = tuple(pem for pem in pems if "BEGIN PUBLIC KEY" in pem)
    if not usable:
        raise ValueError(f"AttestationAuthority {name} has no key in PEM (PGP is not supported)")
    return Authority(name, usable)


def _cluster_image_policy(obj: Object, _authorities: list[Object]) -> dict[str, Any]:
    spec = obj.get("spec") or {}
    globs = [each["glob"] for each in spec.get("images") or ()]
    if not globs:
        raise ValueError("spec.images is empty")
    if not spec.get("authorities"):
        raise ValueError("spec.authorities is empty: nobody is asked to vouch")
    if spec.get("policy"):
        raise ValueError("spec.policy is not supported: put it on an attestation as CEL")
    return {
        "images": tuple(globs),
        "one_of": tuple(
            _sigstore_authority(index, each)
            for index, each in enumerate(spec.get("authorities") or ())
        ),
        "enforced": spec.get("mode", "enforce") == "enforce",
    }


def _sigstore_authority(index: int, value: Mapping[str, Any]) -> Authority:
    key, keyless = value.get("key") or {}, value.get("keyless")
    static = (value.get("static") or {}).get("action", "")
    if key and not key.get("data"):
        raise ValueError("a key has to be given as data (secretRef and kms are not supported)")
    if not key and keyless is None and not static:
        raise ValueError("an authority needs key, keyless or static")
    if keyless is not None and not keyless.get("identities"):
        raise ValueError("keyless needs identities: without them anybody could sign")
    return Authority(
        str(value.get("name") or f"authority-{index}"),
        (key["data"],) if key else (),
        tuple(_identity(each) for each in (keyless or {}).get("identities") or ()),
        tuple(_sigstore_attestation(each) for each in value.get("attestations") or ()),
        static,
    )


def _sigstore_attestation(value: Mapping[str, Any]) -> Attested:
    policy = value.get("policy") or {}
    conditions: tuple[str, ...] = ()
    if policy:
        if policy.get("type") != "cel":
            raise ValueError(f"conditions of type {policy.get('type')} are not supported: use cel")
        conditions = (policy["data"],)
    return Attested(value["name"], _predicate_type(value["predicateType"]), conditions)


_MAKERS: dict[str, Callable[[Object, list[Object]], dict[str, Any]]] = {
    "ImagePolicy": _image_policy,
    "ImageSecurityPolicy": _image_security_policy,
    "GenericAttestationPolicy": _generic_attestation_policy,
    "ClusterImagePolicy": _cluster_image_policy,
}
