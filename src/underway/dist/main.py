"""The command line's root: the platform's own commands, and those of every capability.

Commands are loaded when they are called, so that ``--help`` stays quick however many there are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from underway import __version__
from underway.base.errors import UnderwayError
from underway.kit import registry

OWN_COMMANDS: Mapping[str, str] = {
    "api": "underway.dist.commands.api:api",
    "capability": "underway.dist.commands.capability:capability",
    "console": "underway.dist.commands.console:console",
    "doctor": "underway.dist.commands.doctor:doctor",
    "down": "underway.dist.commands.lifecycle:down",
    "kubeconfig": "underway.dist.commands.status:kubeconfig",
    "reset": "underway.dist.commands.lifecycle:reset",
    "snapshot": "underway.dist.commands.snapshot:snapshot",
    "status": "underway.dist.commands.status:status",
    "up": "underway.dist.commands.lifecycle:up",
}

SUMMARIES: Mapping[str, str] = {
    "api": "Decode and encode stored objects, and compare APIs.",
    "capability": "List what this installation can do.",
    "console": "Open the web console, logged in.",
    "doctor": "Say what this machine has and lacks, and how to mend it.",
    "down": "Stop the platform.",
    "kubeconfig": "Print the administrator's kubeconfig.",
    "reset": "Stop the platform and delete its state.",
    "snapshot": "Save the whole cluster, and bring it back to that point in time.",
    "status": "Show the platform's endpoints and components.",
    "up": "Start the platform.",
}


class LazyGroup(click.Group):
    """A group whose commands are named in manifests and loaded when they are needed."""

    def _targets(self) -> dict[str, str]:
        targets = dict(OWN_COMMANDS)
        for capability in registry.installed():
            targets.update(capability.commands)
        return targets

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name, sorted."""
        return sorted(self._targets())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, loaded now."""
        target = OWN_COMMANDS.get(cmd_name) or self._targets().get(cmd_name)
        if target is None:
            return None
        command: click.Command = registry.load(target)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their summaries, without loading any."""
        rows = dict(SUMMARIES)
        for capability in registry.installed():
            for name in capability.commands:
                rows[name] = capability.command_summaries.get(name, capability.summary)
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of ours become one clear message and exit code 1."""
        try:
            return super().invoke(ctx)
        except UnderwayError as error:
            click.echo(f"error: {error.message}", err=True)
            for cause in error.causes:
                click.echo(f"  {cause.field}: {cause.message}", err=True)
            if error.hint:
                click.echo(f"hint: {error.hint}", err=True)
            ctx.exit(1)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="State lives under UNDERWAY_HOME (default /var/lib/underway).",
)
@click.version_option(__version__, prog_name="underway")
def main() -> None:
    """From source code to production on Kubernetes, on one machine.

    \b
    underway up --detach          start the platform
    underway ship .               ship the application in this directory
    underway explain pod/NAME     from a running pod back to its source
    """


if __name__ == "__main__":
    sys.exit(main())
