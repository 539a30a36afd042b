"""What all workers of a node share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from underway.base.clock import Clock
from underway.capabilities.node.backend.containers import Containers
from underway.capabilities.node.backend.exits import ExitWatch
from underway.capabilities.node.backend.pulls import Pulls
from underway.capabilities.node.backend.sandboxes import Sandboxes
from underway.capabilities.node.backend.volumes import Volumes
from underway.capabilities.node.controller.material import Material
from underway.capabilities.node.rules.fields import Machine
from underway.client import Client
from underway.reconcile.events import Recorder

PULLS_AT_ONCE = 3


@dataclass
class Services:
    """The cluster, the machine and the means to change it."""

    client: Client
    clock: Clock
    events: Recorder
    machine: Machine
    containers: Containers
    sandboxes: Sandboxes
    volumes: Volumes
    pulls: Pulls
    material: Material
    exits: ExitWatch = field(default_factory=ExitWatch)
    # Pulls take long: they must not take all threads.
    pulling: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PULLS_AT_ONCE))
