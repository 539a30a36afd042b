"""An operator as a program: connect, elect, serve metrics and probes, run until told to end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import Callable
from pathlib import Path

import uvloop

from underway.base.clock import Clock, SystemClock
from underway.base.errors import NotFound
from underway.client import Client, kubeconfig
from underway.reconcile.manager import Manager
from underway.transport import pki
from underway.transport.client import HttpTransport
from underway.wire.http import Request, Response

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_TTL_S = 60.0  # the kubelet renews the token's file; it is read again this often

Setup = Callable[[Manager], None]
"""Adds controllers, webhooks and runnables to a manager."""


class InCluster:
    """A handler for a program in a pod, which acts as the pod's service account.

    Raises:
        NotFound: this is no pod, or it has no token of its service account.
    """

    def __init__(self, clock: Clock, account: Path = ACCOUNT) -> None:
        host = os.environ.get("KUBERNETES_SERVICE_HOST")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host or not (account / "token").exists():
            raise NotFound("this program does not run in a pod with a service account")
        self._clock = clock
        self._token_file = account / "token"
        self._token = ""
        self._read_at = -TOKEN_TTL_S
        name = f"[{host}]" if ":" in host else host
        tls = pki.client_context(account / "ca.crt")
        self._transport = HttpTransport(f"https://{name}:{port}", tls=tls)

    async def __call__(self, request: Request) -> Response:
        """Send a request with the token as it is now."""
        now = self._clock.monotonic()
        if now - self._read_at >= TOKEN_TTL_S or not self._token:
            self._token = self._token_file.read_text(encoding="ascii").strip()
            self._read_at = now
        headers = {**request.headers, "authorization": f"Bearer {self._token}"}
        return await self._transport(
            Request(request.method, request.path, request.query, headers, request.body)
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()


def connect(clock: Clock | None = None, *, user_agent: str = "underway") -> Client:
    """A client for the pod's own cluster, or else for the one ``KUBECONFIG`` names.

    Raises:
        NotFound: there is neither.
    """
    try:
        return Client(InCluster(clock or SystemClock()), user_agent=user_agent)
    except NotFound:
        path = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
        return kubeconfig.load(path)


def run_operator(
    name: str,
    setup: Setup,
    *,
    port: int = 8080,
    host: str = "0.0.0.0",  # noqa: S104  # the kubelet and Prometheus come from elsewhere
    leader_election: bool | None = None,
) -> None:
    """Run an operator until SIGTERM or SIGINT.

    Args:
        name: of the operator; its Lease is called so.
        setup: adds what it does.
        port: TCP port of ``/metrics``, ``/healthz`` and ``/readyz``; 0 picks a free one.
        host: address of that port.
        leader_election: whether several replicas elect one; by default, in a pod they do.

    Raises:
        LeaderLost: the lease could not be renewed; the program should be started again.
        NotFound: no cluster is known.
    """
    uvloop.run(_run(name, setup, port, host, leader_election))


async def _run(name: str, setup: Setup, port: int, host: str, leader_election: bool | None) -> None:
    client = connect(user_agent=name)
    manager = Manager(client, component=name)
    setup(manager)
    manager.serve(host=host, port=port)
    namespace = _own_namespace()
    if leader_election if leader_election is not None else bool(namespace):
        identity = f"{socket.gethostname()}_{uuid.uuid4()}"
        manager.lead(namespace=namespace or "default", name=name, identity=identity)
    try:
        await _until_signal(manager)
    finally:
        await client.aclose()


async def _until_signal(manager: Manager) -> None:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, asked.set)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(manager.run())
        stop = group.create_task(asked.wait())
        await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        stop.cancel()


def _own_namespace() -> str:
    try:
        return (ACCOUNT / "namespace").read_text(encoding="ascii").strip()
    except OSError:
        return os.environ.get("POD_NAMESPACE", "")
