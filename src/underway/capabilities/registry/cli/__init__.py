"""``underway registry``: what the built-in registry holds, and who may use it."""

from __future__ import annotations

import click

from underway.capabilities.registry.cli import accounts, images, replication


@click.group()
def registry() -> None:
    """Look at the built-in registry, say who may use it, and free what is unused."""


for _command in (
    images.list_images,
    images.collect_garbage,
    images.repo,
    images.tag,
    images.artifact,
    accounts.project,
    accounts.robot,
    accounts.login,
    replication.replication,
):
    registry.add_command(_command)
