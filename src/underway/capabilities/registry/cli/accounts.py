"""Projects, robots, and logging in."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from underway.base.clock import SystemClock
from underway.base.errors import Conflict, NotFound
from underway.capabilities.registry.backend.credentials import auth_entry, write_login
from underway.capabilities.registry.backend.projects import Projects
from underway.capabilities.registry.backend.storage import Storage
from underway.capabilities.registry.cli.output import (
    columns,
    output_option,
    registry_home,
    show,
)
from underway.capabilities.registry.model import Project, Robot
from underway.capabilities.registry.rules import access
from underway.transport.registry import credentials


@click.group()
def project() -> None:
    """List, create and delete projects: repositories with the same first part of their name."""


@project.command("list")
@output_option
def list_projects(output: str) -> None:
    """List projects, those too that exist only because something was pushed."""
    home = registry_home()
    projects = Projects(home.registry)
    pushed = [access.project_of(name) for name in Storage(home.registry).repositories()]
    names = sorted({*projects.names(), *pushed})
    found = [projects.find(name) or Project(name) for name in names]
    rows = [
        {
            "name": each.name,
            "public": each.public,
            "sparse": each.sparse,
            "robots": len(each.robots),
            "repositories": pushed.count(each.name),
        }
        for each in found
    ]
    table = [
        (
            each.name,
            "public" if each.public else "private",
            f"{pushed.count(each.name)} repositories",
            f"{len(each.robots)} robots",
        )
        for each in found
    ]
    show(rows, output, columns(table), empty="No projects.")


@project.command("create")
@click.argument("name")
@click.option("--public", is_flag=True, help="Everybody may pull from it.")
@click.option("--sparse", is_flag=True, help="Take manifests that name content it does not have.")
def create_project(name: str, *, public: bool, sparse: bool) -> None:
    """Create the project NAME, so that it can have robots."""
    Projects(registry_home().registry).create(name, public=public, sparse=sparse)
    click.echo(f"Created the project {name}.")


@project.command("delete")
@click.argument("name")
def delete_project(name: str) -> None:
    """Delete the project NAME and its robots. It must not have repositories."""
    home = registry_home()
    projects = Projects(home.registry)
    projects.get(name)
    if left := Storage(home.registry).repositories(name):
        raise Conflict(
            f"the project {name} has {len(left)} repositories",
            hint=f"underway registry repo delete {left[0]}",
        )
    projects.delete(name)
    click.echo(f"Deleted the project {name}.")


@click.group()
def robot() -> None:
    """List, create and delete robots: accounts of programs, each for one project."""


@robot.command("list")
@click.argument("project_name", metavar="[PROJECT]", required=False)
@output_option
def list_robots(project_name: str | None, output: str) -> None:
    """List the robots of a PROJECT, or of all."""
    projects = Projects(registry_home().registry)
    found = [projects.get(each) for each in ([project_name] if project_name else projects.names())]
    rows = [_robot_row(each.name, robot) for each in found for robot in each.robots]
    table = [
        (row["username"], ",".join(row["permissions"]), row["expiresAt"] or "never expires")
        for row in rows
    ]
    show(rows, output, columns(table), empty="No robots.")


@robot.command("create")
@click.argument("project_name", metavar="PROJECT")
@click.argument("name")
@click.option(
    "--allow",
    "permissions",
    multiple=True,
    type=click.Choice(access.PERMISSIONS),
    default=["pull"],
    show_default=True,
    help="Can be repeated; push includes pull.",
)
@click.option("--expires-days", type=click.IntRange(1, 36500), help="Valid for so many days.")
@output_option
def create_robot(
    project_name: str,
    name: str,
    permissions: tuple[str, ...],
    expires_days: int | None,
    output: str,
) -> None:
    """Create the robot NAME in a PROJECT, and show its secret this once."""
    now = SystemClock().now()
    until = (now + timedelta(days=expires_days)).isoformat() if expires_days else ""
    projects = Projects(registry_home().registry)
    made, secret = projects.add_robot(project_name, name, permissions, now, until)
    row = {**_robot_row(project_name, made), "secret": secret}
    lines = [f"username: {row['username']}", f"secret: {secret}"]
    show(row, output, [*lines, "The secret is not kept: store it now."])


@robot.command("delete")
@click.argument("project_name", metavar="PROJECT")
@click.argument("name")
def delete_robot(project_name: str, name: str) -> None:
    """Delete the robot NAME of a PROJECT; it can do nothing from now on."""
    Projects(registry_home().registry).remove_robot(project_name, name)
    click.echo(f"Deleted the robot {access.robot_username(project_name, name)}.")


@click.command("login")
@click.option("--print", "print_only", is_flag=True, help="Write no file: show the credentials.")
@click.option("--username", help="Another account than the administrator's, such as a robot's.")
@click.option("--password-stdin", is_flag=True, help="Read that account's secret from stdin.")
@click.option(
    "--authfile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="[default: the one podman, buildah and skopeo read]",
)
@output_option
def login(
    *,
    print_only: bool,
    username: str | None,
    password_stdin: bool,
    authfile: Path | None,
    output: str,
) -> None:
    """Let podman, buildah, skopeo, oras and docker use the registry.

    The credentials go into the file that these clients read, beside those of other registries.
    """
    if bool(username) != password_stdin:
        raise click.UsageError("--username and --password-stdin go together")
    home = registry_home()
    settings = home.load_settings()
    host = f"{settings.bind_address}:{settings.registry_port}"
    if username:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        username, password = credentials(home.registry_auth, host)
        if not username:
            raise NotFound(f"{home.registry_auth} has no credentials for {host}")
    if print_only:
        entry = {"auths": {host: auth_entry(username, password)}}
        show(entry, output, [f"registry: {host}", f"username: {username}", f"password: {password}"])
        return
    file = authfile or _default_authfile()
    write_login(file, host, username, password)
    told: dict[str, Any] = {"registry": host, "username": username, "authfile": str(file)}
    ca = home.pki / "ca.crt"
    lines = [
        f"{username} is logged in to {host}, by {file}.",
        f"The registry's certificate is signed by {ca}: copy it to /etc/containers/certs.d/{host}/",
    ]
    show({**told, "caFile": str(ca)}, output, lines)


def _default_authfile() -> Path:
    """Where containers-auth.json(5) says that clients look first."""
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        return Path(named)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "containers" / "auth.json"
    return Path(f"/run/containers/{os.getuid()}/auth.json")


def _robot_row(project_name: str, found: Robot) -> dict[str, Any]:
    return {
        "username": access.robot_username(project_name, found.name),
        "permissions": list(found.permissions),
        "createdAt": found.created_at,
        "expiresAt": found.expires_at,
    }
