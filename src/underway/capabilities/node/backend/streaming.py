"""exec, attach and port-forward: the streams of a container, joined to those of a client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from underway.base.threads import run_blocking
from underway.capabilities.node.backend import descriptors
from underway.capabilities.node.backend.containers import Containers
from underway.capabilities.node.backend.executions import Execution, execution
from underway.capabilities.node.model import ContainerRecord
from underway.linux import netns, oci_runtime
from underway.transport.bytestreams import SocketStream
from underway.transport.streams import CommandStreams, RunCommand

_DRAIN_S = 5.0  # for output of a command that has ended but left others behind that hold it
_Write = Callable[[bytes], Awaitable[None]]


def exec_command(
    containers: Containers, record: ContainerRecord, command: Sequence[str]
) -> RunCommand:
    """Run a command in a container over a client's streams; gives its exit code."""

    async def run(streams: CommandStreams) -> int:
        async with execution(
            containers, record, command, stdin=streams.stdin is not None, tty=streams.tty
        ) as running:
            return await _join(running, streams)

    return run


async def _join(running: Execution, streams: CommandStreams) -> int:
    async with asyncio.TaskGroup() as group:
        helpers = []
        if streams.stdin is not None:
            helpers.append(group.create_task(_feed(running, streams.stdin)))
        if streams.tty:
            helpers.append(group.create_task(_resize(streams, running.resize)))
        outputs = [group.create_task(_drain(running.stdout, streams.write_stdout))]
        if running.stderr >= 0:
            outputs.append(group.create_task(_drain(running.stderr, streams.write_stderr)))
        code = await running.wait()
        await asyncio.wait(outputs, timeout=_DRAIN_S)
        for task in (*helpers, *outputs):
            task.cancel()
    return code


async def _feed(running: Execution, stdin: AsyncIterator[bytes]) -> None:
    async for data in stdin:
        try:
            await descriptors.write(running.stdin, data)
        except ConnectionError:
            return  # the command reads no more; it may still write
    running.close_stdin()


async def _drain(descriptor: int, write: _Write) -> None:
    while data := await descriptors.read(descriptor):
        await write(data)


async def _resize(streams: CommandStreams, resize: Callable[[int, int], None]) -> None:
    async for columns, rows in streams.resizes:
        resize(columns, rows)


def attach(containers: Containers, record: ContainerRecord) -> RunCommand:
    """Join a client to a running container's own streams, until either ends."""

    async def run(streams: CommandStreams) -> int:
        bundle = containers.bundle(record)
        connection = await run_blocking(oci_runtime.attach, bundle)
        connection.setblocking(False)
        try:
            async with asyncio.TaskGroup() as group:
                helpers = []
                if streams.stdin is not None and record.stdin:
                    helpers.append(group.create_task(_type(connection, streams.stdin)))
                if streams.tty:
                    helpers.append(
                        group.create_task(
                            _resize(
                                streams,
                                lambda columns, rows: oci_runtime.resize(bundle, rows, columns),
                            )
                        )
                    )
                await _watch(connection, streams)
                for task in helpers:
                    task.cancel()
        finally:
            connection.close()
        return 0

    return run


async def _type(connection: socket.socket, stdin: AsyncIterator[bytes]) -> None:
    with contextlib.suppress(ConnectionError):
        async for data in stdin:
            await descriptors.write(connection.fileno(), data)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


async def _watch(connection: socket.socket, streams: CommandStreams) -> None:
    while packet := await descriptors.read(connection.fileno()):
        if packet[0] == oci_runtime.ATTACH_STDERR:
            await streams.write_stderr(packet[1:])
        else:
            await streams.write_stdout(packet[1:])


def dialer(namespace: str) -> Callable[[int], Awaitable[SocketStream]]:
    """Connects to ports on localhost inside a pod (empty: on the host's network)."""

    async def dial(port: int) -> SocketStream:
        path = Path(namespace) if namespace else None
        connected = await run_blocking(netns.connect_localhost, path, port)
        connected.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connected)
        return SocketStream(reader, writer)

    return dial
