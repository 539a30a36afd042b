"""Exec and port-forward driven by the official Python client (WebSocket, v4).

It runs in a process of its own, since it leaves sockets to the garbage collector.
"""

import asyncio
import json
import sys

import pytest

from underway.transport.bytestreams import dial
from underway.transport.front import serve
from underway.transport.streams import port_forward, remote_command
from underway.wire.http import Request, Response

pytest.importorskip("kubernetes")

pytestmark = pytest.mark.peer

PRELUDE = """
import json, sys, threading
from kubernetes import client
from kubernetes.stream import portforward, stream
url, *rest = sys.argv[1:]
core = client.CoreV1Api(client.ApiClient(client.Configuration(host=url)))
"""

EXEC = """
session = stream(
    core.connect_get_namespaced_pod_exec, "web", "default", command=["x"],
    stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False,
)
session.write_stdin("hello ")
session.write_stdin("quit")
session.run_forever(timeout=20)
print(json.dumps([session.read_stdout(), session.read_stderr(), session.returncode]))
"""

FORWARD = """
service, closed = map(int, rest)
session = portforward(
    core.connect_get_namespaced_pod_portforward, "web", "default", ports=f"{service},{closed}"
)
socket = session.socket(service)
socket.settimeout(20)
payload = bytes(range(256)) * 1200
threading.Thread(target=socket.sendall, args=(payload,)).start()
received = b""
while len(received) < len(payload):
    received += socket.recv(65536)
print(json.dumps([received == payload, session.error(closed)]))
"""


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


async def drive(script, *arguments):
    async with await serve(handler) as server:
        url = f"http://127.0.0.1:{server.port}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PRELUDE + script, url, *map(str, arguments)),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), 60)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return json.loads(out)


def test_the_python_client_runs_a_command():
    assert asyncio.run(drive(EXEC)) == ["hello quit", "ready\n", 3]


def test_the_python_client_forwards_ports():
    async def mirror(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main():
        service = await asyncio.start_server(mirror, "127.0.0.1", 0)
        async with service:
            return await drive(FORWARD, service.sockets[0].getsockname()[1], 1)

    intact, error = asyncio.run(main())
    assert intact
    assert "error forwarding port 1" in error
