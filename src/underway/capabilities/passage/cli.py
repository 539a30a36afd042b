"""``underway ship`` and ``underway explain``."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import click
import msgspec

from underway.api.objects import Object, name_of
from underway.base.clock import SystemClock
from underway.base.errors import BadRequest, ServiceUnavailable
from underway.base.home import Home
from underway.capabilities.passage.controller import (
    Order,
    Shipment,
    Tools,
    explain_deployment,
    explain_pod,
)
from underway.capabilities.passage.rules import proofs, scheduling
from underway.capabilities.passage.rules.objects import application_name
from underway.client import Client, kubeconfig
from underway.kit import registry

_CLEAR_LINE = "\r\x1b[2K"
_WIDEST = 1000  # characters of a line that is kept


class Progress:
    """Steps with their timings: redrawn in place on a terminal, plain lines elsewhere.

    Indented lines are the output of programs that a step runs; they pass by on a terminal and are
    kept only where ``verbose``.
    """

    def __init__(self, *, to_stderr: bool, verbose: bool) -> None:
        self._stream = sys.stderr if to_stderr else sys.stdout
        self._live = self._stream.isatty()
        self._verbose = verbose
        self._width = min(shutil.get_terminal_size().columns, 160) if self._live else _WIDEST

    def begin(self, step: str) -> None:
        """A step begins."""
        self._pass_by(f"• {step} …")

    def line(self, text: str) -> None:
        """Something happened within the step."""
        for each in text.rstrip().splitlines():
            shown = f"    {each}"
            if len(shown) > self._width:
                shown = f"{shown[: self._width - 1]}…"
            if each.startswith("  ") and not self._verbose:
                self._pass_by(shown)
            else:
                self._keep(click.style(shown, dim=True) if self._live else shown)

    def end(self, step: str, message: str, seconds: float, *, failed: bool = False) -> None:
        """The step has ended."""
        mark = "✗" if failed else "✓"
        if self._live:
            mark = click.style(mark, fg="red" if failed else "green")
        note = "" if failed else message
        self._keep(f"{mark} {step:<8} {seconds:6.1f} s  {note}".rstrip())

    def _keep(self, text: str) -> None:
        click.echo(f"{_CLEAR_LINE}{text}" if self._live else text, file=self._stream)

    def _pass_by(self, text: str) -> None:
        if self._live:
            dim = click.style(text, dim=True)
            click.echo(f"{_CLEAR_LINE}{dim}", file=self._stream, nl=False)


@click.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--name", default="", help="The application's name; otherwise the directory's.")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), help="The port it listens on.")
@click.option(
    "--timeout", "timeout_s", default=180.0, show_default=True, help="Seconds the rollout may take."
)
@click.option("-v", "--verbose", is_flag=True, help="Show the output of every build step.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def ship(
    path: Path,
    name: str,
    namespace: str,
    port: int | None,
    timeout_s: float,
    verbose: bool,
    output: str,
) -> None:
    """Ship the application in the directory PATH.

    What it is is detected (Dockerfile, Python, Node, static site, Go); files it lacks are
    written and kept. The image is built, pushed and deployed; the rollout is awaited and the
    application asked over the network. A failing step undoes what was applied.

    \b
    underway ship .
    underway ship ./shop --name shop -n staging --port 8000
    underway ship . -o json | jq -r .url
    """
    home = Home.from_environment()
    root = path.resolve()
    application = application_name(name, root.name)
    ports = registry.Ports(registry.installed(), home)
    tools = Tools(
        client=_client(home),
        settings=home.load_settings(),
        fitter=ports.get("source-fitter"),
        builder=ports.get("image-builder"),
        clock=SystemClock(),
        scanner=ports.find("image-scanner"),
        signer=ports.find("image-signer"),
        recorder=ports.find("provenance-recorder"),
    )
    order = Order(root, application, namespace, port, timeout_s)
    shipment = Shipment(order, tools, Progress(to_stderr=output == "json", verbose=verbose))
    passage = asyncio.run(shipment.ship())
    status = passage.get("status") or {}
    if output == "json":
        url = status.get("url", "")
        _print_json({"url": url, "passage": passage})
        return
    click.echo(f"\n{application} is running: {status.get('url') or 'it has no Service'}")
    click.echo(f"passage/{name_of(passage)}  {status.get('image', {}).get('digest', '')}")


@click.command()
@click.argument("target")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def explain(target: str, namespace: str, output: str) -> None:
    """From a running pod back to image, build inputs and source commit.

    TARGET is pod/NAME, or deployment/NAME for its newest pod.

    \b
    underway explain pod/guestbook-7d9c5b8f9-x2x4q
    underway explain deployment/guestbook -n staging -o json
    """
    kind, _, name = target.rpartition("/")
    client = _client(Home.from_environment())
    if kind in ("pod", "pods", "po", "") and name:
        found = asyncio.run(explain_pod(client, namespace, name))
    elif kind in ("deployment", "deployments", "deploy") and name:
        found = asyncio.run(explain_deployment(client, namespace, name))
    else:
        raise BadRequest(
            f"{target}: only pods and deployments can be explained",
            hint="underway explain pod/NAME",
        )
    if output == "json":
        _print_json(found)
    else:
        _print_explanation(found)


def _client(home: Home) -> Client:
    if not home.kubeconfig.exists():
        raise ServiceUnavailable(
            f"there is no platform in {home.root}", hint="start it: underway up --detach"
        )
    return kubeconfig.load(home.kubeconfig)


def _print_json(value: Object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_explanation(found: Object) -> None:
    click.echo(f"pod        {found['pod']} ({found['phase']} on {found['node'] or 'no node'})")
    for owner in found["owners"]:
        click.echo(f"  owned by {owner}")
    for line in scheduling.lines(found["scheduling"]):
        click.echo(f"  {line}")
    for container in found["containers"]:
        click.echo(f"container  {container['name']} {container['containerID']}")
        click.echo(f"  image    {container['imageID'] or container['image']}")
    passage = found["passage"]
    if passage is None:
        click.echo("passage    none: this pod was not shipped with `underway ship`")
        return
    source, status = passage["spec"]["source"], passage.get("status") or {}
    image = status.get("image") or {}
    click.echo(f"passage    {name_of(passage)} ({status.get('phase', 'Unknown')})")
    verdict = "is the image that runs" if found["agrees"] else "IS NOT the image that runs"
    click.echo(f"built      {image.get('digest', '-')} ({verdict})")
    click.echo(f"  inputs   {image.get('inputsDigest', '-')}")
    for base in image.get("bases") or ():
        click.echo(f"  base     {base['reference']} {base['digest']} ({base['origin']})")
    for line in proofs.lines(image):
        click.echo(f"  {line}")
    click.echo(f"source     {source.get('path', '-')} {source['digest']}")
    commit = source.get("commit") or "none: not a git checkout"
    click.echo(f"  commit   {commit}{' (modified)' if source.get('modified') else ''}")
    if source.get("repository"):
        click.echo(f"  from     {source['repository']}")
    for step in status.get("steps") or ():
        click.echo(
            f"  {step['name']:<8} {step['state']} in {step['seconds']:.1f} s: {step['message']}"
        )
