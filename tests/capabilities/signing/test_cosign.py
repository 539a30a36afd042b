"""Signatures and attestations in cosign's forms; cosign itself judges."""

import base64
import json

import pytest
from tests.capabilities.signing.conftest import run, write

from underway.base.errors import BadRequest, Forbidden, NotFound
from underway.capabilities.signing.backend.authority import Authority
from underway.capabilities.signing.backend.keystore import FileKeys, TrustedKeys
from underway.capabilities.signing.backend.signer import Trust
from underway.capabilities.signing.model import Unverified
from underway.capabilities.signing.rules import cosign as forms
from underway.capabilities.signing.rules import keys
from underway.transport.registry import RegistryClient
from underway.wire import dsse, oci

SLSA = "https://slsa.dev/provenance/v1"
PREDICATE = {"buildDefinition": {"buildType": "test"}, "runDetails": {"builder": {"id": "here"}}}


def test_an_image_is_signed_once_and_its_signature_verifies(world):
    signer = world.signer()
    assert signer.verify(world.reference) == ()
    made = signer.sign(world.reference)
    again = signer.sign(world.reference)
    assert made == again
    assert {each.key_id for each in signer.verify(world.reference)} == {made.key_id}
    forms_found = {each.form for each in signer.check(world.reference).signatures}
    assert forms_found == {"cosign", "bundle"}


def test_attestations_are_read_back_once_and_only_about_this_image(world):
    signer = world.signer()
    signer.attest(world.reference, SLSA, PREDICATE)
    signer.attest(world.reference, SLSA, PREDICATE)
    ((signed, statement),) = signer.attestations(world.reference)
    assert signed.key_id == keys.key_id(signer.public())
    assert statement["predicateType"] == SLSA
    assert statement["predicate"] == PREDICATE
    assert signer.check(world.reference).signatures == ()


def test_the_private_key_is_for_its_owner_alone(world):
    world.signer().sign(world.reference)
    key = world.home.signing / "keys" / "platform.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_every_algorithm_signs_and_refuses_changed_bytes(algorithm):
    key = keys.generate(algorithm)
    signature = keys.sign(key, b"one")
    keys.verify(key.public_key(), signature, b"one")
    with pytest.raises(Unverified):
        keys.verify(key.public_key(), signature, b"two")


def test_an_encrypted_key_opens_with_its_passphrase_alone(tmp_path):
    store = FileKeys(tmp_path, b"secret")
    public = store.generate("k")
    assert b"ENCRYPTED SIGSTORE" in (tmp_path / "k.key").read_bytes()
    keys.verify(public, FileKeys(tmp_path, b"secret").sign("k", b"x"), b"x")
    with pytest.raises(Forbidden, match="passphrase is wrong"):
        FileKeys(tmp_path, b"guess").sign("k", b"x")
    with pytest.raises(Forbidden, match="needs a passphrase"):
        FileKeys(tmp_path).sign("k", b"x")


def test_scrypt_parameters_that_would_eat_the_machine_are_refused():
    pem = keys.encode_private(keys.generate(), b"p")
    value = json.loads(base64.b64decode("".join(pem.decode().splitlines()[1:-1])))
    value["kdf"]["params"]["N"] = 1 << 30
    text = base64.encodebytes(json.dumps(value).encode()).decode()
    head, tail = pem.decode().splitlines()[0], pem.decode().splitlines()[-1]
    with pytest.raises(BadRequest, match="scrypt parameters"):
        keys.decode_private(f"{head}\n{text}{tail}\n".encode(), b"p", "it")


@pytest.mark.peer
def test_cosign_accepts_our_signature_in_both_forms_and_refuses_another_key(
    world, cosign, tmp_path
):
    signer = world.signer()
    signer.sign(world.reference)
    pub = write(tmp_path / "cosign.pub", keys.public_pem(signer.public()))
    other = write(tmp_path / "other.pub", keys.public_pem(keys.generate().public_key()))
    environment = world.environment(tmp_path / "docker")
    common = ["--insecure-ignore-tlog=true", world.reference]
    done = run(cosign, "verify", "--key", pub, *common, env=environment)
    (found,) = json.loads(done.stdout)
    assert found["critical"]["image"]["docker-manifest-digest"] == world.digest
    root = write(tmp_path / "root.json", Authority(world.home).trust_root())
    common = ["--trusted-root", root, *common]
    run(cosign, "verify", "--new-bundle-format", "--key", pub, *common, env=environment)
    refused = run(cosign, "verify", "--key", other, *common, env=environment, check=False)
    assert refused.returncode != 0


@pytest.mark.peer
def test_cosign_accepts_our_attestation_in_both_forms(world, cosign, tmp_path):
    signer = world.signer()
    signer.attest(world.reference, SLSA, PREDICATE)
    pub = write(tmp_path / "cosign.pub", keys.public_pem(signer.public()))
    environment = world.environment(tmp_path / "docker")
    common = ["--key", pub, "--type", "slsaprovenance1", "--insecure-ignore-tlog=true"]
    root = write(tmp_path / "root.json", Authority(world.home).trust_root())
    for form in ([], ["--new-bundle-format", "--trusted-root", root]):
        done = run(cosign, "verify-attestation", *form, *common, world.reference, env=environment)
        envelope = json.loads(done.stdout.splitlines()[-1])
        statement = json.loads(base64.b64decode(envelope["payload"]))
        assert statement["predicate"] == PREDICATE


@pytest.mark.peer
def test_what_cosign_signs_with_its_own_encrypted_key_verifies_here(world, cosign, tmp_path):
    environment = {**world.environment(tmp_path / "docker"), "COSIGN_PASSWORD": "pass"}
    run(cosign, "generate-key-pair", cwd=tmp_path, env=environment)
    imported = keys.decode_private((tmp_path / "cosign.key").read_bytes(), b"pass", "cosign.key")
    common = ["--key", tmp_path / "cosign.key", "--tlog-upload=false", "--yes"]
    run(cosign, "sign", *common, world.reference, env=environment)
    write(tmp_path / "predicate.json", json.dumps(PREDICATE))
    attest = ["--predicate", tmp_path / "predicate.json", "--type", "slsaprovenance1"]
    run(cosign, "attest", *common, *attest, world.reference, env=environment)
    trust = Trust((imported.public_key(),))
    checked = world.signer().check(world.reference, trust)
    assert [each.verified for each in checked.signatures] == [True]
    ((attested),) = checked.attestations
    assert attested.statement["predicate"]["runDetails"]["builder"] == {"id": "here"}
    assert world.signer().verify(world.reference) == ()  # not trusted until told so
    TrustedKeys.of_platform(world.home).add("peer", keys.public_pem(imported.public_key()))
    try:
        assert len(world.signer().verify(world.reference)) == 1
    finally:
        TrustedKeys.of_platform(world.home).remove("peer")


@pytest.mark.peer
def test_cosign_signs_with_a_key_encrypted_here(world, cosign, tmp_path):
    key = keys.generate()
    write(tmp_path / "k.key", keys.encode_private(key, b"pass"))
    environment = {**world.environment(tmp_path / "docker"), "COSIGN_PASSWORD": "pass"}
    common = ["--key", tmp_path / "k.key", "--tlog-upload=false", "--yes"]
    run(cosign, "sign", *common, world.reference, env=environment)
    checked = world.signer().check(world.reference, Trust((key.public_key(),)))
    assert [each.reason for each in checked.signatures] == [""]


def test_a_registry_without_the_referrers_api_gets_the_fallback_tag(world, monkeypatch):
    asked = RegistryClient._call

    def without(self, method, path, **options):
        if "/referrers/" in path:
            raise NotFound("no such API")
        return asked(self, method, path, **options)

    monkeypatch.setattr(RegistryClient, "_call", without)
    signer = world.signer()
    signer.attest(world.reference, SLSA, PREDICATE)
    signer.attest(world.reference, SLSA, {"another": True})
    signer.attest(world.reference, SLSA, PREDICATE)
    found = signer.check(world.reference).attestations
    assert [each.verified for each in found] == [True, True]
    with world.client() as client:
        fallback = world.digest.replace(":", "-")
        assert set(client.tags(world.repository)) == {"v1", fallback, fallback + ".att"}
        first = found[0].digest
        client.delete_manifest(world.repository, first)
        assert not client.manifest_exists(world.repository, first)


# Attacks: each puts something before the verifier that another tool might take for granted.


def reasons(world, trust=None):
    checked = world.signer().check(world.reference, trust)
    return [each.reason for each in (*checked.signatures, *checked.attestations)]


def add_layer(world, suffix, kind, content, annotations):
    with world.client() as client:
        client.push_blob(world.repository, oci.digest_of(content), content, len(content))
        layers = [forms.layer(kind, content, annotations)]
        config = forms.tag_config(layers)
        client.push_blob(world.repository, oci.digest_of(config), config, len(config))
        tag = forms.tag(world.digest, suffix)
        data = forms.tag_manifest(config, layers)
        client.push_manifest(world.repository, tag, data, oci.MANIFEST)


def test_a_tampered_payload_is_refused(world):
    signer = world.signer()
    signer.public()
    store = FileKeys.of_platform(world.home)
    signature = base64.b64encode(
        store.sign("platform", forms.payload(world.name, world.digest))
    ).decode()
    changed = forms.payload(world.name + "x", world.digest)
    add_layer(world, "sig", forms.SIMPLE_SIGNING, changed, {forms.SIGNATURE: signature})
    (reason,) = reasons(world)
    assert "none of the trusted keys" in reason


def test_a_signature_of_another_image_put_under_the_tag_is_refused(world):
    signer = world.signer()
    other = world.push("other", b'{"other":1}')
    signer.sign(f"{world.name}@{other}")
    with world.client() as client:
        stolen = client.manifest(world.repository, forms.tag(other, "sig"))
        tag = forms.tag(world.digest, "sig")
        client.push_manifest(world.repository, tag, stolen.data, oci.MANIFEST)
    (reason,) = reasons(world)
    assert reason == f"the signature is for {other}, not for {world.digest}"
    assert signer.verify(world.reference) == ()


def test_a_tag_that_moves_to_another_image_loses_the_signature(world):
    signer = world.signer()
    signer.sign(f"{world.name}:v1")
    assert len(signer.verify(f"{world.name}:v1")) == 2
    world.push("v1", b'{"evil":1}')
    assert signer.verify(f"{world.name}:v1") == ()


def test_an_attestation_replayed_for_another_digest_is_refused(world):
    signer = world.signer()
    other = world.push("other", b'{"other":2}')
    signer.attest(f"{world.name}@{other}", SLSA, PREDICATE)
    with world.client() as client:
        (listed,) = client.referrers(world.repository, other, forms.BUNDLE)
        value = client.manifest(world.repository, listed["digest"]).decode()
        mine = client.manifest(world.repository, world.digest)
        value["subject"] = oci.Descriptor(oci.MANIFEST, mine.digest, len(mine.data)).as_dict()
        data = json.dumps(value).encode()
        client.push_manifest(world.repository, oci.digest_of(data), data, oci.MANIFEST)
    (reason,) = reasons(world)
    assert "not about " + world.digest in reason
    assert signer.attestations(world.reference) == ()


def test_another_key_and_a_wrong_repository_are_refused(world):
    signer = world.signer()
    signer.sign(world.reference)
    wrong = reasons(world, Trust((keys.generate().public_key(),)))
    assert all("none of the trusted keys" in reason for reason in wrong)
    elsewhere = reasons(world, Trust((signer.public(),), name=f"{world.host}/other/app"))
    assert any(f"not for {world.host}/other/app" in reason for reason in elsewhere)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"payload":"e30=","payloadType":"x","signatures":[]}', b"\xff"]
)
def test_a_truncated_envelope_is_refused_with_the_reason(world, content):
    world.signer().public()
    add_layer(world, "att", dsse.ENVELOPE_MEDIA_TYPE, content, {})
    (reason,) = reasons(world)
    assert "envelope" in reason


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_truncated_bundle_is_refused(world, cut):
    signer = world.signer()
    signer.attest(world.reference, SLSA, PREDICATE)
    with world.client() as client:
        (listed,) = client.referrers(world.repository, world.digest, forms.BUNDLE)
        layer = client.manifest(world.repository, listed["digest"]).decode()["layers"][0]
        whole = b"".join(client.blob(world.repository, layer["digest"]))
    with pytest.raises(Unverified):
        forms.decode_bundle(whole[:-cut])


def test_a_signature_layer_that_is_too_large_is_not_read(world):
    world.signer().public()
    with world.client() as client:
        content = b"{}"
        client.push_blob(world.repository, oci.digest_of(content), content, len(content))
        layer = forms.layer(forms.SIMPLE_SIGNING, content, {})
        layer["size"] = 1 << 40
        data = forms.tag_manifest(content, [layer])
        tag = forms.tag(world.digest, "sig")
        try:
            client.push_manifest(world.repository, tag, data, oci.MANIFEST)
        except BadRequest:
            return  # the registry sees that the size is wrong, and does not take it
    (reason,) = reasons(world)
    assert "too large" in reason
