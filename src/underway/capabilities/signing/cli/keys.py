"""``underway keys``: the platform's signing keys."""

from __future__ import annotations

from pathlib import Path

import click

from underway.base.errors import BadRequest


@click.group()
def keys() -> None:
    """The platform's signing keys.

    Private keys stay below the platform's home, for its owner alone; with the variable
    UNDERWAY_SIGNING_PASSPHRASE they are encrypted, in cosign's form.

    \b
    underway keys list
    underway keys generate release --algorithm ed25519
    underway keys export platform > cosign.pub
    """  # fmt: skip


@keys.command("list")
def list_keys() -> None:
    """Show the keys, with their ids."""
    from underway.base.home import Home
    from underway.capabilities.signing.backend.keystore import FileKeys
    from underway.capabilities.signing.rules.keys import key_id

    store = FileKeys.of_platform(Home.from_environment())
    for name in store.names():
        public = store.public(name)
        click.echo(
            f"{name:20} {type(public).__name__.removesuffix('PublicKey'):15} {key_id(public)}"
        )


@keys.command()
@click.argument("name")
@click.option(
    "--algorithm",
    type=click.Choice(["ecdsa-p256", "ed25519", "rsa-3072"]),
    default="ecdsa-p256",
    show_default=True,
)
def generate(name: str, algorithm: str) -> None:
    """Make a key."""
    from underway.base.home import Home
    from underway.capabilities.signing.backend.keystore import FileKeys
    from underway.capabilities.signing.rules.keys import key_id

    made = FileKeys.of_platform(Home.from_environment()).generate(name, algorithm)
    click.echo(f"{name} {key_id(made)}")


@keys.command("import")
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--passphrase-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Holds the passphrase of the file; COSIGN_PASSWORD is asked too.",
)
def import_key(name: str, file: Path, passphrase_file: Path | None) -> None:
    """Keep a private key that was made elsewhere: PKCS#8, or cosign's encrypted form."""
    import os

    from underway.base.home import Home
    from underway.capabilities.signing.backend.keystore import FileKeys
    from underway.capabilities.signing.rules import keys as rules

    passphrase = os.environ.get("COSIGN_PASSWORD", "").encode()
    if passphrase_file is not None:
        passphrase = passphrase_file.read_bytes().rstrip(b"\n")
    key = rules.decode_private(file.read_bytes(), passphrase, str(file))
    made = FileKeys.of_platform(Home.from_environment()).add(name, key)
    click.echo(f"{name} {rules.key_id(made)}")


@keys.command()
@click.argument("name", default="platform")
@click.option("--private", is_flag=True, help="The private key, encrypted as cosign wants it.")
@click.option(
    "--passphrase-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Holds the passphrase to encrypt it with.",
)
def export(name: str, private: bool, passphrase_file: Path | None) -> None:
    """Write a public key, or with --private an encrypted private key, to the output."""
    from underway.base.home import Home
    from underway.capabilities.signing.backend.keystore import PLATFORM, FileKeys
    from underway.capabilities.signing.rules import keys as rules

    store = FileKeys.of_platform(Home.from_environment())
    if name == PLATFORM:
        store.ensure(PLATFORM)
    if not private:
        click.echo(rules.public_pem(store.public(name)).decode(), nl=False)
        return
    if passphrase_file is None:
        raise BadRequest("a private key leaves encrypted", hint="name --passphrase-file")
    passphrase = passphrase_file.read_bytes().rstrip(b"\n")
    if not passphrase:
        raise BadRequest(f"{passphrase_file} is empty")
    click.echo(rules.encode_private(store.private(name), passphrase).decode(), nl=False)
