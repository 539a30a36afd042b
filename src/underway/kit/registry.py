"""Which capabilities are installed, in what order they start, and the ports they share."""

from __future__ import annotations

import graphlib
import importlib
import logging
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import Any

from underway.base.errors import InternalError, NotFound
from underway.base.home import Home
from underway.kit.capability import Capability, Error, Probe, Ready

_log = logging.getLogger(__name__)

GROUP = "underway.capabilities"


def load(target: str) -> Any:
    """The object a ``"module:attr"`` string names.

    Raises:
        InternalError: there is no such module or attribute.
    """
    module_name, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise InternalError(f"cannot load {target}: {error}") from error


def installed() -> list[Capability]:
    """Every installed capability, those others need first.

    Raises:
        InternalError: two have one name or provide one port, a port is required that nobody
            provides, or they need one another in a circle.
    """
    return in_order(entry.load() for entry in entry_points(group=GROUP))


def in_order(capabilities: Iterable[Capability]) -> list[Capability]:
    """Capabilities sorted so that providers stand before those who require them."""
    by_id: dict[str, Capability] = {}
    provider: dict[str, str] = {}
    for capability in capabilities:
        if capability.id in by_id:
            raise InternalError(f"two capabilities are called {capability.id}")
        by_id[capability.id] = capability
        for port in capability.provides:
            if port in provider:
                raise InternalError(
                    f"{provider[port]} and {capability.id} both provide the port {port}"
                )
            provider[port] = capability.id
    graph: dict[str, set[str]] = {}
    for name in sorted(by_id):
        needs = by_id[name].requires
        missing = [port for port in needs if port not in provider]
        if missing:
            raise InternalError(f"{name} requires the port {missing[0]}, which nobody provides")
        graph[name] = {provider[port] for port in needs}
    try:
        return [by_id[name] for name in graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as error:
        raise InternalError(f"capabilities need one another: {error.args[1]}") from error


def probe(capability: Capability) -> Probe:
    """Whether the capability can run on this machine."""
    if not capability.probe:
        return Ready()
    check: Callable[[], Probe] = load(capability.probe)
    try:
        return check()
    except Exception as error:  # noqa: BLE001  # a probe that breaks is itself a finding
        return Error(f"its probe failed: {error}")


def runnable() -> list[Capability]:
    """The installed capabilities that can run on this machine; the others are logged."""
    found = []
    for capability in installed():
        state = probe(capability)
        if isinstance(state, Ready):
            found.append(capability)
        else:
            _log.warning("%s is off: %s", capability.id, state.reason)
    return found


class Ports:
    """The ports of the installed capabilities, made when first asked for."""

    def __init__(self, capabilities: Iterable[Capability], home: Home) -> None:
        self._targets = {
            port: target for each in capabilities for port, target in each.provides.items()
        }
        self._home = home
        self._made: dict[str, Any] = {}

    def get(self, port: str) -> Any:
        """The provider of a port; its type is the Protocol of that name in ``kit.ports``.

        Raises:
            NotFound: no installed capability provides it.
        """
        if port not in self._made:
            if port not in self._targets:
                raise NotFound(f"no installed capability provides the port {port}")
            self._made[port] = load(self._targets[port])(self._home)
        return self._made[port]

    def find(self, port: str) -> Any | None:
        """The provider of a port, or None where no installed capability provides it."""
        return self.get(port) if port in self._targets else None
