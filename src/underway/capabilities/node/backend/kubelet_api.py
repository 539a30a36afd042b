"""The kubelet's HTTP API: logs, exec, attach, port-forward, for the API server alone.

Source: kubernetes ``pkg/kubelet/server/server.go`` (paths and parameters), API reference
"PodLogOptions", "PodExecOptions".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Protocol

from underway.api.objects import Object, name_of, namespace_of
from underway.base.clock import Clock, parse_rfc3339
from underway.base.errors import (
    BadRequest,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
    UnderwayError,
)
from underway.base.threads import run_blocking
from underway.capabilities.node.backend import commands, log_files, streaming
from underway.capabilities.node.backend.containers import Containers
from underway.capabilities.node.backend.exits import ExitWatch
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.backend.log_files import LogOptions
from underway.capabilities.node.backend.statistics import Statistics
from underway.capabilities.node.model import ContainerRecord
from underway.capabilities.node.rules.statistics import NodeUse, exposition, summary
from underway.transport.streams import port_forward, remote_command
from underway.wire.http import Request, Response, json_response

ADMINISTRATORS = "system:masters"
_METRICS = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}
_TEXT = {"content-type": "text/plain; charset=utf-8"}


class Runs(Protocol):
    """What the API asks of one pod."""

    @property
    def pod(self) -> Object:
        """The pod as last seen."""
        ...

    @property
    def uid(self) -> str:
        """The pod's uid."""
        ...

    @property
    def ip(self) -> str:
        """The pod's address."""
        ...

    @property
    def netns(self) -> str:
        """The path of its network namespace, empty on the host's network."""
        ...

    def runs(self, container: str) -> list[ContainerRecord]:
        """The runs of a container, oldest first."""
        ...


class Directory(Protocol):
    """What the API asks of the agent."""

    def pods(self) -> list[Object]:
        """The pods of this node."""
        ...

    def worker(self, namespace: str, name: str) -> Runs:
        """One pod of this node; NotFound where it is not here."""
        ...


class KubeletApi:
    """The node agent as a handler."""

    def __init__(
        self,
        directory: Directory,
        containers: Containers,
        statistics: Statistics,
        layout: Layout,
        exits: ExitWatch,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._containers = containers
        self._statistics = statistics
        self._layout = layout
        self._exits = exits
        self._clock = clock
        self._routes: dict[str, Callable[[Request, list[str]], Awaitable[Response]]] = {
            "healthz": self._healthz,
            "pods": self._pods,
            "containerLogs": self._logs,
            "metrics": self._metrics,
            "stats": self._stats,
            "exec": self._exec,
            "attach": self._attach,
            "run": self._run,
            "portForward": self._port_forward,
        }

    async def handle(self, request: Request) -> Response:
        """Answer one request; only cluster administrators and the API server may ask."""
        try:
            if not request.peer.common_name:
                raise Unauthorized("the node agent's API needs a client certificate")
            if ADMINISTRATORS not in request.peer.organizations:
                raise Forbidden(f"{request.peer.common_name} may not use the node agent's API")
            head, *rest = request.segments() or [""]
            route = self._routes.get(head)
            if route is None:
                raise NotFound("404 page not found")
            return await route(request, rest)
        except UnderwayError as error:
            return json_response(error.to_status(), error.code)

    # -- streams ---------------------------------------------------------------------------

    async def _exec(self, request: Request, rest: list[str]) -> Response:
        _worker, record = self._running(rest)
        return remote_command(
            request, streaming.exec_command(self._containers, record, _command(request))
        )

    async def _attach(self, request: Request, rest: list[str]) -> Response:
        _worker, record = self._running(rest)
        return remote_command(request, streaming.attach(self._containers, record))

    async def _run(self, request: Request, rest: list[str]) -> Response:
        if request.method != "POST":
            raise MethodNotAllowed(f"{request.method} is not supported here")
        _worker, record = self._running(rest)
        code, output = await commands.run(self._containers, record, _command(request), None)
        if code:
            raise InternalError(f"command terminated with exit code {code}: {output}")
        return Response(200, dict(_TEXT), output.encode())

    async def _port_forward(self, request: Request, rest: list[str]) -> Response:
        if len(rest) not in (2, 3):
            raise NotFound("404 page not found")
        worker = self._directory.worker(rest[0], rest[1])
        if not worker.ip:
            raise BadRequest(f"unable to forward port because pod {rest[1]} is not running")
        return port_forward(request, streaming.dialer(worker.netns))

    def _running(self, rest: list[str]) -> tuple[Runs, ContainerRecord]:
        """The pod and the running container a path names: namespace, pod, (uid,) container."""
        if len(rest) not in (3, 4):
            raise NotFound("404 page not found")
        worker = self._directory.worker(rest[0], rest[1])
        container = rest[-1]
        runs = worker.runs(container)
        if not runs or not runs[-1].running:
            raise NotFound(f'container "{container}" of pod {rest[0]}/{rest[1]} is not running')
        return worker, runs[-1]

    # -- plain answers ---------------------------------------------------------------------

    async def _healthz(self, _request: Request, _rest: list[str]) -> Response:
        return Response(200, dict(_TEXT), b"ok")

    async def _pods(self, _request: Request, _rest: list[str]) -> Response:
        items = self._directory.pods()
        return json_response(
            {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
        )

    async def _stats(self, _request: Request, rest: list[str]) -> Response:
        if rest != ["summary"]:
            raise NotFound("404 page not found")
        return json_response(summary(await self._use()))

    async def _metrics(self, _request: Request, rest: list[str]) -> Response:
        if rest != ["resource"]:
            raise NotFound("404 page not found")
        return Response(200, dict(_METRICS), exposition(await self._use()).encode())

    async def _use(self) -> NodeUse:
        workers = [
            self._directory.worker(namespace_of(pod), name_of(pod))
            for pod in self._directory.pods()
        ]
        return await run_blocking(self._statistics.read, workers)

    # -- logs ------------------------------------------------------------------------------

    async def _logs(self, request: Request, rest: list[str]) -> Response:
        if request.method != "GET":
            raise MethodNotAllowed(f"{request.method} is not supported here")
        if len(rest) != 3:
            raise NotFound("404 page not found")
        namespace, name, container = rest
        worker = self._directory.worker(namespace, name)
        params = request.params()
        run = _chosen_run(worker, container, previous=_flag(params, "previous"))
        options = self._log_options(params)
        if run.finished:
            options = LogOptions(**{**_fields(options), "follow": False})
        path = self._layout.log(worker.uid, container, run.attempt)

        def ended() -> bool:
            return not any(each.id == run.id and each.running for each in worker.runs(container))

        async def end() -> None:
            await self._exits.wait(run.id)

        return Response(200, dict(_TEXT), log_files.stream(path, options, ended, end))

    def _log_options(self, params: dict[str, str]) -> LogOptions:
        since = None
        if params.get("sinceSeconds"):
            since = self._clock.now() - timedelta(seconds=_number(params, "sinceSeconds") or 0)
        elif params.get("sinceTime"):
            try:
                since = parse_rfc3339(params["sinceTime"])
            except ValueError as error:
                raise BadRequest(f"sinceTime: {params['sinceTime']!r} is no time") from error
        stream = params.get("stream", "")
        return LogOptions(
            follow=_flag(params, "follow"),
            tail_lines=_number(params, "tailLines"),
            since=since,
            timestamps=_flag(params, "timestamps"),
            limit_bytes=_number(params, "limitBytes"),
            stream=stream.lower() if stream in ("Stdout", "Stderr") else "",
        )


def _fields(options: LogOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in LogOptions.__slots__}


def _chosen_run(worker: Runs, container: str, *, previous: bool) -> ContainerRecord:
    pod = name_of(worker.pod)
    runs = worker.runs(container)
    if not runs:
        spec = worker.pod.get("spec") or {}
        known = [
            each
            for field in ("initContainers", "containers", "ephemeralContainers")
            for each in spec.get(field) or ()
        ]
        if not any(each["name"] == container for each in known):
            raise BadRequest(f"container {container} is not valid for pod {pod}")
        raise BadRequest(f'container "{container}" in pod "{pod}" is waiting to start')
    if not previous:
        return runs[-1]
    if len(runs) < 2:
        raise BadRequest(f'previous terminated container "{container}" in pod "{pod}" not found')
    return runs[-2]


def _command(request: Request) -> list[str]:
    words = request.param_lists().get("command") or request.param_lists().get("cmd") or []
    if not words:
        raise BadRequest("you must specify at least 1 command for the container")
    return words


def _flag(params: dict[str, str], name: str) -> bool:
    return params.get(name, "").lower() in ("1", "true")


def _number(params: dict[str, str], name: str) -> int | None:
    text = params.get(name)
    if not text:
        return None
    if not text.isdigit():
        raise BadRequest(f"{name}: {text!r} is no positive number")
    return int(text)


__all__ = ["Directory", "KubeletApi", "Runs"]
