"""What the commands print alike."""

from __future__ import annotations

from typing import Any

import click
import msgspec

FORMAT = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True
)


def print_json(value: Any) -> None:
    """A value as JSON for programs."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
