"""Real registry, real signer, real recorder: what ship attaches is what admission demands."""

from __future__ import annotations

import json

import pytest
from tests.capabilities.signing.conftest import registry, world  # noqa: F401  # fixtures

from underway.base.errors import NotFound
from underway.capabilities.provenance.backend.evidence import EvidenceSource
from underway.capabilities.provenance.backend.recorder import PlatformRecorder
from underway.capabilities.provenance.rules import policy, slsa
from underway.capabilities.provenance.rules.compiling import compiled
from underway.capabilities.signing.rules import keys
from underway.kit.ports import ShippedImage
from underway.wire import oci


def demanding(pem: str = "") -> list:
    attested = {"name": "slsa", "predicateType": slsa.PREDICATE,
                "conditions": [f"predicate.runDetails.builder.id == '{slsa.BUILDER}'"]}  # fmt: skip
    who = {"keys": [pem]} if pem else {}
    spec = {"authorities": [{"name": "signed", **who},
                            {"name": "built", "attestations": [attested], **who}]}  # fmt: skip
    made = compiled({"kind": "ImagePolicy", "metadata": {"name": "shipped"}, "spec": spec})
    assert not made.broken
    return [made]


def held(world, policies: list, image: str, digest: str) -> list[str]:  # noqa: F811
    source = EvidenceSource(world.home, None, world.signer())
    evidence = source.gather(image, digest, policies)
    return [str(each) for one in policies for each in policy.judge(one, evidence)]


@pytest.mark.parametrize("by_key", [False, True])
def test_what_ship_attaches_is_what_admission_demands(world, by_key: bool) -> None:  # noqa: F811
    signer = world.signer()
    pem = keys.public_pem(signer.public()).decode() if by_key else ""
    policies, image = demanding(pem), f"{world.name}:v1"
    assert EvidenceSource(world.home, None, None).resolve(image) == world.digest
    refused = held(world, policies, image, world.digest)
    assert len(refused) == 2
    assert "no signature" in refused[0]
    signer.sign(world.reference)
    shipped = ShippedImage(world.reference, world.digest, {"digest": "sha256:1"}, {}, {},
                           "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z")  # fmt: skip
    attached = PlatformRecorder(world.home, signer).record(shipped, None)
    assert len(attached) == 3
    assert held(world, policies, image, world.digest) == []
    # The same tag moved to another image: nothing of what was signed speaks for it.
    other = world.push("v1", b'{"other": 1}')
    assert EvidenceSource(world.home, None, None).resolve(image) == other
    assert len(held(world, policies, image, other)) == 2


def test_a_signature_moved_to_another_images_tag_is_refused(world) -> None:  # noqa: F811
    signer = world.signer()
    signer.sign(world.reference)
    signer.attest(
        world.reference, slsa.PREDICATE, {"runDetails": {"builder": {"id": slsa.BUILDER}}}
    )
    other = world.push("v2", b'{"evil": 1}')
    with world.client() as client:
        for suffix in ("sig", "att"):
            tag = f"{world.digest.replace(':', '-')}.{suffix}"
            found = client.manifest(world.repository, tag)
            moved = f"{other.replace(':', '-')}.{suffix}"
            client.push_manifest(world.repository, moved, found.data, found.media_type)
    pem = keys.public_pem(signer.public()).decode()
    for policies in (demanding(), demanding(pem)):
        assert len(held(world, policies, f"{world.name}:v2", other)) == 2


def test_an_image_that_is_not_there_is_said_so(world) -> None:  # noqa: F811
    with pytest.raises(NotFound):
        EvidenceSource(world.home, None, None).resolve(f"{world.name}:none")


def test_garbage_that_hangs_on_an_image_proves_nothing_and_hides_nothing(world) -> None:  # noqa: F811
    signer = world.signer()
    signer.sign(world.reference)
    bundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
    with world.client() as client:
        image = client.manifest(world.repository, world.digest)
        for data in (b"no json", b'{"dsseEnvelope": 3}', b"[" * 5000):
            client.push_blob(world.repository, oci.digest_of(data), data, len(data))
            client.push_blob(world.repository, oci.digest_of(b"{}"), b"{}", 2)
            manifest = {
                "schemaVersion": 2,
                "mediaType": oci.MANIFEST,
                "artifactType": bundle,
                "config": oci.Descriptor.of(oci.EMPTY, b"{}").as_dict(),
                "layers": [oci.Descriptor.of(bundle, data).as_dict()],
                "subject": oci.Descriptor.of(image.media_type, image.data).as_dict(),
            }
            encoded = json.dumps(manifest).encode()
            client.push_manifest(world.repository, oci.digest_of(encoded), encoded, oci.MANIFEST)
    pem = keys.public_pem(signer.public()).decode()
    found = held(world, demanding(pem), f"{world.name}:v1", world.digest)
    assert len(found) == 1  # the signature still counts, the attestation is still missing
    assert "no attestation" in found[0]
