"""Running commands inside containers and making the requests of probes and hooks."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence

import httpx

from underway.api.objects import Object
from underway.base.errors import NotFound, ServiceUnavailable, UnderwayError
from underway.capabilities.node.backend import descriptors
from underway.capabilities.node.backend.containers import Containers
from underway.capabilities.node.backend.executions import execution
from underway.capabilities.node.model import ContainerRecord
from underway.capabilities.node.rules.probing import port_number

DRAIN_S = 1.0  # for output of a command that has ended but left others behind that hold it
OUTPUT_BYTES_MAX = 10 * 1024
_HTTP_OK = range(200, 400)


async def run(
    containers: Containers, record: ContainerRecord, command: Sequence[str], timeout_s: float | None
) -> tuple[int, str]:
    """Run a command in a container: its exit code and the beginning of its output.

    Raises:
        TimeoutError: it did not end in time; it was killed.
        NotFound: the container does not run.
    """
    async with asyncio.timeout(timeout_s):
        async with execution(containers, record, command, merge=True) as running:
            kept = b""
            async with asyncio.TaskGroup() as group:

                async def drain() -> None:
                    nonlocal kept
                    while data := await descriptors.read(running.stdout):
                        kept = (kept + data)[:OUTPUT_BYTES_MAX]

                reader = group.create_task(drain())
                code = await running.wait()
                await asyncio.wait([reader], timeout=DRAIN_S)
                reader.cancel()
            return code, kept.decode("utf-8", "replace")


async def http_get(action: Object, container: Object, pod_ip: str, timeout_s: float) -> None:
    """Make the request of an ``httpGet`` action.

    Raises:
        UnderwayError: no answer, or one that is not 200 to 399; the message says which.
    """
    scheme = (action.get("scheme") or "HTTP").lower()
    host, port = action.get("host") or pod_ip, port_number(action.get("port"), container)
    url = f"{scheme}://{host}:{port}/{(action.get('path') or '/').lstrip('/')}"
    headers = {h["name"]: h["value"] for h in action.get("httpHeaders") or ()}
    headers.setdefault("User-Agent", "kube-probe/underway")
    headers.setdefault("Accept", "*/*")
    verify: ssl.SSLContext | bool = False
    if scheme == "https":
        # A probe asks whether the server answers, not who it is.
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        verify.check_hostname = False
        verify.verify_mode = ssl.CERT_NONE
    try:
        async with (
            httpx.AsyncClient(verify=verify, timeout=timeout_s, trust_env=False) as client,
            client.stream("GET", url, headers=headers, follow_redirects=False) as answer,
        ):
            code = answer.status_code
    except httpx.TimeoutException as error:
        raise ServiceUnavailable(f'Get "{url}": no answer within {timeout_s:g} s') from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServiceUnavailable(f'Get "{url}": {error}') from error
    if code not in _HTTP_OK:
        raise ServiceUnavailable(f"HTTP probe failed with statuscode: {code}")


async def tcp_connect(action: Object, container: Object, pod_ip: str, timeout_s: float) -> None:
    """Open and close a TCP connection.

    Raises:
        ServiceUnavailable: it cannot be opened in time.
    """
    host, port = action.get("host") or pod_ip, port_number(action.get("port"), container)
    try:
        async with asyncio.timeout(timeout_s):
            _reader, writer = await asyncio.open_connection(host, port)
    except TimeoutError as error:
        raise ServiceUnavailable(f"dial tcp {host}:{port}: i/o timeout") from error
    except OSError as error:
        raise ServiceUnavailable(f"dial tcp {host}:{port}: {_system_word(error)}") from error
    writer.close()


def _system_word(error: OSError) -> str:
    # asyncio words its own messages; the system's say more.
    return os.strerror(error.errno).lower() if error.errno else str(error)


async def attempt(
    containers: Containers,
    record: ContainerRecord,
    container: Object,
    handler: Object,
    pod_ip: str,
    timeout_s: float,
) -> str:
    """Carry out a probe's or hook's action once; empty on success, else what went wrong."""
    try:
        if action := handler.get("exec"):
            code, output = await run(containers, record, action.get("command") or [], timeout_s)
            return "" if code == 0 else (output.strip() or f"exit code {code}")
        if action := handler.get("httpGet"):
            await http_get(action, container, pod_ip, timeout_s)
        elif action := handler.get("tcpSocket"):
            await tcp_connect(action, container, pod_ip, timeout_s)
        elif action := handler.get("grpc"):
            return "grpc probes are not supported on this node"
        return ""
    except TimeoutError:
        return f"command timed out after {timeout_s:g}s"
    except NotFound as error:
        return error.message
    except UnderwayError as error:
        return error.message
