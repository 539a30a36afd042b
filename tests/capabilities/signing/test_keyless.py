"""Certificates for service accounts and the transparency log; sigstore's own verifier judges."""

import base64
import dataclasses
import hashlib
import json
import random
import warnings
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

from underway.base.clock import FakeClock, SystemClock
from underway.base.errors import Unauthorized
from underway.base.home import Home, Settings
from underway.capabilities.signing.backend.authority import Authority
from underway.capabilities.signing.backend.trusting import distrust_identity, trust_identity
from underway.capabilities.signing.model import Unverified
from underway.capabilities.signing.rules import cosign, merkle, translog, trustroot
from underway.capabilities.signing.rules.certificates import Identity, service_account
from underway.transport import pki
from underway.wire import dsse

SLSA = "https://slsa.dev/provenance/v1"
ISSUER = "https://kubernetes.default.svc.cluster.local"
WHO = Identity(service_account("builds", "ci"), ISSUER)
SUBJECTS = {"app": {"sha256": "ab" * 32}}


def token(home, now=None, **changes):
    """A service-account token as the API server writes them."""
    now = now or SystemClock().now()
    key = serialization.load_pem_private_key((home.pki / "sa.key").read_bytes(), None)
    claims = {
        "iss": ISSUER, "sub": "system:serviceaccount:builds:ci", "aud": ["sigstore"],
        "nbf": int(now.timestamp()) - 1, "exp": int(now.timestamp()) + 600, **changes,
    }  # fmt: skip

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signed = part({"alg": "RS256"}) + b"." + part(claims)
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


@pytest.fixture
def authority(tmp_path):
    home = Home(tmp_path)
    pki.ensure_pki(home, Settings())
    return home, Authority(home)


def test_a_service_accounts_bundle_verifies_offline_with_the_trust_root(authority):
    home, made = authority
    for number in range(5):
        bundle = made.attest(token(home), SUBJECTS, SLSA, {"n": number})
    root = trustroot.decode(made.trust_root(), "root")
    again = cosign.decode_bundle(cosign.encode_bundle(bundle))
    assert trustroot.check_bundle(again, root) == WHO


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
def test_sigstores_own_verifier_accepts_the_bundle_and_refuses_another_identity(
    authority, tmp_path
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sigstore.errors import VerificationError
        from sigstore.models import Bundle, TrustedRoot
        from sigstore.verify import Verifier, policy
    home, made = authority
    for number in range(6):
        bundle = made.attest(token(home), SUBJECTS, SLSA, {"n": number})
    path = tmp_path / "root.json"
    path.write_bytes(made.trust_root())
    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(path)))
    foreign = Bundle.from_json(cosign.encode_bundle(bundle))
    kind, payload = verifier.verify_dsse(foreign, policy.Identity(identity=WHO.name, issuer=ISSUER))
    assert kind == dsse.PAYLOAD_TYPE
    assert json.loads(payload)["predicate"] == {"n": 5}
    with pytest.raises(VerificationError):
        verifier.verify_dsse(foreign, policy.Identity(identity="someone@else", issuer=ISSUER))


def test_only_trusted_identities_count_on_an_image(world):
    made = Authority(world.home)
    algorithm, _, value = world.digest.partition(":")
    subjects = {world.name: {algorithm: value}}
    bundle = made.attest(token(world.home), subjects, SLSA, {})
    signer = world.signer()
    signer.attach_bundle(world.reference, bundle, SLSA)
    assert signer.attestations(world.reference) == ()
    trust_identity(world.home, WHO)
    try:
        ((signed, _),) = signer.attestations(world.reference)
        assert signed.key_id == WHO.name
    finally:
        distrust_identity(world.home, WHO)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"aud": ["api"]}, "not for sigstore"),
        ({"exp": 1}, "has ended"),
        ({"sub": "admin"}, "no service account"),
        ({"nbf": 1 << 40}, "has not begun"),
    ],
)
def test_a_token_that_proves_nothing_gets_no_certificate(authority, changes, why):
    home, made = authority
    with pytest.raises(Unauthorized, match=why):
        made.attest(token(home, **changes), SUBJECTS, SLSA, {})
    assert made.log.size() == 0


def test_a_forged_token_gets_no_certificate(authority):
    home, made = authority
    head, body, tail = token(home).split(".")
    body = base64.urlsafe_b64encode(
        json.dumps({"aud": "sigstore", "sub": "system:serviceaccount:a:b", "exp": 1 << 40}).encode()
    ).decode()
    for forged in (f"{head}.{body}.{tail}", "a.b", f"{head}.{body}.", ""):
        with pytest.raises(Unauthorized):
            made.identify(forged)


def tampered(bundle, **parts):
    entry = json.loads(json.dumps(bundle.entries[0]))
    return dataclasses.replace(bundle, entries=(parts["change"](entry),))


def changed(path, value):
    def change(entry):
        place = entry
        for each in path[:-1]:
            place = place[each]
        place[path[-1]] = value
        return entry

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed(["integratedTime"], "1"), "signature is not of key"),
        (
            changed(["inclusionProof", "rootHash"], base64.b64encode(b"x" * 32).decode()),
            "did not sign",
        ),
        (changed(["inclusionProof", "logIndex"], "0"), "signature is not of key"),
        (changed(["inclusionProof", "hashes"], []), "too short"),
        (changed(["logId", "keyId"], base64.b64encode(b"y" * 32).decode()), "not trusted"),
        (
            changed(["inclusionProof", "checkpoint", "envelope"], "a\n1\nb\n"),
            "not signed by the log",
        ),
        (changed(["inclusionPromise"], None), "lacks"),
    ],
)
def test_a_changed_log_entry_is_refused(authority, change, why):
    home, made = authority
    made.attest(token(home), SUBJECTS, SLSA, {"first": True})
    bundle = made.attest(token(home), SUBJECTS, SLSA, {})
    root = trustroot.decode(made.trust_root(), "root")
    trustroot.check_bundle(bundle, root)
    with pytest.raises(Unverified, match=why):
        trustroot.check_bundle(tampered(bundle, change=change), root)


def test_a_log_entry_of_another_envelope_and_a_foreign_authority_are_refused(authority, tmp_path):
    home, made = authority
    one = made.attest(token(home), SUBJECTS, SLSA, {"n": 1})
    two = made.attest(token(home), SUBJECTS, SLSA, {"n": 2})
    root = trustroot.decode(made.trust_root(), "root")
    with pytest.raises(Unverified, match="another envelope"):
        trustroot.check_bundle(dataclasses.replace(one, entries=two.entries), root)
    other = Home(tmp_path / "other")
    pki.ensure_pki(other, Settings())
    foreign = trustroot.decode(Authority(other).trust_root(), "root")
    with pytest.raises(Unverified, match="log is not trusted"):
        trustroot.check_bundle(one, foreign)
    mixed = dataclasses.replace(root, authorities=foreign.authorities)
    with pytest.raises(Unverified, match="not issued by a trusted authority"):
        trustroot.check_bundle(one, mixed)


def test_a_signature_logged_after_its_certificate_ended_is_refused(tmp_path):
    home = Home(tmp_path)
    pki.ensure_pki(home, Settings())
    clock = FakeClock(SystemClock().now())
    made = Authority(home, clock)
    bundle = made.attest(token(home), SUBJECTS, SLSA, {})
    late = FakeClock(clock.now() + timedelta(hours=1))
    log = Authority(home, late).log
    body = json.loads(base64.b64decode(bundle.entries[0]["canonicalizedBody"]))
    body["spec"]["envelopeHash"]["value"] = "00" * 32  # another spelling of the same envelope
    entry = log.append(translog.canonical(body))
    replayed = dataclasses.replace(bundle, entries=(entry.as_dict(),))
    with pytest.raises(Unverified, match="was not valid at"):
        trustroot.check_bundle(replayed, trustroot.decode(made.trust_root(), "root"))


def naive_root(leaves):
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    both = naive_root(leaves[:split]) + naive_root(leaves[split:])
    return hashlib.sha256(b"\x01" + both).digest()


def test_every_proof_of_small_trees_holds_and_no_other_does():
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(40)]

    def node(level, place):
        return naive_root(leaves[place << level : (place + 1) << level])

    for size in range(1, 41):
        root = merkle.root(size, node)
        assert root == naive_root(leaves[:size])
        for index in range(size):
            proof = merkle.inclusion(index, size, node)
            merkle.check_inclusion(leaves[index], index, size, proof, root)
            with pytest.raises(Unverified):
                merkle.check_inclusion(leaves[index - 1 if index else -1], index, size, proof, root)
            with pytest.raises(Unverified):
                merkle.check_inclusion(leaves[index], index, size, [*proof, root], root)
        for old in range(size + 1):
            proof = merkle.consistency(old, size, node)
            merkle.check_consistency(old, naive_root(leaves[:old]), size, root, proof)
            if 0 < old < size:
                with pytest.raises(Unverified):
                    merkle.check_consistency(old, leaves[-1], size, root, proof)


def test_the_log_only_grows_and_gives_an_entry_once(authority):
    _, made = authority
    log = made.log
    key, sizes = log.key, []
    for number in range(20):
        entry = log.append(b'{"kind":"x","apiVersion":"%d"}' % number)
        translog.check_entry(entry, key)
        sizes.append(translog.check_note(log.checkpoint(), key))
    assert log.append(b'{"kind":"x","apiVersion":"3"}').index == 3
    for _ in range(30):
        older, newer = sorted(random.sample(sizes, 2), key=lambda each: each.size)
        proof = log.consistency(older.size, newer.size)
        merkle.check_consistency(older.size, older.root, newer.size, newer.root, proof)
