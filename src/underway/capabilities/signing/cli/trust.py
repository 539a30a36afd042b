"""``underway trust``: whose signatures count here."""

from __future__ import annotations

from pathlib import Path

import click

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def trust() -> None:
    """Whose signatures count here, besides the platform's own.

    \b
    underway trust add partner partner.pub
    underway trust add-identity https://kubernetes.io/namespaces/ci/serviceaccounts/build \\
        --issuer https://kubernetes.default.svc.cluster.local
    underway trust list
    underway trust root > trusted_root.json
    """  # fmt: skip


@trust.command("list")
def list_trusted() -> None:
    """Show the trusted keys and identities."""
    from underway.base.home import Home
    from underway.capabilities.signing.backend.keystore import PLATFORM, FileKeys, TrustedKeys
    from underway.capabilities.signing.backend.trusting import identities
    from underway.capabilities.signing.rules.keys import key_id

    home = Home.from_environment()
    click.echo(f"key      {PLATFORM:20} {key_id(FileKeys.of_platform(home).ensure(PLATFORM))}")
    for name, key in TrustedKeys.of_platform(home).all().items():
        click.echo(f"key      {name:20} {key_id(key)}")
    for who in identities(home):
        click.echo(f"identity {who.name} by {who.issuer}")


@trust.command()
@click.argument("name")
@click.argument("file", type=_FILE)
def add(name: str, file: Path) -> None:
    """Trust a public key."""
    from underway.base.home import Home
    from underway.capabilities.signing.backend.keystore import TrustedKeys
    from underway.capabilities.signing.rules.keys import key_id

    key = TrustedKeys.of_platform(Home.from_environment()).add(name, file.read_bytes())
    click.echo(f"{name} {key_id(key)} counts from now on")


@trust.command()
@click.argument("name")
def remove(name: str) -> None:
    """Trust a public key no more."""
    from underway.base.home import Home
    from underway.capabilities.signing.backend.keystore import TrustedKeys

    TrustedKeys.of_platform(Home.from_environment()).remove(name)
    click.echo(f"{name} counts no more")


@trust.command("add-identity")
@click.argument("name")
@click.option("--issuer", required=True, help="Who vouches for the identity.")
def add_identity(name: str, issuer: str) -> None:
    """Trust the certificates of an identity."""
    from underway.base.home import Home
    from underway.capabilities.signing.backend.trusting import trust_identity
    from underway.capabilities.signing.rules.certificates import Identity

    trust_identity(Home.from_environment(), Identity(name, issuer))
    click.echo(f"{name} by {issuer} counts from now on")


@trust.command("remove-identity")
@click.argument("name")
@click.option("--issuer", required=True, help="Who vouches for the identity.")
def remove_identity(name: str, issuer: str) -> None:
    """Trust the certificates of an identity no more."""
    from underway.base.home import Home
    from underway.capabilities.signing.backend.trusting import distrust_identity
    from underway.capabilities.signing.rules.certificates import Identity

    distrust_identity(Home.from_environment(), Identity(name, issuer))
    click.echo(f"{name} by {issuer} counts no more")


@trust.command()
def root() -> None:
    """Write the platform's trusted root, in sigstore's form, to the output."""
    from underway.base.home import Home
    from underway.capabilities.signing.backend.authority import Authority

    click.echo(Authority(Home.from_environment()).trust_root().decode())
