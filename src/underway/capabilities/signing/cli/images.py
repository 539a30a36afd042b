"""``underway sign``, ``attest`` and ``verify``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from underway.base.errors import BadRequest

if TYPE_CHECKING:
    from underway.base.home import Home
    from underway.capabilities.signing.backend.signer import Signer, Trust

_KEY = click.option(
    "--key", "key", default="platform", metavar="NAME", help="The signing key; the platform's own."
)
_PKCS11 = click.option(
    "--pkcs11",
    metavar="MODULE:TOKEN",
    default="",
    help="The key is on a PKCS#11 token; its PIN is in UNDERWAY_PKCS11_PIN.",
)


@click.command()
@click.argument("image")
@_KEY
@_PKCS11
@click.option("--notation", is_flag=True, help="As notation does, with a certificate.")
def sign(image: str, key: str, pkcs11: str, notation: bool) -> None:
    """Sign an image of the registry, by its digest.

    The signature is put beside the image as cosign does, in its older form (a tag) and its newer
    (a bundle that refers to the image).

    \b
    underway sign 127.0.0.1:5000/team/app:v1
    underway sign 127.0.0.1:5000/team/app:v1 --key release
    underway sign 127.0.0.1:5000/team/app:v1 --notation
    """  # fmt: skip
    from underway.base.home import Home

    home = Home.from_environment()
    if notation:
        from underway.capabilities.signing.backend.notation import sign as sign_notation

        made = sign_notation(home, image, key)
    else:
        made = _signer(home, key, pkcs11).sign(image)
    click.echo(f"signed {image}\n  key       {made.key_id}\n  signature {made.digest}")


@click.command()
@click.argument("image")
@click.option("--type", "predicate_type", required=True, metavar="URI", help="Its predicateType.")
@click.option(
    "--predicate",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The predicate, as JSON.",
)
@_KEY
@_PKCS11
@click.option("--keyless", is_flag=True, help="As the service account of --identity-token.")
@click.option("--identity-token", default="", metavar="TOKEN", help="Its token, for sigstore.")
def attest(
    image: str,
    predicate_type: str,
    predicate: Path,
    key: str,
    pkcs11: str,
    keyless: bool,
    identity_token: str,
) -> None:
    """Attach a signed in-toto statement to an image.

    \b
    underway attest 127.0.0.1:5000/team/app:v1 --type https://example.com/tests/v1 \\
        --predicate tests.json
    """  # fmt: skip
    from underway.base.home import Home

    home = Home.from_environment()
    try:
        content: dict[str, Any] = json.loads(predicate.read_bytes())
    except ValueError as error:
        raise BadRequest(f"{predicate} is no JSON: {error}") from error
    signer = _signer(home, key, pkcs11)
    if not keyless:
        made = signer.attest(image, predicate_type, content)
        click.echo(f"attested {image}\n  key         {made.key_id}\n  attestation {made.digest}")
        return
    from underway.capabilities.signing.backend.authority import Authority, token_file

    token = identity_token or token_file()
    if not token:
        hint = "kubectl create token NAME --audience=sigstore"
        raise BadRequest("keyless signing needs a service account's token", hint=hint)
    name, digest = signer.resolve(image)
    algorithm, _, value = digest.partition(":")
    subjects = {name: {algorithm: value}}
    bundle = Authority(home).attest(token, subjects, predicate_type, content)
    made_digest = signer.attach_bundle(f"{name}@{digest}", bundle, predicate_type)
    click.echo(f"attested {image}\n  attestation {made_digest}")


@click.command()
@click.argument("image")
@click.option(
    "--key",
    "key_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Only this public key counts; may be given again.",
)
@click.option("--identity", default="", metavar="URI", help="Only this identity counts, with:")
@click.option("--issuer", default="", metavar="URL", help="who vouches for the identity.")
@click.option(
    "--trusted-root",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The sigstore trusted root for --identity; the platform's own.",
)
@click.option("--attestations", is_flag=True, help="An attestation must verify, not a signature.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def verify(
    image: str,
    key_files: tuple[Path, ...],
    identity: str,
    issuer: str,
    trusted_root: Path | None,
    attestations: bool,
    output: str,
) -> None:
    """Check what is signed about an image; exit code 1 where nothing of it verifies.

    Without --key and --identity the keys and identities count that are trusted here: the
    platform's own key, and those added with underway trust add.

    \b
    underway verify 127.0.0.1:5000/team/app:v1
    underway verify 127.0.0.1:5000/team/app@sha256:... --key cosign.pub -o json
    """  # fmt: skip
    from underway.base.home import Home
    from underway.capabilities.signing.backend.notation import check as check_notation

    home = Home.from_environment()
    signer = _signer(home, "platform", "")
    explicit = bool(key_files or identity)
    trust = _trust(home, key_files, identity, issuer, trusted_root) if explicit else None
    checked = signer.check(image, trust)
    signatures = list(checked.signatures)
    if not explicit:
        signatures += check_notation(home, image)
    found = checked.attestations if attestations else signatures
    good = [each for each in found if each.verified]
    if output == "json":
        value = {
            "image": image,
            "digest": checked.digest,
            "verified": bool(good),
            "signatures": [each.as_dict() for each in signatures],
            "attestations": [each.as_dict() for each in checked.attestations],
        }
        click.echo(json.dumps(value, indent=2))
    else:
        click.echo(f"{image}\n  digest {checked.digest}")
        for what, findings in (("signature", signatures), ("attestation", checked.attestations)):
            for each in findings:
                by = each.identity or each.key_id[:16]
                kind = each.statement.get("predicateType", "")
                state = f"verified, {by} {kind}".rstrip() if each.verified else each.reason
                click.echo(f"  {what} ({each.form}): {state}")
        if not found:
            click.echo("  nothing is signed")
    if not good:
        sys.exit(1)


def _signer(home: Home, key: str, pkcs11: str) -> Signer:
    from underway.capabilities.signing.backend.signer import Signer

    if not pkcs11:
        return Signer(home, key=key)
    import os

    from underway.capabilities.signing.backend.pkcs11 import TokenKeys

    module, _, token = pkcs11.partition(":")
    if not token:
        raise BadRequest(f"{pkcs11!r} names no token", hint="--pkcs11 /path/module.so:TOKEN")
    pin = os.environ.get("UNDERWAY_PKCS11_PIN", "")
    return Signer(home, store=TokenKeys(Path(module), token, pin), key=key)


def _trust(
    home: Home,
    key_files: tuple[Path, ...],
    identity: str,
    issuer: str,
    trusted_root: Path | None,
) -> Trust:
    from underway.capabilities.signing.backend.signer import Trust
    from underway.capabilities.signing.backend.trusting import roots
    from underway.capabilities.signing.rules import keys, trustroot
    from underway.capabilities.signing.rules.certificates import Identity

    if bool(identity) != bool(issuer):
        raise BadRequest("--identity and --issuer go together")
    known = tuple(keys.load_public(path.read_bytes(), str(path)) for path in key_files)
    counted = roots(home)
    if trusted_root is not None:
        counted = (trustroot.decode(trusted_root.read_bytes(), str(trusted_root)),)
    who = (Identity(identity, issuer),) if identity else ()
    return Trust(known, counted, who)
