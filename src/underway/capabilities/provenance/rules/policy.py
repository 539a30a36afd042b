"""Deciding whether an image may run: pure, so that the same is decided everywhere.

What is not known never passes: no scan, a stale one, an unsupported distribution, an expression
that has no value. Source: grafeas/kritis docs/resources.md; sigstore policy-controller,
ClusterImagePolicy v1beta1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from underway.api.cel import compile_expression
from underway.api.patterns import compile_pattern
from underway.base.errors import BadRequest, Invalid
from underway.capabilities.provenance.model import (
    SEVERITIES,
    Attested,
    Authority,
    Evidence,
    Identity,
    Policy,
    Violation,
    Vouched,
    Vulnerabilities,
)
from underway.capabilities.provenance.rules.patterns import matches_image
from underway.kit.ports import ScanSummary, Vulnerability
from underway.wire import oci

_SHOWN = 5  # vulnerabilities named in a message


def applies(policy: Policy, image: str, namespace: str, labels: Mapping[str, str]) -> bool:
    """Whether a policy is about an image in a namespace with these labels.

    A broken policy is about everything in the namespaces it may mean.
    """
    if policy.namespace and policy.namespace != namespace:
        return False
    if policy.broken:
        return True
    if not policy.namespaces.matches(labels):
        return False
    names = _names(image)
    if any(matches_image(each, name) for each in policy.exempt for name in names):
        return False
    return any(matches_image(each, name) for each in policy.images for name in names)


def _names(image: str) -> tuple[str, ...]:
    """As it was written, and in full: ``redis`` is ``docker.io/library/redis:latest``."""
    try:
        return image, str(oci.Reference.parse(image))
    except BadRequest:
        return (image,)


def judge(policy: Policy, evidence: Evidence) -> list[Violation]:
    """Everything a policy holds against an image; empty to let it run."""
    if policy.broken:
        return [
            Violation(
                policy.title, "policy", f"the policy itself is malformed: {policy.broken}",
                "mend or delete the policy",
            )
        ]  # fmt: skip
    found: list[Violation] = []
    if policy.vulnerabilities is not None:
        found += _vulnerable(policy, policy.vulnerabilities, evidence)
    for authority in policy.every:
        found += _vouched(policy, authority, evidence)
    if policy.one_of:
        refusals = [list(_vouched(policy, each, evidence)) for each in policy.one_of]
        if all(refusals):
            found += refusals[0] if len(refusals) == 1 else [_nobody(policy, refusals)]
    return found


def _nobody(policy: Policy, refusals: list[list[Violation]]) -> Violation:
    names = ", ".join(each.name for each in policy.one_of)
    reasons = "; ".join(refusal[0].message for refusal in refusals)
    return Violation(policy.title, f"one of {names}", reasons, refusals[0][0].remedy)


def _vulnerable(policy: Policy, rule: Vulnerabilities, evidence: Evidence) -> Iterator[Violation]:
    scan = evidence.scan
    if scan is None:
        reason = evidence.scan_failure or "nobody scans images here"
        yield Violation(policy.title, "vulnerabilities", f"the image is not scanned: {reason}",
                        "underway scan IMAGE")  # fmt: skip
        return
    if scan.status == "stale" and not rule.stale_allowed:
        yield Violation(policy.title, "vulnerabilities", "it was scanned by old advisories",
                        "underway scan db update")  # fmt: skip
        return
    if scan.status not in ("complete", "stale"):
        yield Violation(policy.title, "vulnerabilities",
                        f"the scan says nothing: {scan.status}",
                        "import its distribution's advisories: scan db import")  # fmt: skip
        return
    bad = _over(rule, scan)
    if bad:
        yield Violation(policy.title, "vulnerabilities", _told(bad), _mended(bad))


def _over(rule: Vulnerabilities, scan: ScanSummary) -> list[Vulnerability]:
    """What is worse than the rule lets through; counts stand for what is not told one by one."""
    found = scan.found
    if found is None:
        # Whether a counted one has a fix or is allowed is not known, so the stricter bound holds.
        found = tuple(
            Vulnerability(f"{count} of severity", severity, "", "")
            for severity, count in scan.severities.items()
            if count
        )
        bound = min(_rank(rule.maximum), _rank(rule.maximum_unfixed))
        return [each for each in found if _rank(each.severity) > bound]
    return [
        each
        for each in found
        if each.id not in rule.allowed
        and not set(each.aliases) & set(rule.allowed)
        and _rank(each.severity) > _rank(rule.maximum if each.fixed else rule.maximum_unfixed)
    ]


def _rank(severity: str | None) -> int:
    """Higher is worse; what nobody knows counts as the worst but one."""
    if severity is None:
        return -1
    if severity == "Unknown" or severity not in SEVERITIES:
        return SEVERITIES.index("High")
    return SEVERITIES.index(severity)


def _told(bad: list[Vulnerability]) -> str:
    worst = sorted(bad, key=lambda each: (-_rank(each.severity), each.id))
    shown = ", ".join(
        f"{each.id} {each.severity}" + (f" in {each.package}" if each.package else "")
        for each in worst[:_SHOWN]
    )
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"{shown}{more}"


def _mended(bad: list[Vulnerability]) -> str:
    fixes = [f"{each.package} {each.fixed}" for each in bad if each.fixed]
    if fixes:
        return f"update to {', '.join(dict.fromkeys(fixes[:_SHOWN]))} and ship again"
    return "take another base image, or allow it by name in the policy"


def _vouched(policy: Policy, authority: Authority, evidence: Evidence) -> Iterator[Violation]:
    if authority.static == "pass":
        return
    if authority.static:
        yield Violation(policy.title, authority.name, "this image is refused by name",
                        "take another image")  # fmt: skip
        return
    if evidence.vouched_failure:
        yield Violation(policy.title, authority.name,
                        f"signatures cannot be checked: {evidence.vouched_failure}",
                        "try again, or look at underway status")  # fmt: skip
        return
    own = [each for each in evidence.vouched if _by(authority, each)]
    if not authority.attestations:
        if not any(not each.statement for each in own):
            yield Violation(policy.title, authority.name,
                            f"no signature by {_whom(authority)}",
                            "ship it with `underway ship`, or sign it")  # fmt: skip
        return
    for attested in authority.attestations:
        yield from _attested(policy, authority, attested, own, evidence.digest)


def _whom(authority: Authority) -> str:
    if authority.keys:
        return "the policy's keys"
    if authority.identities:
        first = authority.identities[0]
        return first.subject or first.subject_pattern or first.issuer or first.issuer_pattern
    return "a key trusted here"


def _by(authority: Authority, vouched: Vouched) -> bool:
    if authority.keys:
        return vouched.key in authority.keys
    if authority.identities:
        return any(_is(each, vouched) for each in authority.identities)
    return not vouched.key  # found by the platform's signer


def _is(identity: Identity, vouched: Vouched) -> bool:
    if not vouched.by.identity:
        return False
    pairs = (
        (identity.issuer, identity.issuer_pattern, vouched.by.issuer),
        (identity.subject, identity.subject_pattern, vouched.by.identity),
    )
    return all(_same(exact, pattern, value) for exact, pattern, value in pairs)


def _same(exact: str, pattern: str, value: str) -> bool:
    if exact:
        return exact == value
    # A pattern that matched a part would let https://issuer.evil.example in.
    return bool(pattern) and compile_pattern(f"^(?:{pattern})$").search(value) is not None


def _attested(
    policy: Policy,
    authority: Authority,
    attested: Attested,
    vouched: Iterable[Vouched],
    digest: str,
) -> Iterator[Violation]:
    rule = f"{authority.name}/{attested.name}"
    about = [
        each.statement
        for each in vouched
        if each.statement
        and each.statement.get("predicateType") == attested.predicate_type
        and speaks_of(each.statement, digest)
    ]
    if not about:
        yield Violation(policy.title, rule,
                        f"no attestation {attested.predicate_type} by {_whom(authority)}",
                        "ship it with `underway ship`, or attest it")  # fmt: skip
        return
    failures = [failure for each in about if (failure := _unmet(attested, each))]
    if len(failures) == len(about):
        yield Violation(policy.title, rule, failures[0], "build it as the policy demands")


def speaks_of(statement: Mapping[str, object], digest: str) -> bool:
    """Whether an in-toto statement is about the image: one about another proves nothing."""
    algorithm, _, value = digest.partition(":")
    subjects = statement.get("subject")
    return isinstance(subjects, list) and any(
        isinstance(each, dict) and (each.get("digest") or {}).get(algorithm) == value
        for each in subjects
    )


def _unmet(attested: Attested, statement: Mapping[str, object]) -> str:
    values = {"predicate": statement.get("predicate") or {}, "statement": dict(statement)}
    for text in attested.conditions:
        try:
            if compile_condition(text).evaluate(values) is not True:
                return f"the condition does not hold: {text}"
        except Invalid as error:
            return f"the condition {text} has no value: {error}"
    return ""


def compile_condition(text: str) -> object:
    """A condition over ``predicate`` and ``statement``.

    Raises:
        Invalid: it is no CEL expression.
    """
    return compile_expression(text, ("predicate", "statement"))
