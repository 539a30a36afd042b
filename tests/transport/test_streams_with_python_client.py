"""Exec and port-forward driven by the official Python client (WebSocket, v4)."""

import asyncio
import os
import threading

import pytest

from underway.base.threads import run_blocking
from underway.transport.bytestreams import dial
from underway.transport.front import serve
from underway.transport.streams import port_forward, remote_command
from underway.wire.http import Request, Response

kubernetes = pytest.importorskip("kubernetes")
stream_module = pytest.importorskip("kubernetes.stream")

pytestmark = pytest.mark.peer


async def echo(streams):
    await streams.write_stderr(b"ready\n")
    received = b""
    async for data in streams.stdin:
        received += data
        if b"quit" in received:
            await streams.write_stdout(received)
            return 3
    return 0


async def handler(request: Request) -> Response:
    if request.path.endswith("/exec"):
        return remote_command(request, echo)
    return port_forward(request, lambda port: dial("127.0.0.1", port))


def core(port):
    configuration = kubernetes.client.Configuration(host=f"http://127.0.0.1:{port}")
    return kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))


def test_the_python_client_runs_a_command():
    def drive(port):
        session = stream_module.stream(
            core(port).connect_get_namespaced_pod_exec,
            *("web", "default"),
            command=["x"],
            stdin=True,
            stdout=True,
            stderr=True,
            tty=False,
            _preload_content=False,
        )
        session.write_stdin("hello ")
        session.write_stdin("quit")
        session.run_forever(timeout=20)
        result = session.read_stdout(), session.read_stderr(), session.returncode
        session.close()
        return result

    async def main():
        async with await serve(handler) as server:
            return await run_blocking(drive, server.port)

    assert asyncio.run(main()) == ("hello quit", "ready\n", 3)


def test_the_python_client_forwards_ports():
    payload = os.urandom(300_000)

    async def mirror(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    def drive(port, service, closed):
        session = stream_module.portforward(
            core(port).connect_get_namespaced_pod_portforward,
            *("web", "default"),
            ports=f"{service},{closed}",
        )
        socket = session.socket(service)
        socket.settimeout(20)
        sender = threading.Thread(target=socket.sendall, args=(payload,))
        sender.start()
        received = b""
        while len(received) < len(payload):
            received += socket.recv(65536)
        sender.join()
        error = session.error(closed)
        session.websocket.sock.close()  # the client leaves it to the garbage collector
        session.close()
        return received, error

    async def main():
        service = await asyncio.start_server(mirror, "127.0.0.1", 0)
        service_port = service.sockets[0].getsockname()[1]
        async with service, await serve(handler) as server:
            return await run_blocking(drive, server.port, service_port, 1)

    received, error = asyncio.run(main())
    assert received == payload
    assert "error forwarding port 1" in error
