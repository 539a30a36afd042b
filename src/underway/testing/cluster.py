"""``Cluster``: a whole Kubernetes control plane in a thread of the test's own process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import uvloop

from underway.api.objects import Object, name_of
from underway.base.clock import Clock
from underway.base.errors import InternalError, ServiceUnavailable
from underway.base.home import Home, Settings
from underway.client import Client, kubeconfig
from underway.dist import assembly
from underway.kit import Capability, registry
from underway.reconcile.manager import Manager
from underway.reconcile.testenv import Environment
from underway.server.discovery import version_info
from underway.testing.client import ClusterClient, Manifest, objects_of
from underway.testing.clock import MovableClock
from underway.testing.node import SimulatedNode
from underway.transport import pki
from underway.wire.http import Request, Response

T = TypeVar("T")

Factory = Callable[[Manager, Home], None]
"""Adds controllers to a manager, as a capability's manifest names them."""

_START_S = 60.0
_STOP_S = 30.0
_MASTERS = ("system:masters",)


class Cluster:
    """A cluster that lives as long as its ``with`` block (or ``async with`` block).

    It is a real API server with TLS on a free port of the loopback interface, so every client of
    Kubernetes can use it; no root, no containers, nothing shared with another cluster.

    Args:
        nodes: how many simulated nodes (see ``SimulatedNode``) there are; 0 for none.
        capabilities: ids of installed capabilities whose controllers run; empty for the API alone.
        controllers: further controllers, made with ``underway.reconcile``.
        crds: CustomResourceDefinitions that are served from the start.
        clock: the time in the cluster; by default the machine's, which ``advance`` puts forward.

    Attributes:
        url: of the API server.
        kubeconfig: file of the administrator's kubeconfig.
        ca_file: certificate of the authority behind ``url``, in PEM.
        home: the state directory; it is removed at the end.
        client: blocking calls.
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        capabilities: Iterable[str] = ("workloads", "scheduler", "storage"),
        controllers: Iterable[Factory] = (),
        crds: Iterable[Manifest] = (),
        clock: Clock | None = None,
    ) -> None:
        self._node_count = nodes
        self._capabilities = tuple(capabilities)
        self._factories = tuple(controllers)
        self._crds = [obj for manifest in crds for obj in objects_of(manifest)]
        self.clock: Clock = clock or MovableClock()
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="underway cluster", daemon=True)
        self._nodes: list[SimulatedNode] = []
        self._failure: BaseException | None = None

    # -- life ------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._root = Path(tempfile.mkdtemp(prefix="underway-test-"))
        self.home = Home(self._root / "home")
        try:
            self._thread.start()
            self._started.result(_START_S)
        except BaseException:
            shutil.rmtree(self._root, ignore_errors=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_STOP_S)
            if self._thread.is_alive():
                raise InternalError(f"the test cluster did not end within {_STOP_S:g} s")
        finally:
            shutil.rmtree(self._root, ignore_errors=True)
        if self._failure is not None and error is None:
            raise self._failure

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    # -- use -------------------------------------------------------------------------------

    def call(self, awaitable: Awaitable[T], timeout_s: float = 60.0) -> T:
        """Run an awaitable on the cluster's event loop and wait for its result."""

        async def run() -> T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout_s)

    def advance(self, delay_s: float) -> None:
        """Put the cluster's clock forward; what was due by then happens now.

        Raises:
            TypeError: the clock given to the cluster cannot be moved.
        """
        advance = getattr(self.clock, "advance", None)
        if advance is None:
            raise TypeError(f"a {type(self.clock).__name__} cannot be put forward")

        async def move() -> None:
            async with contextlib.AsyncExitStack() as stack:
                for node in self._nodes:
                    await stack.enter_async_context(node.silent(delay_s))
                await advance(delay_s)

        self.call(move())

    # -- the cluster's own thread ----------------------------------------------------------

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # raised again in the test's thread
            self._failure = error
            if not self._started.done():
                self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        settings = Settings(api_port=0)
        # Certificates are for clients, whose time is the machine's, not the test's.
        pki.ensure_pki(self.home, settings)
        async with assembly.control_plane(
            self.home, settings, self._chosen(), connector=_no_containers, clock=self.clock
        ) as plane:
            for crd in self._crds:
                await assembly.install_crd(plane.client, crd)
            manager = plane.manager.acting(_administrator(plane))
            for factory in self._factories:
                factory(manager, self.home)
            self._tell(plane)
            version = version_info()["gitVersion"]
            nodes = [SimulatedNode(manager, n, version) for n in range(self._node_count)]
            async with asyncio.TaskGroup() as group:
                running = group.create_task(plane.manager.run())
                for node in nodes:
                    await node.register()
                self._nodes = nodes
                self._started.set_result(None)
                await self._stopping.wait()
                running.cancel()

    def _chosen(self) -> list[Capability]:
        by_id = {capability.id: capability for capability in registry.installed()}
        missing = [name for name in self._capabilities if name not in by_id]
        if missing:
            raise InternalError(
                f"no capability {missing[0]} is installed", hint=f"there are {', '.join(by_id)}"
            )
        return [by_id[name] for name in self._capabilities]

    def _tell(self, plane: assembly.ControlPlane) -> None:
        self.url = f"https://127.0.0.1:{plane.port}"
        self.kubeconfig = self.home.kubeconfig
        self.ca_file = self.home.pki / "ca.crt"
        kubeconfig.write(
            self.kubeconfig,
            server=self.url,
            ca_pem=self.ca_file.read_bytes(),
            cert_pem=(self.home.pki / "admin.crt").read_bytes(),
            key_pem=(self.home.pki / "admin.key").read_bytes(),
            name="underway-test",
        )
        environment = Environment(plane.server.as_user("kubernetes-admin", _MASTERS), self.clock)
        self.client = ClusterClient(environment, plane.server.catalog, self.call)


def _administrator(plane: assembly.ControlPlane) -> Client:
    return Client(plane.server.as_user("kubernetes-admin", _MASTERS))


async def _no_containers(node: Object, _request: Request) -> Response:
    raise ServiceUnavailable(
        f"{name_of(node)} is simulated: no container runs there, so there is nothing to connect to"
    )
