"""``underway scan``: images, directories and SBOMs; and the advisories behind it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from underway.base.clock import SystemClock, rfc3339
from underway.base.errors import BadRequest
from underway.base.home import Home

if TYPE_CHECKING:
    from underway.capabilities.scan.backend.scanner import Scanner, Subject
    from underway.capabilities.scan.model import Report

_FORMATS = ("table", "json", "sarif", "cyclonedx", "spdx")
_DEFAULT = "image"


class _Group(click.Group):
    """``scan NAME`` is ``scan image NAME``."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, _DEFAULT)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = [_DEFAULT, *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        if first.startswith("-") and first not in ("--help", "-h"):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Group)
def scan() -> None:
    """Find known vulnerabilities in an image, a directory or an SBOM.

    \b
    underway scan redis:7
    underway scan 127.0.0.1:5000/default/shop:1 -o json | jq '.matches[].id'
    underway scan ./rootfs
    underway scan --sbom bom.json --fail-on High
    underway scan db import advisories.zip
    """


@scan.command(name=_DEFAULT, hidden=True)
@click.argument("target", default="")
@click.option(
    "--sbom", "sbom_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Match what this CycloneDX or SPDX document lists.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Choice(_FORMATS), default="table", show_default=True)
@click.option(
    "--fail-on", type=click.Choice(["Low", "Medium", "High", "Critical"]),
    help="End with 1 where something is at least as severe, with 2 where the scan is not complete.",
)  # fmt: skip
@click.option("--max-age", "max_age_days", type=float, help="Days advisories may be old.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of what is being done.")
@click.pass_context
def image(
    context: click.Context,
    target: str,
    sbom_file: Path | None,
    output: str,
    fail_on: str | None,
    max_age_days: float | None,
    quiet: bool,
) -> None:
    """Scan TARGET: an image name, oci:DIR[:TAG], oci-archive:FILE, or a directory."""
    from underway.capabilities.scan.backend.scanner import MAX_AGE_DAYS

    scanner = _scanner()
    subject = _subject(scanner, target, sbom_file, quiet)
    report = scanner.match(subject, MAX_AGE_DAYS if max_age_days is None else max_age_days)
    _show(report, output)
    if fail_on:
        context.exit(_verdict(report, fail_on))


def _scanner() -> Scanner:
    from underway.capabilities.scan.backend.scanner import Scanner

    return Scanner(Home.from_environment())


def _subject(scanner: Scanner, target: str, sbom_file: Path | None, quiet: bool) -> Subject:
    if sbom_file is not None:
        return scanner.read_sbom(sbom_file)
    if not target:
        raise BadRequest("what shall be scanned?", hint="underway scan IMAGE, DIR or --sbom FILE")
    if Path(target).is_dir():
        return scanner.index_directory(Path(target))
    tell = (lambda _: None) if quiet else (lambda text: click.echo(text, err=True))
    return scanner.index_image(target, tell)


def _show(report: Report, output: str) -> None:
    from underway.capabilities.scan.rules import reports, sbom

    when = rfc3339(SystemClock().now())
    if output == "table":
        click.echo("\n".join(reports.as_lines(report)))
    elif output == "json":
        _print_json(reports.as_json(report))
    elif output == "sarif":
        _print_json(reports.as_sarif(report))
    elif output == "cyclonedx":
        _print_json(sbom.cyclonedx(report.inventory, report.name, report.digest, when))
    else:
        _print_json(sbom.spdx(report.inventory, report.name, report.digest, when))


def _verdict(report: Report, fail_on: str) -> int:
    from underway.capabilities.scan.model import SEVERITIES

    limit = SEVERITIES.index(fail_on)
    if any(SEVERITIES.index(each.advisory.severity) >= limit for each in report.matches):
        return 1
    return 0 if report.status == "complete" else 2


@scan.group()
def db() -> None:
    """The advisories that images are matched with."""


@db.command(name="import")
@click.argument("place")
@click.option("--name", default="", help="The source's name; otherwise the place's last part.")
def import_(place: str, name: str) -> None:
    """Import PLACE, a file, directory, archive or address, as one source of advisories.

    OSV (JSON, YAML), Alpine's secdb, Debian's tracker, CSAF and the changelogs of Debian packages
    are read. What the source had before is replaced in one step.

    \b
    underway scan db import go-vulndb.zip
    underway scan db import /usr/share/doc --name debian-changelogs
    """
    from underway.capabilities.scan.backend.importing import import_from

    advisories = _scanner().advisories
    tell = lambda text: click.echo(text, err=True)  # noqa: E731  # one line of progress
    count, changed = import_from(place, name, advisories, SystemClock(), tell)
    click.echo(f"{count} advisories, {len(changed)} of them new or changed")
    _notify(changed)


@db.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def status(output: str) -> None:
    """List the sources with their age."""
    sources = _scanner().advisories.sources()
    if output == "json":
        _print_json({"sources": sources})
        return
    if not sources:
        click.echo("no advisories yet; underway scan db import FILE|DIR|ZIP|URL")
    for each in sources:
        newest = each.newest or "unknown"
        click.echo(f"{each.name}: {each.count} advisories, the youngest of {newest},"
                   f" imported {each.imported_at}")  # fmt: skip


@db.command()
def update() -> None:
    """Import again every source that came from an address."""
    from underway.capabilities.scan.backend.importing import import_from

    advisories = _scanner().advisories
    places = [each for each in advisories.sources() if each.place.startswith(("http:", "https:"))]
    for each in places:
        count, changed = import_from(
            each.place, each.name, advisories, SystemClock(), lambda _: None
        )
        click.echo(f"{each.name}: {count} advisories, {len(changed)} of them new or changed")
        _notify(changed)
    if not places:
        click.echo("no source came from an address")


def _notify(changed: list[str]) -> None:
    from underway.capabilities.scan.backend.notifier import notify

    id_, count = notify(Home.from_environment(), _scanner(), changed)
    if id_:
        click.echo(f"{count} new findings in images indexed before: notification {id_}")


@scan.command()
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 3650))
def token(days: int) -> None:
    """Print a token for the scanner's HTTP service (Clair's API, Harbor's scanner API)."""
    from underway.capabilities.scan.backend import tokens

    secret = tokens.key(Home.from_environment())
    click.echo(tokens.issue(secret, SystemClock().now(), days * 86_400))


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
