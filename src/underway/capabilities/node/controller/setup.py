"""Putting the node agent together."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable

from underway.api.resources import PODS, RELEASE
from underway.base.errors import ServiceUnavailable
from underway.base.home import Home
from underway.base.ports import holder_of
from underway.base.threads import run_blocking
from underway.capabilities.node.backend import machine as this_machine
from underway.capabilities.node.backend.containers import Containers
from underway.capabilities.node.backend.kubelet_api import KubeletApi
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.backend.pulls import Pulls
from underway.capabilities.node.backend.sandboxes import Sandboxes
from underway.capabilities.node.backend.statistics import Statistics
from underway.capabilities.node.backend.volumes import Volumes
from underway.capabilities.node.controller.agent import Agent
from underway.capabilities.node.controller.material import Material
from underway.capabilities.node.controller.registration import Registration
from underway.capabilities.node.controller.services import Services
from underway.linux.cgroups import Cgroups
from underway.linux.hostports import HostPorts
from underway.linux.images import ImageStore
from underway.linux.layers import LayerStore
from underway.linux.network import PodNetwork
from underway.linux.oci_runtime import OciRuntime, find_runtime
from underway.reconcile.manager import Manager
from underway.transport import front, pki

VERSION = f"v{RELEASE}+underway"


def add(manager: Manager, home: Home) -> None:
    """Run the node agent of this machine with the manager.

    Raises:
        ServiceUnavailable: no OCI runtime is installed.
    """
    agent, api = build(manager, home)
    manager.add_runnable(agent.run, "node agent")
    manager.add_runnable(_serving(home, api), "kubelet API")


def build(manager: Manager, home: Home) -> tuple[Agent, KubeletApi]:
    """The agent and its API, not running yet."""
    settings = home.load_settings()
    layout, cgroups = Layout(home), Cgroups()
    binary = find_runtime(hybrid=cgroups.unified is None)
    if binary is None:
        raise ServiceUnavailable("no OCI runtime is installed", hint="apt-get install runc conmon")
    for directory in (layout.pods, layout.exits, layout.runtime, home.layers):
        directory.mkdir(parents=True, exist_ok=True)
    network = PodNetwork(home.id, settings.pod_cidr)
    address = this_machine.address(network.gateway)
    machine = this_machine.describe(settings.node_name, address, layout.root)
    layers = LayerStore(home.layers)
    store = ImageStore(home.layers / "images", layers)
    runtime = OciRuntime(binary, layout.runtime, layout.exits)
    pulls = Pulls(home, settings, store, platform.machine())
    containers = Containers(layout, runtime, cgroups, layers, manager.clock, machine.memory_bytes)
    services = Services(
        client=manager.client,
        clock=manager.clock,
        events=manager.events,
        machine=machine,
        containers=containers,
        sandboxes=Sandboxes(
            layout,
            network,
            HostPorts(home.id, network.bridge, holder_of),
            cgroups,
            node_name=settings.node_name,
            node_ip=address,
            domain=settings.cluster_domain,
        ),
        volumes=Volumes(layout),
        pulls=pulls,
        material=Material(manager, home.pki / "ca.crt"),
    )
    pods = manager.informer(PODS, fields=f"spec.nodeName={settings.node_name}")
    registration = Registration(
        manager.client,
        manager.clock,
        layout,
        machine,
        pulls,
        runtime_version=runtime.version(),
        version=VERSION,
        pod_cidr=settings.pod_cidr,
        port=settings.node_port,
        problem=lambda: agent.problem,
    )
    agent = Agent(services, layout, network, pods, registration)
    statistics = Statistics(cgroups, layout, manager.clock, settings.node_name)
    return agent, KubeletApi(agent, containers, statistics, layout, services.exits, manager.clock)


def _serving(home: Home, api: KubeletApi) -> Callable[[], Awaitable[None]]:
    settings = home.load_settings()

    async def serve() -> None:
        context = await run_blocking(
            pki.server_context,
            home.pki / "kubelet-server.crt",
            home.pki / "kubelet-server.key",
            home.pki / "ca.crt",
        )
        server = await front.serve(
            api.handle, host=settings.bind_address, port=settings.node_port, tls=context
        )
        async with server:
            await asyncio.Event().wait()

    return serve


__all__ = ["add", "build"]
