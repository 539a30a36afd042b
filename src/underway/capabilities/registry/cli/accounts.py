"""Projects, robots, and logging in."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from underway.base.errors import Conflict, NotFound
from underway.capabilities.registry.backend.credentials import auth_entry, write_login
from underway.capabilities.registry.backend.projects import MEMBERS
from underway.capabilities.registry.cli.output import (
    columns,
    output_option,
    readable,
    registry_home,
    registry_hub,
    show,
)
from underway.capabilities.registry.model import Robot
from underway.capabilities.registry.rules import access, roles, times
from underway.transport.registry import credentials


@click.group()
def project() -> None:
    """List, create and delete projects: repositories with the same first part of their name."""


@project.command("list")
@output_option
def list_projects(output: str) -> None:
    """List projects, those too that exist only because something was pushed."""
    hub = registry_hub()
    pushed = [access.project_of(name) for name in hub.storage.repositories()]
    found = [hub.projects.row(name) for name in hub.projects.names()]
    rows = [
        {
            "name": each["name"],
            "public": each["public"],
            "sparse": each["sparse"],
            "robots": len(hub.robots.of_project(each["name"])),
            "repositories": pushed.count(each["name"]),
            "usedBytes": each["used_bytes"],
            "quotaBytes": each["quota_bytes"],
        }
        for each in found
    ]
    table = [
        (
            row["name"],
            "public" if row["public"] else "private",
            f"{row['repositories']} repositories",
            f"{row['robots']} robots",
            readable(row["usedBytes"]),
        )
        for row in rows
    ]
    show(rows, output, columns(table), empty="No projects.")


@project.command("create")
@click.argument("name")
@click.option("--public", is_flag=True, help="Everybody may pull from it.")
@click.option("--sparse", is_flag=True, help="Take manifests that name content it does not have.")
def create_project(name: str, *, public: bool, sparse: bool) -> None:
    """Create the project NAME, so that it can have robots."""
    registry_hub().projects.create(name, public=public, sparse=sparse)
    click.echo(f"Created the project {name}.")


@project.command("show")
@click.argument("name")
@output_option
def show_project(name: str, output: str) -> None:
    """Show the project NAME, its members and robots."""
    hub = registry_hub()
    row = hub.projects.row(name)
    members = MEMBERS.where(hub.database, "project_id = ?", row["id"])
    value = {
        "name": name,
        "public": row["public"],
        "sparse": row["sparse"],
        "owner": row["owner_name"],
        "usedBytes": row["used_bytes"],
        "quotaBytes": row["quota_bytes"],
        "members": [
            {"name": each["entity_name"], "role": roles.ROLES[each["role_id"]]} for each in members
        ],
        "robots": [_robot_row(each) for each in hub.robots.of_project(name)],
    }
    limit = "no limit" if row["quota_bytes"] < 0 else f"of {readable(row['quota_bytes'])}"
    lines = [
        f"{name}  {'public' if row['public'] else 'private'}  owner {row['owner_name']}",
        f"storage: {readable(row['used_bytes'])}, {limit}",
        *(f"member: {each['name']}  {each['role']}" for each in value["members"]),
        *(f"robot: {each['username']}" for each in value["robots"]),
    ]
    show(value, output, lines)


@project.command("update")
@click.argument("name")
@click.option("--public/--private", default=None, help="Whether everybody may pull from it.")
@click.option("--quota-bytes", type=click.IntRange(-1), help="What it may hold; -1: any number.")
def update_project(name: str, *, public: bool | None, quota_bytes: int | None) -> None:
    """Change the project NAME.

    \b
    Example:
      underway registry project update team --public --quota-bytes 10737418240
    """
    hub = registry_hub()
    wanted = {"public": public, "quota_bytes": quota_bytes}
    values = {field: value for field, value in wanted.items() if value is not None}
    if not values:
        raise click.UsageError("nothing to change: give --public, --private or --quota-bytes")
    hub.projects.update(hub.projects.get(name).id, values)
    click.echo(f"Changed the project {name}.")


@project.command("delete")
@click.argument("name")
def delete_project(name: str) -> None:
    """Delete the project NAME and its robots. It must not have repositories."""
    hub = registry_hub()
    hub.projects.get(name)
    if left := hub.storage.repositories(name):
        raise Conflict(
            f"the project {name} has {len(left)} repositories",
            hint=f"underway registry repo delete {left[0]}",
        )
    hub.projects.delete(name)
    click.echo(f"Deleted the project {name}.")


@click.group()
def robot() -> None:
    """List, create and delete robots: accounts of programs, each for one project."""


@robot.command("list")
@click.argument("project_name", metavar="[PROJECT]", required=False)
@output_option
def list_robots(project_name: str | None, output: str) -> None:
    """List the robots of a PROJECT, or of all."""
    hub = registry_hub()
    if project_name:
        hub.projects.get(project_name)
    names = [project_name] if project_name else ["", *hub.projects.names()]
    rows = [_robot_row(each) for name in names for each in hub.robots.of_project(name)]
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
    hub = registry_hub()
    allowed = roles.image_permission(project_name, access.permissions_of(permissions))
    _, secret = hub.robots.create(
        name, [allowed], project=project_name, duration_days=expires_days or -1, creator="admin"
    )
    made = hub.robots.find(project_name, name)
    assert made is not None
    row = {**_robot_row(made), "secret": secret}
    lines = [f"username: {row['username']}", f"secret: {secret}"]
    show(row, output, [*lines, "The secret is not kept: store it now."])


@robot.command("delete")
@click.argument("project_name", metavar="PROJECT")
@click.argument("name")
def delete_robot(project_name: str, name: str) -> None:
    """Delete the robot NAME of a PROJECT; it can do nothing from now on."""
    registry_hub().robots.delete(project_name, name)
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


def _robot_row(found: Robot) -> dict[str, Any]:
    rights = {right for each in found.permissions
              for right in roles.robot_rights([each], found.project or each.namespace)}  # fmt: skip
    actions = roles.image_actions(frozenset(rights))
    return {
        "username": access.robot_username(found.project, found.name),
        "permissions": [each for each in access.PERMISSIONS if each in actions],
        "createdAt": found.created_at,
        "expiresAt": times.of_s(found.expires_s) if found.expires_s >= 0 else "",
    }
