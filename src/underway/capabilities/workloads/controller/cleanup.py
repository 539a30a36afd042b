"""Garbage collection and namespace deletion, which share one inventory of the cluster."""

from __future__ import annotations

from underway.base.home import Home
from underway.capabilities.workloads.controller.garbage import GarbageCollector
from underway.capabilities.workloads.controller.inventory import Inventory
from underway.capabilities.workloads.controller.namespace import Namespaces
from underway.reconcile import Manager


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Run both."""
    inventory = Inventory(manager)
    collector = GarbageCollector(manager, inventory)
    namespaces = Namespaces(manager, inventory)
    manager.add(namespaces.controller)
    manager.add_runnable(inventory.run, "inventory")
    manager.add_runnable(collector.run, "garbage collector")
