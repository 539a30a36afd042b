"""``underway policy``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from underway.base.errors import NotFound, ServiceUnavailable
from underway.base.home import Home
from underway.capabilities.provenance.cli.output import FORMAT, print_json

if TYPE_CHECKING:
    from underway.api.objects import Object
    from underway.capabilities.provenance.model import Policy, Violation
    from underway.client import Client

_NAMESPACE = click.option("-n", "--namespace", default="default", show_default=True)


@click.group()
def policy() -> None:
    """Which images may run.

    \b
    underway policy list
    underway policy check docker.io/library/redis:7 -n shop
    underway policy explain no-critical
    """


@policy.command("list")
@FORMAT
def list_policies(output: str) -> None:
    """All policies of every kind, and what is wrong with what runs.

    \b
    underway policy list
    underway policy list -o json | jq '.policies[] | select(.violations > 0)'
    """
    objects, policies, _ = asyncio.run(_read("default"))
    rows = [_row(obj, each) for obj, each in zip(objects, policies, strict=True)]
    if output == "json":
        print_json({"policies": rows})
        return
    for row in rows:
        state = "malformed" if row["broken"] else row["mode"]
        click.echo(f"{row['policy']:<48} {state:<10} {row['violations']} violations")
    if not rows:
        click.echo("there are no policies: every image may run")


@policy.command()
@click.argument("image")
@_NAMESPACE
@FORMAT
def check(image: str, namespace: str, output: str) -> None:
    """Whether IMAGE may run in a namespace, by the policies as they are now.

    Ends with 1 where it may not.

    \b
    underway policy check docker.io/library/redis:7
    underway policy check shop/web@sha256:... -n shop -o json
    """
    from underway.capabilities.provenance.backend.evidence import EvidenceSource
    from underway.capabilities.provenance.rules import policy as rules
    from underway.kit import registry

    home = Home.from_environment()
    _, policies, labels = asyncio.run(_read(namespace))
    about = [each for each in policies if rules.applies(each, image, namespace, labels)]
    ports = registry.Ports(registry.installed(), home)
    source = EvidenceSource(home, ports.find("image-scanner"), ports.find("image-signer"))
    digest = source.resolve(image)
    evidence = source.gather(image, digest, about)
    found = [(each, bad) for each in about for bad in rules.judge(each, evidence)]
    refused = any(each.enforced for each, _ in found)
    if output == "json":
        print_json({
            "image": image, "digest": digest, "allowed": not refused,
            "policies": [each.title for each in about],
            "violations": [bad.as_dict() for _, bad in found],
        })  # fmt: skip
    else:
        _print_verdict(image, digest, about, [bad for _, bad in found], refused)
    if refused:
        raise SystemExit(1)


def _print_verdict(
    image: str, digest: str, about: list[Policy], found: list[Violation], refused: bool
) -> None:
    click.echo(f"{image} {digest}")
    for each in about:
        bad = [violation for violation in found if violation.policy == each.title]
        click.echo(f"{'refused by' if bad else 'passes'} {each.title}")
        for violation in bad:
            click.echo(f"  {violation.rule}: {violation.message}")
            click.echo(f"  to do: {violation.remedy}")
    if not about:
        click.echo("no policy is about it")
    click.echo("it may not run" if refused else "it may run")


@policy.command()
@click.argument("name")
@FORMAT
def explain(name: str, output: str) -> None:
    """What the policy NAME demands, in words, and what runs against it.

    \b
    underway policy explain no-critical
    """
    objects, policies, _ = asyncio.run(_read("default"))
    chosen = [(obj, each) for obj, each in zip(objects, policies, strict=True) if each.name == name]
    if not chosen:
        raise NotFound(f"there is no policy {name}", hint="underway policy list")
    if output == "json":
        print_json({"policies": [
            {**_row(obj, each), "demands": list(_demands(each)),
             "running": (obj.get("status") or {}).get("violations") or []}
            for obj, each in chosen
        ]})  # fmt: skip
        return
    for obj, each in chosen:
        click.echo(each.title)
        for line in _demands(each):
            click.echo(f"  {line}")
        for bad in (obj.get("status") or {}).get("violations") or ():
            click.echo(f"  runs against it: {bad['pod']}: {bad['message']}")


def _demands(each: Policy) -> Any:
    if each.broken:
        yield f"is malformed and refuses everything it may be about: {each.broken}"
        return
    place = f"namespace {each.namespace}" if each.namespace else str(each.namespaces) or "all"
    yield f"is about {', '.join(each.images)} in namespaces: {place}"
    if each.exempt:
        yield f"lets through {', '.join(each.exempt)}"
    if each.vulnerabilities is not None:
        rule = each.vulnerabilities
        yield f"vulnerabilities at most {rule.maximum}, without a fix {rule.maximum_unfixed}"
        if rule.allowed:
            yield f"allows {', '.join(rule.allowed)}"
    for authority in each.every:
        yield f"demands {authority.name} to vouch"
    if each.one_of:
        yield f"demands one of {', '.join(authority.name for authority in each.one_of)} to vouch"
    yield "only warns" if not each.enforced else "refuses what does not fit"


def _row(obj: Object, each: Policy) -> dict[str, Any]:
    return {
        "policy": each.title,
        "kind": each.kind,
        "name": each.name,
        "mode": "enforce" if each.enforced else "warn",
        "broken": each.broken,
        "violations": (obj.get("status") or {}).get("violationCount") or 0,
    }


async def _read(namespace: str) -> tuple[list[Object], list[Policy], dict[str, str]]:
    """All policies as written and compiled, and the labels of a namespace."""
    from underway.api.objects import labels_of
    from underway.api.resources import NAMESPACES
    from underway.capabilities.provenance.model import ATTESTATIONAUTHORITIES, POLICIES
    from underway.capabilities.provenance.rules.compiling import compiled

    client = _client()
    try:
        authorities = (await client.list(ATTESTATIONAUTHORITIES)).items
        objects = [obj for each in POLICIES for obj in (await client.list(each)).items]
        labels = labels_of(await client.get(NAMESPACES, namespace))
    finally:
        await client.aclose()
    return objects, [compiled(obj, authorities) for obj in objects], labels


def _client() -> Client:
    from underway.client import kubeconfig

    home = Home.from_environment()
    if not home.kubeconfig.exists():
        raise ServiceUnavailable(
            f"there is no platform in {home.root}", hint="start it: underway up --detach"
        )
    return kubeconfig.load(home.kubeconfig)
