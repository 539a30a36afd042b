"""``underway capability``: what this installation can do."""

from __future__ import annotations

import click
import msgspec

from underway.kit import Capability, Error, Ready, registry


def row(capability: Capability) -> dict[str, str]:
    """Id, state (Ready, Skip, Error), reason, remedy and summary of one capability."""
    state = registry.probe(capability)
    found = {"id": capability.id, "state": type(state).__name__, "summary": capability.summary}
    if not isinstance(state, Ready):
        found |= {"reason": state.reason, "remedy": state.remedy}
    return found


@click.group()
def capability() -> None:
    """List what this installation can do."""


@capability.command("list")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def list_capabilities(output: str) -> None:
    """List every installed capability with its state on this machine."""
    rows = [row(each) for each in registry.installed()]
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    for each in rows:
        note = each["summary"] if each["state"] == Ready.__name__ else each["reason"]
        click.echo(f"{each['id']:<14}{each['state']:<8}{note}")
    if any(each["state"] == Error.__name__ for each in rows):
        raise SystemExit(1)
