"""Replication: policies, and following them now."""

from __future__ import annotations

from typing import Any

import click

from underway.base.errors import NotFound
from underway.capabilities.registry.cli.output import columns, output_option, registry_hub, show


@click.group()
def replication() -> None:
    """List, show, start and stop the copying of artifacts to and from other registries.

    Policies are made by Replication objects or Harbor's API.

    \b
    Examples:
      underway registry replication list
      underway registry replication start nightly
    """


@replication.command("list")
@output_option
def list_policies(output: str) -> None:
    """List the policies."""
    hub = registry_hub()
    from underway.capabilities.registry.backend.replication import POLICIES

    rows = [_row(hub, each) for each in POLICIES.where(hub.database)]
    table = [(row["name"], row["direction"], row["registry"], row["trigger"], row["lastStatus"])
             for row in rows]  # fmt: skip
    show(rows, output, columns(table), empty="No replication policies.")


@replication.command("show")
@click.argument("name")
@output_option
def show_policy(name: str, output: str) -> None:
    """Show the policy NAME and its last executions."""
    hub = registry_hub()
    from underway.capabilities.registry.backend import jobs

    found = _policy(hub, name)
    where = "vendor_type = ? AND vendor_id = ?"
    runs = jobs.EXECUTIONS.where(hub.database, where, jobs.REPLICATION, found["id"])[-10:]
    value = {**_row(hub, found), "filters": found["policy"].get("filters") or []}
    value["executions"] = [
        {"id": run["id"], "status": run["status"], "trigger": run["trigger"],
         "startTime": run["start_time"], "endTime": run["end_time"],
         "message": run["status_message"]}
        for run in reversed(runs)
    ]  # fmt: skip
    lines = [f"{field}: {value[field]}" for field in ("name", "direction", "registry", "trigger")]
    table = [(f"  {run['id']}", run["status"], run["startTime"], run["message"])
             for run in value["executions"]]  # fmt: skip
    show(value, output, [*lines, "executions:", *columns(table)])


@replication.command("start")
@click.argument("name")
@output_option
def start(name: str, output: str) -> None:
    """Follow the policy NAME now; the running platform does the copying."""
    hub = registry_hub()
    id = hub.replication.start(_policy(hub, name)["id"])
    show({"execution": id}, output, [f"Started the execution {id} of {name}."])


@replication.command("stop")
@click.argument("execution", type=int)
def stop(execution: int) -> None:
    """Stop an EXECUTION by its number."""
    from underway.capabilities.registry.backend import jobs

    hub = registry_hub()
    hub.jobs.execution(execution, jobs.REPLICATION)
    hub.jobs.stop(execution)
    click.echo(f"Stopped the execution {execution}.")


def _policy(hub: Any, name: str) -> dict[str, Any]:
    from underway.capabilities.registry.backend.replication import POLICIES

    found = POLICIES.find(hub.database, "name = ?", name)
    if found is None:
        raise NotFound(f"there is no replication policy {name}")
    return found


def _row(hub: Any, policy: dict[str, Any]) -> dict[str, Any]:
    from underway.capabilities.registry.backend.remote import REGISTRIES

    remote = REGISTRIES.find(hub.database, "id = ?", policy["registry_id"])
    last = hub.database.one(
        "SELECT status FROM executions WHERE vendor_type = 'REPLICATION' AND vendor_id = ? "
        "ORDER BY id DESC LIMIT 1",
        policy["id"],
    )
    return {
        "name": policy["name"],
        "direction": "pull" if policy["pull"] else "push",
        "registry": remote["name"] if remote else "",
        "trigger": (policy["policy"].get("trigger") or {}).get("type", "manual"),
        "enabled": policy["enabled"],
        "lastStatus": last["status"] if last else "never",
    }
