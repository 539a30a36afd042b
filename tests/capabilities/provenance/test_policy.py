"""Policies: compiled from every kind, judged by what is known, and closed where nothing is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.capabilities.provenance.keys import SLSA, Key

from underway.capabilities.provenance.backend.evidence import signed_by
from underway.capabilities.provenance.model import SEVERITIES, Evidence, Policy, Vouched
from underway.capabilities.provenance.rules import patterns, policy
from underway.capabilities.provenance.rules.compiling import compiled
from underway.kit.ports import ScanSummary, Signed, Vulnerability
from underway.wire import dsse

DIGEST = f"sha256:{'1' * 64}"
OTHER = f"sha256:{'2' * 64}"


class Attached(dict):
    """What hangs on an image: suffix -> layers."""

    def layers(self, suffix: str) -> list:
        return self.get(suffix, [])

    def envelopes(self) -> list:
        return [(where, data) for where, _, data in self.get("att", [])]


def written(kind: str, spec: dict, **header: object) -> dict:
    metadata = {"name": "p", "uid": "u", "generation": 1, **header}
    return {"kind": kind, "metadata": metadata, "spec": spec}


def ours(**spec: object) -> Policy:
    return compiled(written("ImagePolicy", spec))


def scanned(*found: tuple[str, str, str], status: str = "complete") -> Evidence:
    matches = tuple(Vulnerability(i, severity, "zlib", "1", fix) for i, severity, fix in found)
    return Evidence(DIGEST, ScanSummary(DIGEST, status, 9, {}, 0, "", found=matches))


def said(policy_: Policy, evidence: Evidence) -> str:
    return "; ".join(map(str, policy.judge(policy_, evidence)))


HIGH = ours(vulnerabilities={"maximumSeverity": "Medium", "maximumFixUnavailableSeverity": "High",
                             "allowedCVEs": ["CVE-1"]})  # fmt: skip


@pytest.mark.parametrize(("evidence", "expected"), [
    (scanned(), ""),
    (scanned(("CVE-2", "Medium", "2")), ""),
    (scanned(("CVE-2", "High", "")), ""),
    (scanned(("CVE-1", "Critical", "2")), ""),
    (scanned(("CVE-2", "High", "2")), "CVE-2 High in zlib"),
    (scanned(("CVE-2", "Critical", "")), "take another base image"),
    (scanned(("CVE-2", "Unknown", "2")), "CVE-2 Unknown"),
    (scanned(status="unsupported"), "the scan says nothing"),
    (scanned(status="stale"), "underway scan db update"),
    (Evidence(DIGEST), "nobody scans images here"),
    (Evidence(DIGEST, scan_failure="registry down"), "registry down"),
])  # fmt: skip
def test_vulnerabilities(evidence: Evidence, expected: str) -> None:
    found = said(HIGH, evidence)
    assert (expected in found) if expected else not found


def test_a_scan_that_only_counts_is_judged_by_the_stricter_bound() -> None:
    counts = ScanSummary(DIGEST, "complete", 1, {"High": 1, "Low": 3}, 0, "")
    assert "1 of severity High" in said(HIGH, Evidence(DIGEST, counts))


@given(st.lists(st.tuples(st.sampled_from(SEVERITIES), st.booleans()), max_size=5),
       st.sampled_from(["None", *SEVERITIES[1:]]), st.sampled_from(["None", *SEVERITIES[1:]]))  # fmt: skip
def test_a_stricter_policy_never_lets_more_in(
    found: list[tuple[str, bool]], one: str, other: str
) -> None:
    order = ["None", *SEVERITIES[1:]]
    strict, loose = sorted((one, other), key=order.index)
    evidence = scanned(*((f"CVE-{i}", s, "2" if f else "") for i, (s, f) in enumerate(found)))
    if not policy.judge(ours(vulnerabilities={"maximumSeverity": strict}), evidence):
        assert not policy.judge(ours(vulnerabilities={"maximumSeverity": loose}), evidence)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda each: st.lists(each, max_size=3) | st.dictionaries(
                        st.sampled_from(["matchLabels", "images", "name", "key", "keys", "a"]), each,
                        max_size=3)),
       st.sampled_from(["namespaceSelector", "images", "vulnerabilities", "authorities",
                        "allowedImages", "packageVulnerabilityRequirements", "policy"]),
       st.sampled_from(["ImagePolicy", "ImageSecurityPolicy", "GenericAttestationPolicy",
                        "ClusterImagePolicy"]))  # fmt: skip
def test_any_policy_compiles_or_is_broken_and_a_broken_one_refuses(
    value: object, member: str, kind: str
) -> None:
    made = compiled(written(kind, {member: value}))
    if made.broken:
        assert policy.applies(made, "docker.io/library/redis:7", "default", {})
        assert policy.judge(made, scanned())


@pytest.mark.parametrize("selector", [
    {"matchExpressions": [{"key": "a", "operator": "Near"}]},
    {"matchExpressions": [{"key": "a", "operator": "In"}]},
    {"matchExpressions": [{"operator": "Exists"}]},
    {"matchLables": {"a": "b"}}, "env=prod",
])  # fmt: skip
def test_a_malformed_selector_fails_closed(selector: object) -> None:
    made = ours(namespaceSelector=selector)
    assert policy.applies(made, "redis", "anything", {})
    assert "malformed" in said(made, scanned())


@pytest.mark.parametrize("spec", [
    {"images": ["[z-a]"]}, {"authorities": [{"name": "a", "keys": ["no key"]}]},
    {"authorities": [{"name": "a", "identities": [{"issuer": "x"}]}]},
    {"authorities": [{"name": "a", "identities": [{"issuer": "x", "subjectRegExp": "(?<=a)"}]}]},
    {"authorities": [{"name": "a", "attestations": [{"predicateType": SLSA, "conditions": ["1 +"]}]}]},
    {"vulnerabilities": {"maximumSeverity": "Terrible"}},
])  # fmt: skip
def test_what_cannot_be_used_breaks_the_policy(spec: dict) -> None:
    assert ours(**spec).broken


def vouched(key: Key, *digests: str, attached: Attached | None = None) -> Evidence:
    hanging = attached or Attached(sig=[key.signature(each) for each in digests])
    return Evidence(DIGEST, vouched=tuple(signed_by(hanging, DIGEST, [key.pem])))


def test_a_signature_by_the_policys_key_is_demanded() -> None:
    alice, mallory = Key(), Key()
    demanding = ours(authorities=[{"name": "release", "keys": [alice.pem]}])
    assert not said(demanding, vouched(alice, DIGEST))
    assert "no signature by the policy's keys" in said(demanding, vouched(mallory, DIGEST))


def test_a_signature_of_another_image_counts_for_nothing() -> None:
    alice = Key()
    demanding = ours(authorities=[{"name": "release", "keys": [alice.pem]}])
    assert "no signature" in said(demanding, vouched(alice, OTHER))


def test_a_signature_under_a_changed_payload_counts_for_nothing() -> None:
    alice = Key()
    where, annotations, payload = alice.signature(OTHER)
    forged = payload.replace(OTHER.encode(), DIGEST.encode())
    demanding = ours(authorities=[{"name": "release", "keys": [alice.pem]}])
    hanging = Attached(sig=[(where, annotations, forged)])
    assert "no signature" in said(demanding, vouched(alice, attached=hanging))


def provenance(alice: Key) -> Policy:
    return ours(authorities=[{
        "name": "builder", "keys": [alice.pem], "attestations": [{
            "name": "slsa", "predicateType": "slsaprovenance1",
            "conditions": ["predicate.runDetails.builder.id == 'https://underway.dev/builder/v1'"],
        }],
    }])  # fmt: skip


GOOD = {"runDetails": {"builder": {"id": "https://underway.dev/builder/v1"}}}


@pytest.mark.parametrize(("digest", "predicate", "kind", "expected"), [
    (DIGEST, GOOD, SLSA, ""),
    (OTHER, GOOD, SLSA, "no attestation"),  # replayed from another image
    (DIGEST, GOOD, "https://example.org/mine/v1", "no attestation"),  # an unknown predicate
    (DIGEST, {"runDetails": {"builder": {"id": "me"}}}, SLSA, "does not hold"),
    (DIGEST, {}, SLSA, "has no value"),
])  # fmt: skip
def test_attestations(digest: str, predicate: dict, kind: str, expected: str) -> None:
    alice = Key()
    hanging = Attached(att=[alice.attestation(digest, predicate, kind)])
    found = said(provenance(alice), vouched(alice, attached=hanging))
    assert (expected in found) if expected else not found


def test_a_statement_whose_subject_was_swapped_under_its_signature_is_refused() -> None:
    alice = Key()
    where, annotations, data = alice.attestation(OTHER, GOOD)
    envelope = dsse.decode(data)
    payload = envelope.payload.replace(b"2" * 64, b"1" * 64)
    forged = dsse.encode(replace(envelope, payload=payload))
    hanging = Attached(att=[(where, annotations, forged)])
    assert "no attestation" in said(provenance(alice), vouched(alice, attached=hanging))


def by(identity: str, issuer: str) -> Evidence:
    return Evidence(DIGEST, vouched=(Vouched(Signed("sha256:1", "k", identity, issuer)),))


def test_identities_match_in_full() -> None:
    demanding = ours(authorities=[{"name": "ci", "identities": [
        {"issuer": "https://ci", "subjectRegExp": r"repo:acme/.*"}]}])  # fmt: skip
    assert not said(demanding, by("repo:acme/shop", "https://ci"))
    assert said(demanding, by("evil repo:acme/shop", "https://ci"))
    assert said(demanding, by("repo:acme/shop", "https://ci.evil"))
    assert said(demanding, by("", ""))


def test_without_keys_the_platforms_own_signer_is_asked() -> None:
    demanding = ours(authorities=[{"name": "platform"}])
    assert not said(demanding, by("", ""))
    failed = Evidence(DIGEST, vouched_failure="registry down")
    assert "registry down" in said(demanding, failed)


def test_kritis_image_security_policies() -> None:
    spec = {"imageAllowlist": ["gcr.io/kritis/*"], "packageVulnerabilityRequirements": {
        "maximumSeverity": "MEDIUM", "maximumFixUnavailableSeverity": "ALLOW_ALL",
        "allowlistCVEs": ["projects/goog-vulnz/notes/CVE-9"]}}  # fmt: skip
    made = compiled(written("ImageSecurityPolicy", spec, namespace="shop"))
    assert not made.broken
    assert not policy.applies(made, "redis", "other", {})
    assert not policy.applies(made, "gcr.io/kritis/a:1", "shop", {})
    assert policy.applies(made, "gcr.io/kritis/a/b:1", "shop", {})
    assert not said(made, scanned(("CVE-9", "Critical", "2"), ("CVE-2", "Critical", "")))
    assert said(made, scanned(("CVE-2", "High", "2")))
    none = {"packageVulnerabilityRequirements": {"maximumSeverity": "BLOCK_ALL"}}
    blocking = compiled(written("ImageSecurityPolicy", none, namespace="shop"))
    assert said(blocking, scanned(("CVE-2", "Negligible", "")))


def test_kritis_attestation_policies() -> None:
    alice = Key()
    authority = {"kind": "AttestationAuthority", "metadata": {"name": "qa", "namespace": "shop"},
                 "spec": {"noteReference": "projects/p/notes/qa", "publicKeyData": alice.pem}}  # fmt: skip
    spec = {"attestationAuthorityNames": ["qa"]}
    made = compiled(written("GenericAttestationPolicy", spec, namespace="shop"), [authority])
    assert not said(made, vouched(alice, DIGEST))
    assert said(made, vouched(alice, OTHER))
    assert compiled(
        written("GenericAttestationPolicy", spec, namespace="other"), [authority]
    ).broken


def test_sigstore_cluster_image_policies() -> None:
    alice, bob = Key(), Key()
    spec = {"images": [{"glob": "docker.io/acme/**"}], "authorities": [
        {"name": "a", "key": {"data": alice.pem}}, {"name": "b", "key": {"data": bob.pem}}]}  # fmt: skip
    made = compiled(written("ClusterImagePolicy", spec))
    assert policy.applies(made, "docker.io/acme/team/shop:1", "default", {})
    assert not policy.applies(made, "docker.io/other/shop:1", "default", {})
    for key in (alice, bob):
        assert not said(made, vouched(key, DIGEST))
    assert "one of a, b" in said(made, vouched(Key(), DIGEST))
    unsafe = {"images": [{"glob": "**"}], "authorities": [{"keyless": {"url": "https://fulcio"}}]}
    assert "anybody could sign" in compiled(written("ClusterImagePolicy", unsafe)).broken
    assert compiled(written("ClusterImagePolicy", {"images": [{"glob": "**"}]})).broken


@pytest.mark.parametrize(("pattern", "name", "expected"), [
    ("docker.io/library/*", "docker.io/library/redis:7", True),
    ("docker.io/*", "docker.io/library/redis:7", False),
    ("docker.io/**", f"docker.io/library/redis@{DIGEST}", True),
    ("docker.io/", "docker.io/library/redis", True),
    ("docker.io/library/redis", "docker.io/library/redis:7", True),
    ("docker.io/library/redis", "docker.io/library/redis-evil:7", False),
    ("host:5000/a", "host:5000/a", True),
    ("host", "host:5000/a", False),
    ("r.d", "rxd", False),
])  # fmt: skip
def test_image_globs(pattern: str, name: str, expected: bool) -> None:
    assert patterns.matches_image(pattern, name) is expected


def test_a_glob_made_to_be_slow_is_not() -> None:
    assert not patterns.matches_image("**a" * 300 + "!", "a" * 5000)
