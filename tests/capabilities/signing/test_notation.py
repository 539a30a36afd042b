"""Notation's signatures; notation itself judges."""

import base64
import json
from datetime import timedelta

import pytest
from tests.capabilities.signing.conftest import run, write

from underway.base.clock import FakeClock, SystemClock
from underway.base.errors import BadRequest
from underway.capabilities.signing.backend import notation as backend
from underway.capabilities.signing.backend.authority import Authority
from underway.capabilities.signing.model import Unverified
from underway.capabilities.signing.rules import certificates, keys
from underway.capabilities.signing.rules import notation as rules


def test_a_signature_verifies_and_names_its_signer(world):
    made = backend.sign(world.home, world.reference)
    (found,) = backend.check(world.home, world.reference)
    assert found.reason == ""
    assert (found.digest, found.key_id) == (made.digest, made.key_id)
    assert found.identity == "C=XX,ST=local,O=underway,CN=underway platform"


def layout(world, directory, level="strict"):
    """Notation's own configuration, which trusts the platform's authority."""
    environment = world.environment(directory / "docker")
    config = directory / "docker" / "notation"
    store = config / "truststore" / "x509" / "ca" / "platform"
    store.mkdir(parents=True)
    write(store / "ca.crt", certificates.pem(Authority(world.home).certificate))
    policy = json.loads(backend.own_policy())
    policy["trustPolicies"][0]["signatureVerification"]["level"] = level
    write(config / "trustpolicy.json", json.dumps(policy))
    return environment


@pytest.mark.peer
def test_notation_accepts_our_signature_strictly_and_refuses_an_unsigned_image(
    world, notation, tmp_path
):
    environment = layout(world, tmp_path)
    backend.sign(world.home, world.reference)
    done = run(notation, "verify", world.reference, env=environment)
    assert "Successfully verified" in done.stdout
    other = world.push("unsigned", b'{"unsigned":1}')
    refused = run(notation, "verify", f"{world.name}@{other}", env=environment, check=False)
    assert refused.returncode != 0


@pytest.mark.peer
def test_what_notation_signs_verifies_here_under_a_policy_that_trusts_it(world, notation, tmp_path):
    environment = world.environment(tmp_path / "docker")
    run(notation, "cert", "generate-test", "--default", "peer.example", env=environment)
    run(notation, "sign", world.reference, env=environment)
    (found,) = backend.check(world.home, world.reference)
    assert "in the trust store" in found.reason
    place = world.home.signing / "notation"
    store = place / "truststore" / "x509" / "ca" / "peer"
    store.mkdir(parents=True)
    crt, *_ = (tmp_path / "docker").rglob("peer.example.crt")
    write(store / "peer.crt", crt.read_bytes())
    policy = json.loads(backend.own_policy())["trustPolicies"][0]
    policy |= {"trustStores": ["ca:peer"], "registryScopes": [world.name]}
    path = place / "trustpolicy.json"
    try:
        write(path, json.dumps({"version": "1.0", "trustPolicies": [policy]}))
        (found,) = backend.check(world.home, world.reference)
        assert found.reason == ""
        policy["trustedIdentities"] = ["x509.subject: C=US, ST=WA, O=Somebody"]
        write(path, json.dumps({"version": "1.0", "trustPolicies": [policy]}))
        (found,) = backend.check(world.home, world.reference)
        assert "not among the trusted identities" in found.reason
    finally:
        path.unlink()


@pytest.fixture
def signed():
    """An envelope, its authority and the key that signed it."""
    now = SystemClock().now()
    authority_key, key = keys.generate(), keys.generate()
    authority = certificates.authority(authority_key, now)
    leaf = rules.certificate(key.public_key(), authority_key, authority, "test", now)
    descriptor = {"mediaType": "m", "digest": "sha256:" + "a" * 64, "size": 1}
    ends = now + timedelta(hours=1)
    data = rules.envelope(
        descriptor, (leaf, authority), lambda message: keys.sign(key, message), now, ends
    )
    return data, authority, descriptor["digest"], now


def policy(level):
    return rules.Policy("p", ("*",), level, ("ca:x",))


@pytest.mark.parametrize("part", ["payload", "protected", "signature"])
def test_a_changed_envelope_is_refused(signed, part):
    data = signed[0]
    value = json.loads(data)
    text = value[part]
    value[part] = text[:-6] + ("A" if text[-6] != "A" else "B") + text[-5:]
    with pytest.raises(Unverified):
        rules.open_envelope(json.dumps(value).encode())
    with pytest.raises(Unverified):
        rules.open_envelope(data[:-30])


def test_another_image_and_another_authority_are_refused(signed):
    data, authority, digest, now = signed
    opened = rules.open_envelope(data)
    assert rules.judge(opened, digest, policy("strict"), [authority], now) == []
    with pytest.raises(Unverified, match="is for sha256:a"):
        rules.judge(opened, "sha256:" + "b" * 64, policy("audit"), [authority], now)
    other = certificates.authority(keys.generate(), now)
    with pytest.raises(Unverified, match="in the trust store"):
        rules.judge(opened, digest, policy("permissive"), [other], now)
    (note,) = rules.judge(opened, digest, policy("audit"), [other], now)
    assert note.startswith("authenticity")


def test_an_expired_signature_is_refused_strictly_and_noted_otherwise(signed):
    data, authority, digest, now = signed
    opened = rules.open_envelope(data)
    late = FakeClock(now + timedelta(days=1)).now()
    with pytest.raises(Unverified, match="expired"):
        rules.judge(opened, digest, policy("strict"), [authority], late)
    assert len(rules.judge(opened, digest, policy("permissive"), [authority], late)) == 1
    years = FakeClock(now + timedelta(days=500)).now()
    assert len(rules.judge(opened, digest, policy("permissive"), [authority], years)) == 2


def test_an_unknown_critical_header_is_refused(signed):
    value = json.loads(signed[0])
    header = json.loads(base64.urlsafe_b64decode(value["protected"] + "=="))
    header["crit"].append("io.example.unknown")
    encoded = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=")
    value["protected"] = encoded.decode()
    with pytest.raises(Unverified, match="not known here"):
        rules.open_envelope(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": "9"}, "version 9"),
        ({"trustPolicies": [{}]}, "no trust policy"),
        ({"trustPolicies": None}, "no trust policy"),
    ],
)
def test_a_trust_policy_that_cannot_be_read_is_refused(change, why):
    value = {**json.loads(backend.own_policy()), **change}
    with pytest.raises(BadRequest, match=why):
        rules.policies(json.dumps(value).encode(), "policy")


def test_the_policy_of_a_repository_goes_before_that_for_all():
    own, every = rules.Policy("own", ("r/a",), "skip"), rules.Policy("all", ("*",), "skip")
    assert rules.applicable([every, own], "r/a") is own
    assert rules.applicable([every, own], "r/b") is every
    assert rules.applicable([own], "r/b") is None
