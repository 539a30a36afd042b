"""All that is proved and noted of one image, for people and programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from underway.base.errors import NotFound, UnderwayError
from underway.base.files import write_atomic
from underway.base.home import Home
from underway.capabilities.provenance.backend.evidence import EvidenceSource
from underway.capabilities.provenance.backend.grafeas import GrafeasStore
from underway.capabilities.provenance.backend.links import LinkStore, StepKey
from underway.capabilities.provenance.rules import slsa
from underway.kit import registry
from underway.kit.ports import ImageSigner, Signed
from underway.transport.registry import repository_for
from underway.wire import oci


def shown(home: Home, image: str) -> dict[str, Any]:
    """What is known of an image.

    Returns:
        ``image``, ``digest``, ``signatures``, ``attestations`` (with their ``statement``),
        ``links`` (names of steps with materials and products), ``occurrences`` and ``problems``.

    Raises:
        NotFound: there is no such image.
    """
    signer: ImageSigner | None = registry.Ports(registry.installed(), home).find("image-signer")
    settings = home.load_settings()
    if "@" not in image and not oci.Reference.parse(image).registry.partition(":")[2]:
        image = _here(home, image)
    digest = EvidenceSource(home, None, None).resolve(image)
    repository = repository_for(oci.Reference.parse(image), settings)
    reference = f"{settings.bind_address}:{settings.registry_port}/{repository}@{digest}"
    found: dict[str, Any] = {
        "image": image, "digest": digest, "signatures": [], "attestations": [], "problems": [],
    }  # fmt: skip
    if signer is None:
        found["problems"].append("no installed capability signs images")
    else:
        _vouched(signer, reference, found)
    found["links"] = _links(home, digest)
    found["occurrences"] = _occurrences(home, digest)
    return found


def _here(home: Home, image: str) -> str:
    """A name without a registry means the platform's own, where it has a namespace."""
    if "/" not in image or "." in image.partition("/")[0]:
        return image
    settings = home.load_settings()
    return f"{settings.bind_address}:{settings.registry_port}/{image}"


def _vouched(signer: ImageSigner, reference: str, found: dict[str, Any]) -> None:
    try:
        found["signatures"] = [_signed(each) for each in signer.verify(reference)]
        found["attestations"] = [
            {**_signed(each), "predicateType": statement.get("predicateType", ""),
             "statement": dict(statement)}
            for each, statement in signer.attestations(reference)
        ]  # fmt: skip
    except UnderwayError as error:
        found["problems"].append(str(error))


def _signed(signed: Signed) -> dict[str, str]:
    value = {"digest": signed.digest, "keyID": signed.key_id}
    if signed.identity:
        value |= {"identity": signed.identity, "issuer": signed.issuer}
    return value


def _links(home: Home, digest: str) -> list[dict[str, Any]]:
    try:
        kept = LinkStore(home.provenance).read(digest)
    except NotFound:
        return []
    return [
        {
            "file": path.name,
            "step": metadata.signed.get("name", ""),
            "materials": metadata.signed.get("materials", {}),
            "products": metadata.signed.get("products", {}),
        }
        for path, metadata in kept
    ]


def _occurrences(home: Home, digest: str) -> list[dict[str, Any]]:
    file = home.provenance / "grafeas.db"
    if not file.exists():
        return []
    store = GrafeasStore(file)
    try:
        return list(store.each("occurrences", slsa.PROJECT, f'resourceUri : "{digest}"'))
    finally:
        store.close()


def export_links(home: Home, digest: str, target: Path) -> list[Path]:
    """Copy an image's links and the public key they are signed by to a directory.

    Raises:
        NotFound: no links of it are kept here.
    """
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for path, _ in LinkStore(home.provenance).read(digest):
        write_atomic(target / path.name, path.read_bytes())
        written.append(target / path.name)
    public = target / "step.pub"
    write_atomic(public, StepKey(home.provenance / "step.key").pem)
    return [*written, public]


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    yield f"image        {found['image']}"
    yield f"digest       {found['digest']}"
    for each in found["signatures"]:
        yield f"signature    {each['digest']} by {each.get('identity') or each['keyID'][:16]}"
    for each in found["attestations"]:
        yield f"attestation  {slsa.described(each)} by {each.get('identity') or each['keyID'][:16]}"
        yield from _dependencies(each["statement"])
    for each in found["links"]:
        yield f"link         {each['step']} ({each['file']}): {', '.join(each['materials'])}"
    for each in found["occurrences"]:
        yield f"noted        {each['kind']} {each['noteName'].rpartition('/')[2]}"
    for each in found["problems"]:
        yield f"problem      {each}"


def _dependencies(statement: dict[str, Any]) -> Iterator[str]:
    definition = (statement.get("predicate") or {}).get("buildDefinition") or {}
    for each in definition.get("resolvedDependencies") or ():
        digests = ", ".join(f"{kind}:{value}" for kind, value in (each.get("digest") or {}).items())
        yield f"  from       {each.get('uri') or each.get('name')} {digests}"
