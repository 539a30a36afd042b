"""ImageBuilds: each generation is built once, by a process of its own.

A build that dies with the control plane is begun anew; one whose object is deleted or changed is
ended. Builds run as the platform does, with its rights in the registry: who may create ImageBuilds
may push there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from underway.api.objects import Object, name_of, namespace_of
from underway.api.resources import CONFIGMAPS
from underway.base.clock import rfc3339
from underway.base.errors import BadRequest, NotFound, UnderwayError
from underway.base.home import Home
from underway.base.threads import run_blocking
from underway.capabilities.build.backend import rooms
from underway.capabilities.build.rules import imagebuilds as rules
from underway.capabilities.build.rules.imagebuilds import IMAGEBUILDS
from underway.reconcile import (
    NORMAL,
    WARNING,
    Controller,
    Done,
    Manager,
    Request,
    Result,
    write_status,
)

COMPONENT = "image-build-controller"
BUILDS_AT_ONCE = 2
LINE_BYTES_MAX = 1 << 20
_BUILD = "from underway.capabilities.build.cli import build; build()"
_LOOK_S = 1.0
_END_S = 20.0


class ImageBuilds:
    """The reconciler."""

    def __init__(self, manager: Manager, home: Home) -> None:
        self._manager, self._home = manager, home
        self._client = manager.client
        self._builds = manager.informer(IMAGEBUILDS)

    async def reconcile(self, request: Request) -> Result:
        """Build what was not built yet, and say what came of it."""
        found = self._builds.get(request.key)
        if found is None or rules.is_finished(found):
            return Done()
        found = await write_status(
            self._client, IMAGEBUILDS, found, rules.running(found, self._now())
        )
        log: deque[str] = deque(maxlen=rules.LOG_LINES)
        try:
            digest, message = await self._build(found, log), ""
        except UnderwayError as error:
            digest, message = "", error.message
        if digest is None:
            return Done()  # the object is gone, or asks for something else by now
        status = rules.finished(found, digest, message, list(log), self._now())
        await write_status(self._client, IMAGEBUILDS, found, status)
        kind, reason = (NORMAL, "Built") if digest else (WARNING, "BuildFailed")
        self._manager.events.event(found, kind, reason, digest or message, component=COMPONENT)
        return Done()

    async def _build(self, found: Object, log: deque[str]) -> str | None:
        spec = found["spec"]
        folder = Path(await run_blocking(tempfile.mkdtemp, prefix="underway-imagebuild-"))
        try:
            context = await self._context(found, folder)
            metadata = folder / "metadata.json"
            argv = rules.arguments(spec, str(context), str(metadata))
            limit_s = float(spec.get("timeoutSeconds") or 3600)
            code = await self._run(found, argv, log, limit_s)
            if code is None:
                return None
            if code:
                raise BadRequest(next((line for line in log if line.startswith("error")), log[-1]))
            content: dict[str, Any] = msgspec.json.decode(await run_blocking(metadata.read_bytes))
            return str(content["containerimage.digest"])
        finally:
            await run_blocking(shutil.rmtree, folder, ignore_errors=True)

    async def _context(self, found: Object, folder: Path) -> Path:
        spec, context = found["spec"], folder / "context"
        source = spec["source"]
        if "git" in source:
            from underway.capabilities.build.backend import contexts

            wanted = contexts.git_source(rules.git_url(spec))
            await run_blocking(contexts.check_out, wanted, context)
            return await run_blocking(contexts.directory, context, wanted.folder)
        if "artifact" in source:
            return await run_blocking(self._artifact, source["artifact"]["reference"], context)
        name = source["configMap"]["name"]
        try:
            files = await self._client.get(CONFIGMAPS, name, namespace_of(found))
        except NotFound as error:
            raise BadRequest(f"spec.source.configMap: there is no ConfigMap {name}") from error
        await run_blocking(_write, context, files)
        return context

    def _artifact(self, reference: str, context: Path) -> Path:
        from underway.capabilities.build.backend.builder import Builder
        from underway.capabilities.build.backend.contexts_remote import unpack_artifact

        context.mkdir()
        unpack_artifact(reference, context, Builder(self._home).registry_of)
        return context

    async def _run(
        self, found: Object, argv: list[str], log: deque[str], limit_s: float
    ) -> int | None:
        """The build's exit code; None where nobody wants it any more."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _BUILD, *argv,
            env={**os.environ, "UNDERWAY_HOME": str(self._home.root)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )  # fmt: skip
        assert process.stderr is not None
        try:
            async with asyncio.timeout(limit_s), asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(_read(process.stderr, log))
                while not reading.done():
                    await asyncio.wait([reading], timeout=_LOOK_S)
                    if not self._wanted(found):
                        reading.cancel()
                        return None
                return await process.wait()
        except TimeoutError as error:
            raise BadRequest(f"the build did not end within {limit_s:g} s") from error
        finally:
            try:
                await _end(process)
            finally:
                await run_blocking(rooms.sweep, self._home)

    def _wanted(self, found: Object) -> bool:
        now = self._builds.get(f"{namespace_of(found)}/{name_of(found)}")
        meta, mine = (now or {}).get("metadata") or {}, found["metadata"]
        return (meta.get("uid"), meta.get("generation")) == (mine["uid"], mine["generation"])

    def _now(self) -> str:
        return rfc3339(self._manager.clock.now())


async def _read(stream: asyncio.StreamReader, log: deque[str]) -> None:
    with contextlib.suppress(ValueError):  # a line without an end: the rest is not worth reading
        while raw := await stream.readline():
            log.append(raw.decode("utf-8", "replace").rstrip())


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the build's process, which ends its containers; those of a killed one are swept."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError) as error:
        process.kill()
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise


def _write(context: Path, files: Object) -> None:
    import base64

    context.mkdir()
    for name, text in (files.get("data") or {}).items():
        (context / name).write_text(text, encoding="utf-8")
    for name, data in (files.get("binaryData") or {}).items():
        (context / name).write_bytes(base64.b64decode(data))


def add(manager: Manager, home: Home) -> None:
    """Run the controller."""
    builds = ImageBuilds(manager, home)
    manager.add(
        Controller("imagebuild", builds.reconcile, primary=IMAGEBUILDS, workers=BUILDS_AT_ONCE)
    )
