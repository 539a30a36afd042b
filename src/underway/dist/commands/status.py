"""``underway status`` and ``underway kubeconfig``."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import msgspec

from underway.api.objects import find_condition
from underway.api.resources import NODES
from underway.base.errors import NotFound, UnderwayError
from underway.base.home import Home, Settings
from underway.client import kubeconfig as kubeconfig_file
from underway.dist import processes
from underway.kit import registry

_HEALTHY = "healthy"


def endpoints(settings: Settings) -> dict[str, str]:
    """URL of every service by name."""
    found = {"api": f"https://{settings.bind_address}:{settings.api_port}"}
    for capability in registry.installed():
        for route in capability.routes:
            port = getattr(settings, route.port_setting)
            found[route.endpoint] = f"https://{settings.bind_address}:{port}"
    found["console"] = f"https://{settings.bind_address}:{settings.console_port}"
    return found


def collect(home: Home) -> dict[str, Any]:
    """The platform's state: ``running``, ``home``, ``endpoints``, ``caFile``, ``components``."""
    settings = home.load_settings()
    running = processes.running_pid(home, processes.SUPERVISOR) is not None
    health = asyncio.run(_health(home)) if running else {}
    return {
        "running": running,
        "home": str(home.root),
        "endpoints": endpoints(settings),
        "caFile": str(home.pki / "ca.crt"),
        "kubeconfig": str(home.kubeconfig),
        "registryAuthFile": str(home.registry_auth),
        "components": [
            {
                "name": each.name,
                "pid": each.pid,
                "health": health.get(each.name, _HEALTHY) if each.pid else "stopped",
            }
            for each in processes.components(home)
        ],
    }


async def _health(home: Home) -> dict[str, str]:
    client = kubeconfig_file.load(home.kubeconfig)
    found: dict[str, str] = {}
    try:
        await client.request("GET", "/readyz")
        found["control-plane"] = _HEALTHY
    except UnderwayError as error:
        return {"control-plane": f"unhealthy: {error.message}", "node": "unknown"}
    node = home.load_settings().node_name
    try:
        status = (await client.get(NODES, node)).get("status") or {}
        ready = find_condition(status.get("conditions"), "Ready") or {}
        found["node"] = (
            _HEALTHY
            if ready.get("status") == "True"
            else f"unhealthy: {ready.get('message') or 'the node is not ready'}"
        )
    except UnderwayError as error:
        found["node"] = f"unhealthy: {error.message}"
    return found


def echo_status(home: Home) -> None:
    """Print the platform's state for people."""
    state = collect(home)
    click.echo(f"{'Running' if state['running'] else 'Stopped'}  {state['home']}")
    for name, url in state["endpoints"].items():
        click.echo(f"  {name:<14}{url}")
    click.echo(f"  {'CA':<14}{state['caFile']}")
    click.echo(f"  {'kubeconfig':<14}{state['kubeconfig']}")
    if state["components"]:
        click.echo("Components")
    for component in state["components"]:
        pid = component["pid"] or "-"
        click.echo(f"  {component['name']:<14}pid {pid:<8}{component['health']}")


@click.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def status(output: str) -> None:
    """Show the platform's endpoints and components; exit code 3 when it is not running.

    \b
    underway status -o json | jq -r .endpoints.registry
    """
    home = Home.from_environment()
    state = collect(home)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(state), indent=2).decode())
    else:
        echo_status(home)
    if not state["running"]:
        raise SystemExit(3)


@click.command()
def kubeconfig() -> None:
    """Print the administrator's kubeconfig.

    \b
    underway kubeconfig > ~/.kube/config
    """
    home = Home.from_environment()
    try:
        click.echo(home.kubeconfig.read_text(encoding="utf-8"), nl=False)
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no kubeconfig in {home.root}", hint="start the platform: underway up"
        ) from error
