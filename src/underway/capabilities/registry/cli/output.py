"""Opening the registry's files, and writing what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from underway.base.errors import NotFound
from underway.base.home import Home

if TYPE_CHECKING:
    from underway.capabilities.registry.backend.hub import Hub

F = TypeVar("F", bound=Callable[..., Any])


def output_option(command: F) -> F:
    """``-o text`` or ``-o json``."""
    kinds = click.Choice(["text", "json"])
    return click.option("-o", "--output", type=kinds, default="text", show_default=True)(command)


def registry_home() -> Home:
    """The home of a registry that was started once; raises NotFound."""
    home = Home.from_environment()
    if not home.registry.is_dir():
        raise NotFound(
            f"there is no registry at {home.registry}",
            hint="start the platform once with `underway up`, or set UNDERWAY_HOME",
        )
    return home


def registry_hub() -> Hub:
    """The registry of the home, opened beside the running one."""
    from underway.capabilities.registry.backend.hub import Hub

    return Hub(registry_home())


def show(value: Any, output: str, lines: Sequence[str], *, empty: str = "") -> None:
    """Write ``value`` as JSON, or else ``lines``; without lines, ``empty`` as a remark."""
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    elif lines:
        click.echo("\n".join(lines))
    else:
        click.echo(empty, err=True)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text with their columns aligned."""
    if not rows:
        return []
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def readable(size_bytes: int) -> str:
    """A size for people."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
