"""Exec, port-forward and logs, driven by real kubectl through an API front and a node front.

The two handlers here answer just the calls kubectl makes for these commands; a local process
stands for the container.
"""

import asyncio
import fcntl
import functools
import hashlib
import os
import pty
import struct
import termios
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import uvloop
from tests import peers

from underway.base.errors import NotFound
from underway.base.home import Home, Settings
from underway.client import kubeconfig
from underway.transport import bytestreams, pki
from underway.transport.bytestreams import dial
from underway.transport.front import serve
from underway.transport.streams import port_forward, remote_command
from underway.transport.tunnel import tunnel
from underway.wire.http import Response, json_response

pytestmark = pytest.mark.peer

BIG = 10 * 1024 * 1024
WAYS = [
    pytest.param(version, websockets, id=f"{version}-{'websocket' if websockets else 'spdy'}")
    for version in ("37", "32")
    for websockets in (True, False)
]

POD = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": "web", "namespace": "default", "uid": "1"},
    "spec": {"containers": [{"name": "main", "image": "x"}]},
    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
}
DISCOVERY = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod"}
            | {"verbs": ["get", "list"]},
        ],
    },
    "/api/v1/namespaces/default/pods/web": POD,
}


def sha256(data):
    return len(data), hashlib.sha256(data).hexdigest()


async def api_server(request, node_port, node_tls):
    prefix = "/api/v1/namespaces/default/pods/web/"
    if request.path.startswith(prefix):
        path = "/" + request.path.removeprefix(prefix)
        return await tunnel(request, "127.0.0.1", node_port, node_tls, path, request.query)
    if request.path in DISCOVERY:
        return json_response(DISCOVERY[request.path])
    raise NotFound(f"no {request.path}")


async def node(request):
    assert request.peer.common_name == "kube-apiserver-kubelet-client"
    if request.path == "/exec":
        command = request.param_lists()["command"]

        async def run(streams):
            return await (run_tty if streams.tty else run_piped)(command, streams)

        return remote_command(request, run)
    if request.path == "/portforward":
        return port_forward(request, lambda port: dial("127.0.0.1", port))
    if request.path == "/log":
        return Response(headers={"content-type": "text/plain"}, body=log_lines())
    raise NotFound(f"no {request.path}")


async def log_lines():
    for n in range(1000):
        yield b"line %d\n" % n


async def run_piped(command, streams):
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    async def feed():
        if streams.stdin is not None:
            with suppress(ConnectionError):
                async for data in streams.stdin:
                    if process.stdin.is_closing():
                        return
                    process.stdin.write(data)
                    await process.stdin.drain()
        process.stdin.close()

    async def drain(reader, write):
        while data := await reader.read(65536):
            await write(data)

    try:
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(feed())
            outputs = [
                group.create_task(drain(process.stdout, streams.write_stdout)),
                group.create_task(drain(process.stderr, streams.write_stderr)),
            ]
            await asyncio.wait(outputs)
            feeding.cancel()
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run_tty(command, streams):
    main, side = pty.openpty()
    width, height = await anext(streams.resizes)
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=side, stdout=side, stderr=side, start_new_session=True
    )
    os.close(side)
    loop = asyncio.get_running_loop()
    try:
        while True:
            try:
                data = await loop.run_in_executor(None, os.read, main, 65536)
            except OSError:
                return await process.wait()
            await streams.write_stdout(data)
    finally:
        os.close(main)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    pki.ensure_pki(home, Settings())
    return home


@asynccontextmanager
async def cluster(home):
    files = home.pki
    ca = files / "ca.crt"
    node_tls = pki.server_context(files / "kubelet-server.crt", files / "kubelet-server.key", ca)
    client = files / "apiserver-kubelet-client.crt", files / "apiserver-kubelet-client.key"
    to_node = pki.client_context(ca, *client)
    api_tls = pki.server_context(files / "apiserver.crt", files / "apiserver.key", ca)
    async with await serve(node, tls=node_tls) as agent:

        async def api(request):
            return await api_server(request, agent.port, to_node)

        async with await serve(api, tls=api_tls) as server:
            kubeconfig.write(
                home.kubeconfig,
                server=f"https://127.0.0.1:{server.port}",
                ca_pem=ca.read_bytes(),
                cert_pem=(files / "admin.crt").read_bytes(),
                key_pem=(files / "admin.key").read_bytes(),
                name="underway",
            )
            yield server


async def start_kubectl(home, way, *arguments, stdin=asyncio.subprocess.DEVNULL, program=None):
    version, websockets = way
    flag = "true" if websockets else "false"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home.root),
        "KUBECONFIG": str(home.kubeconfig),
        "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": flag,
        "KUBECTL_PORT_FORWARD_WEBSOCKETS": flag,
    }
    return await asyncio.create_subprocess_exec(
        program or str(peers.kubectl(version)),
        *arguments,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )


async def kubectl(home, way, *arguments, stdin=asyncio.subprocess.DEVNULL):
    process = await start_kubectl(home, way, *arguments, stdin=stdin)
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out, err.decode()


@pytest.mark.parametrize(("version", "websockets"), WAYS)
def test_exec_returns_output_errors_and_the_exit_code(home, version, websockets):
    way = version, websockets

    async def main():
        async with cluster(home):
            script = "echo out; echo err >&2; exit 3"
            code, out, err = await kubectl(home, way, "exec", "web", "--", "sh", "-c", script)
            assert (code, out) == (3, b"out\n"), err
            assert err.startswith("err\n")
            assert "exit code 3" in err
            assert await kubectl(home, way, "exec", "web", "--", "true") == (0, b"", "")

    uvloop.run(main())


@pytest.mark.parametrize(("version", "websockets"), WAYS)
def test_large_input_and_output_arrive_intact(home, version, websockets, tmp_path):
    way = version, websockets
    payload = os.urandom(BIG)
    (tmp_path / "payload").write_bytes(payload)

    async def main():
        execute = functools.partial(kubectl, home, way, "exec", "-i", "web", "--")
        async with cluster(home):
            with (tmp_path / "payload").open("rb") as stdin:
                code, out, err = await execute("cat", stdin=stdin)
            assert code == 0, err
            assert sha256(out) == sha256(payload)
            # The process ends without reading what is still being sent.
            with (tmp_path / "payload").open("rb") as stdin:
                code, out, err = await execute("head", "-c", "5", stdin=stdin)
            assert (code, out) == (0, payload[:5]), err

    uvloop.run(main())


@pytest.mark.parametrize(("version", "websockets"), WAYS)
def test_exec_with_a_terminal_gets_its_size(home, version, websockets):
    way = version, websockets

    async def main():
        async with cluster(home):
            command = f"stty rows 33 cols 77; {peers.kubectl(version)} exec -it web -- stty size"
            process = await start_kubectl(home, way, "-qec", command, "/dev/null", program="script")
            out, _ = await asyncio.wait_for(process.communicate(), 60)
            assert process.returncode == 0, out
            assert out.strip().endswith(b"33 77"), out

    uvloop.run(main())


@pytest.mark.parametrize(("version", "websockets"), WAYS)
def test_a_kubectl_that_is_killed_takes_its_command_with_it(home, version, websockets, monkeypatch):
    way = version, websockets
    monkeypatch.setattr(bytestreams, "HEARTBEAT_S", 0.5)

    async def main():
        async with cluster(home):
            # The command reads none of its endless input, so that the whole line is blocked.
            script = "echo $$; exec sleep 300"
            arguments = "exec", "-i", "web", "--", "sh", "-c", script
            with Path("/dev/zero").open("rb") as stdin:  # noqa: ASYNC230  # not a disk
                process = await start_kubectl(home, way, *arguments, stdin=stdin)
            pid = int(await asyncio.wait_for(process.stdout.readline(), 30))
            process.kill()
            await process.communicate()
            async with asyncio.timeout(20):
                while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110, ASYNC240  # no event tells
                    await asyncio.sleep(0.05)

    uvloop.run(main())


@asynccontextmanager
async def forwarded(home, way, port):
    process = await start_kubectl(home, way, "port-forward", "pod/web", f":{port}")
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        assert line.startswith("Forwarding from 127.0.0.1:"), (
            line + (await process.stderr.read()).decode()
        )
        yield int(line.split(" -> ")[0].rsplit(":", 1)[1]), process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@pytest.mark.parametrize(("version", "websockets"), WAYS)
def test_forwarded_connections_are_concurrent_whole_and_half_closed(home, version, websockets):
    way = version, websockets
    payload = os.urandom(BIG)

    async def answer_after_eof(reader, writer):
        received = await reader.read()
        writer.write(b"%d:" % len(received) + received)
        await writer.drain()
        writer.close()

    async def send(port, data):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer

    async def main():
        service = await asyncio.start_server(answer_after_eof, "127.0.0.1", 0)
        service_port = service.sockets[0].getsockname()[1]
        async with cluster(home), service, forwarded(home, way, service_port) as (port, _):
            _, waiting = await asyncio.open_connection("127.0.0.1", port)
            waiting.write(b"held open")
            async with asyncio.TaskGroup() as group:
                large = group.create_task(send(port, payload))
                small = group.create_task(send(port, b"abc"))
            assert small.result() == b"3:abc"
            assert sha256(large.result()) == sha256(b"%d:" % BIG + payload)
            waiting.close()

    uvloop.run(main())


@pytest.mark.parametrize(("version", "websockets"), WAYS)
def test_a_port_nobody_listens_on_is_reported(home, version, websockets):
    way = version, websockets

    async def main():
        async with cluster(home), forwarded(home, way, 1) as (port, process):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()
            async with asyncio.timeout(30):
                while "error forwarding port 1" not in (
                    line := (await process.stderr.readline()).decode()
                ):
                    assert line

    uvloop.run(main())


@pytest.mark.parametrize("version", ["37", "32"])
def test_logs_are_streamed(home, version):
    async def main():
        async with cluster(home):
            code, out, err = await kubectl(home, (version, True), "logs", "web")
            assert code == 0, err
            assert out == b"".join([line async for line in log_lines()])

    uvloop.run(main())
