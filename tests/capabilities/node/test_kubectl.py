"""The real kubectl through the API server and the node agent's TLS port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
from collections.abc import AsyncIterator

import httpx
import pytest
from tests import peers

from underway.api.objects import Object
from underway.base.home import Home
from underway.transport import front, pki
from underway.transport.tunnel import tunnel
from underway.wire.http import Request, Response

from .conftest import Node, condition, pod_of, running_node, shell

pytestmark = [pytest.mark.privileged, pytest.mark.peer]

SERVE = "echo line1; echo line2; echo line3; trap 'exit 0' TERM; httpd -p 127.0.0.1:8080 -h /www; while true; do sleep 0.1; done"


class Kubectl:
    def __init__(self, home: Home, port: int) -> None:
        self._base = [
            str(peers.kubectl()),
            f"--server=https://127.0.0.1:{port}",
            f"--certificate-authority={home.pki / 'ca.crt'}",
            f"--client-certificate={home.pki / 'admin.crt'}",
            f"--client-key={home.pki / 'admin.key'}",
        ]
        self._environment = {**os.environ, "KUBECONFIG": "/dev/null", "HOME": str(home.root)}

    async def start(self, *args: str, **options: object) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._base,
            *args,
            env=self._environment,
            **{"stdin": asyncio.subprocess.DEVNULL, **options},  # type: ignore[arg-type]
        )

    async def __call__(self, *args: str, stdin: bytes | None = None) -> tuple[int, str, str]:
        pipe = asyncio.subprocess.PIPE
        options: dict[str, object] = {"stdout": pipe, "stderr": pipe}
        if stdin is not None:
            options["stdin"] = pipe
        process = await self.start(*args, **options)
        async with asyncio.timeout(40):
            out, err = await process.communicate(stdin)
        return process.returncode or 0, out.decode(), err.decode()


@contextlib.asynccontextmanager
async def cluster(home: Home) -> AsyncIterator[tuple[Node, Kubectl]]:
    port = 0
    client = pki.client_context(
        home.pki / "ca.crt",
        home.pki / "apiserver-kubelet-client.crt",
        home.pki / "apiserver-kubelet-client.key",
    )

    async def connect(_node: Object, request: Request) -> Response:
        return await tunnel(request, "127.0.0.1", port, client, request.path, request.query)

    def context(name: str):  # type: ignore[no-untyped-def]
        files = home.pki / f"{name}.crt", home.pki / f"{name}.key", home.pki / "ca.crt"
        return pki.server_context(*files)

    async with running_node(home, connect) as node:
        kubelet = await front.serve(node.api.handle, tls=context("kubelet-server"))
        port = kubelet.port
        async with kubelet, await front.serve(node.server.handle, tls=context("apiserver")) as api:
            await node.create(pod_of("a", shell("c", SERVE, stdin=True)))
            await node.until("a", lambda pod: condition(pod, "Ready") == "True")
            yield node, Kubectl(home, api.port)


def test_logs_are_shown_followed_and_cut(home: Home) -> None:
    async def main() -> None:
        async with cluster(home) as (node, kubectl):
            process = await kubectl.start("logs", "-f", "a", stdout=asyncio.subprocess.PIPE)
            assert process.stdout
            lines = [await process.stdout.readline() for _ in range(3)]
            assert lines == [b"line1\n", b"line2\n", b"line3\n"]
            assert (await kubectl("logs", "a", "--tail=1"))[1] == "line3\n"
            assert (await kubectl("logs", "a", "--limit-bytes=8"))[1] == "line1\nli"
            shown = (await kubectl("logs", "a", "--timestamps", "--since=1h"))[1].splitlines()
            assert len(shown) == 3
            assert shown[0].startswith("20")
            assert shown[0].endswith(" line1")
            code, _, err = await kubectl("logs", "a", "--previous")
            assert code == 1
            assert "previous terminated container" in err
            await node.delete("a")
            async with asyncio.timeout(20):
                assert await process.wait() == 0

    asyncio.run(main())


def test_exec_gives_streams_exit_code_and_user(home: Home) -> None:
    async def main() -> None:
        async with cluster(home) as (_node, kubectl):
            code, out, err = await kubectl(
                "exec", "a", "--", "sh", "-c", "echo o; echo e >&2; exit 7"
            )
            assert (code, out) == (7, "o\n")
            assert err.startswith("e\n")
            code, out, _ = await kubectl("exec", "-i", "a", "--", "wc", "-c", stdin=b"x" * 300_000)
            assert (code, out.strip()) == (0, "300000")
            code, out, _ = await kubectl(
                "exec", "a", "--", "sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' y"
            )
            assert (code, len(out)) == (0, 1_000_000)
            code, _, err = await kubectl("exec", "a", "--", "nothing-there")
            assert code != 0
            assert "nothing-there" in err

    asyncio.run(main())


def test_exec_with_a_terminal_has_a_size_and_an_echo(home: Home) -> None:
    async def main() -> None:
        async with cluster(home) as (_node, kubectl):
            ours, theirs = pty.openpty()
            import fcntl
            import struct
            import termios

            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
            process = await kubectl.start(
                "exec", "-it", "a", "--", "sh", stdin=theirs, stdout=theirs, stderr=theirs
            )
            os.close(theirs)
            seen = b""
            loop = asyncio.get_running_loop()
            os.write(ours, b"sleep 0.3; stty size; echo $((40+2))\nexit 5\n")
            async with asyncio.timeout(30):
                while True:
                    try:
                        data = await loop.run_in_executor(None, os.read, ours, 4096)
                    except OSError:
                        break
                    if not data:
                        break
                    seen += data
                assert await process.wait() == 5
            os.close(ours)
            assert b"33 77" in seen, seen
            assert b"42" in seen

    asyncio.run(main())


def test_port_forward_reaches_localhost_inside_the_pod(home: Home) -> None:
    async def main() -> None:
        async with cluster(home) as (_node, kubectl):
            process = await kubectl.start(
                "port-forward", "a", ":8080", stdout=asyncio.subprocess.PIPE
            )
            try:
                assert process.stdout
                line = (await process.stdout.readline()).decode()
                port = int(line.split(" -> ")[0].rpartition(":")[2])
                async with httpx.AsyncClient(trust_env=False) as client:
                    for _ in range(3):
                        answer = await client.get(f"http://127.0.0.1:{port}/index.html")
                        assert answer.text == "hello from the pod\n"
            finally:
                process.terminate()
                await process.wait()

    asyncio.run(main())


def test_attach_joins_the_containers_own_streams(home: Home) -> None:
    async def main() -> None:
        async with cluster(home) as (node, kubectl):
            echo = shell("c", "while read line; do echo got $line; done; echo end", stdin=True)
            await node.create(pod_of("b", {**echo, "stdinOnce": True}, restartPolicy="Never"))
            await node.until_phase("b", "Running")
            code, out, _ = await kubectl("attach", "-i", "b", stdin=b"one\ntwo\n")
            assert code == 0
            assert "got one\ngot two\n" in out
            await node.until_phase("b", "Succeeded")

    asyncio.run(main())


def test_only_the_api_server_may_ask(home: Home) -> None:
    async def main() -> None:
        async with cluster(home) as (node, _kubectl):
            nobody = await node.api.handle(Request("GET", "/pods"))
            assert nobody.status == 401
            from underway.wire.http import Peer

            other = Peer("127.0.0.1", "system:node:x", ("system:nodes",))
            assert (await node.api.handle(Request("GET", "/pods", peer=other))).status == 403
            assert (await (await node.get("/healthz")).read()) == b"ok"
            summary = await node.get("/stats/summary")
            usage = summary.json()["pods"][0]["containers"][0]["memory"]["usageBytes"]
            assert usage > 0

    asyncio.run(main())
