"""Expensive expressions are evaluated in a process of their own, so that nobody else waits.

The library holds the interpreter's lock while it evaluates: a thread would not help. What looks at
objects is synchronous, so an expensive evaluation raises ``Postponed``; ``Evaluations.run``, which
stands where waiting is possible, has it evaluated and does the work again with the result known.
A process that takes too long is killed: then the expression has no value.

The process is started when first needed and ends with the server, whose end of the pipe it reads.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from underway.api.cel.program import Outcome, Postponed, postponing
from underway.server.versions import converted

T = TypeVar("T")
_TIME_LIMIT_S = 5.0
_LENGTH_BYTES = 4
_TOO_LONG = Outcome(error="operation cancelled: actual cost limit exceeded", exhausted=True)


class Evaluations:
    """Runs work that evaluates expressions. Closed by ``aclose``."""

    def __init__(self, *, time_limit_s: float = _TIME_LIMIT_S) -> None:
        self._time_limit_s = time_limit_s
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` gives; it may be done several times, each time from the start.

        Raises:
            Whatever ``work`` raises.
        """
        with postponing() as known:
            while True:
                try:
                    return await converted(work)
                except Postponed as postponed:
                    known[postponed.payload] = await self._evaluated(postponed.payload)

    async def aclose(self) -> None:
        """End the process."""
        async with self._turn:
            await self._end()

    async def _evaluated(self, payload: bytes) -> Outcome:
        async with self._turn:
            try:
                async with asyncio.timeout(self._time_limit_s):
                    return await self._ask(payload)
            except (TimeoutError, OSError, asyncio.IncompleteReadError):
                await self._end()
                return _TOO_LONG
            except asyncio.CancelledError:
                await self._end()  # its answer would be taken for that of the next question
                raise

    async def _ask(self, payload: bytes) -> Outcome:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "underway.server.evaluator", stdin=PIPE, stdout=PIPE
            )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)
        await process.stdin.drain()
        size = int.from_bytes(await process.stdout.readexactly(_LENGTH_BYTES), "big")
        answer: Any = msgspec.msgpack.decode(await process.stdout.readexactly(size))
        return Outcome(**answer)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
