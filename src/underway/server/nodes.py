"""What happens on a node: logs, exec, attach, port-forward and proxy go to its kubelet API.

Source: kubernetes ``pkg/registry/core/pod/strategy.go`` (LogLocation, streamLocation) and the
kubelet's server paths.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

from underway.api.objects import Object, annotations_of, name_of, namespace_of
from underway.base.errors import BadRequest, InternalError, NotFound, ServiceUnavailable
from underway.server.call import Call, not_found
from underway.server.proxies import proxied_path
from underway.server.store import Key, Store
from underway.wire.http import Request, Response

NodeConnector = Callable[[Object, Request], Awaitable[Response]]
"""Sends a request to a node's kubelet API; the response may be a stream or an upgrade."""

_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
_LOG_PARAMS = {
    "follow": "follow",
    "previous": "previous",
    "sinceSeconds": "sinceSeconds",
    "sinceTime": "sinceTime",
    "timestamps": "timestamps",
    "tailLines": "tailLines",
    "limitBytes": "limitBytes",
    "stream": "stream",
}
# Hop-by-hop, or the client's own credentials: not the kubelet's business.
_NOT_FORWARDED = ("authorization", "host", "cookie")

CONNECTS = {"pods": ("attach", "exec", "log", "portforward"), "nodes": ("proxy",)}


async def no_nodes(node: Object, _request: Request) -> Response:
    """The connector of a server that was given none."""
    raise ServiceUnavailable(f"this server cannot reach the node {name_of(node)}")


class Nodes:
    """Takes requests to nodes."""

    def __init__(self, store: Store, connector: NodeConnector) -> None:
        self._store = store
        self._connector = connector

    async def connect(self, call: Call) -> Response:
        """Answer from the node.

        Raises:
            NotFound: there is no such pod or node.
            BadRequest: the pod is not where it could answer, or the container is not one of it.
        """
        wanted = call.attributes
        row = self._store.get(call.key)
        if row is None:
            raise not_found(call.served, wanted.name)
        if wanted.resource == "nodes":
            path = proxied_path(call.request.path) or "/"
            return await self._send(row.decode(), call.request, path, call.request.query)
        pod = row.decode()
        query = call.request.param_lists()
        match wanted.subresource:
            case "log":
                path, text = _log_path(pod, query)
            case "portforward":
                path, text = (
                    f"/portForward/{namespace_of(pod)}/{name_of(pod)}",
                    urlencode(query, doseq=True),
                )
            case streaming:
                path, text = _stream_path(pod, streaming, query)
        node_name = (pod.get("spec") or {}).get("nodeName")
        if not node_name:
            if wanted.subresource == "log":
                # As the kubelet has nothing yet, upstream answers with an empty log.
                return Response(200, {"content-type": "text/plain"}, b"")
            raise BadRequest(f"pod {name_of(pod)} does not have a host assigned")
        node = self._store.get(Key("nodes", "", node_name))
        if node is None:
            raise NotFound(f'nodes "{node_name}" not found', details={"name": node_name})
        return await self._send(node.decode(), call.request, path, text)

    async def _send(self, node: Object, request: Request, path: str, query: str) -> Response:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in _NOT_FORWARDED and not name.startswith("impersonate-")
        }
        forwarded = replace(request, path=path, query=query, headers=headers, context={})
        try:
            return await self._connector(node, forwarded)
        except OSError as error:
            address = f"the node {name_of(node)}"
            raise InternalError(f"error dialing {address}: {error}") from error


def _log_path(pod: Object, query: dict[str, list[str]]) -> tuple[str, str]:
    container = _container(pod, query)
    kept = [
        (param, value)
        for name, param in _LOG_PARAMS.items()
        for value in query.get(name, ())
        if value not in ("", "false")
    ]
    if query.get("stream") and query["stream"][0] not in ("All", "Stdout", "Stderr"):
        raise BadRequest("stream must be one of All, Stdout, Stderr")
    return f"/containerLogs/{namespace_of(pod)}/{name_of(pod)}/{quote(container)}", urlencode(kept)


def _stream_path(pod: Object, kind: str, query: dict[str, list[str]]) -> tuple[str, str]:
    phase = (pod.get("status") or {}).get("phase")
    if phase in ("Succeeded", "Failed"):
        raise BadRequest(f"cannot {kind} a container in a completed pod; current phase is {phase}")
    container = _container(pod, query)
    params: list[tuple[str, Any]] = []
    defaults = {"stdout": ["true"], "stderr": ["true"]} if kind == "attach" else {}
    for name, param in _STREAMS.items():
        if (query.get(name) or defaults.get(name) or ["false"])[-1] in ("true", "1"):
            params.append((param, "1"))
    params += [("command", word) for word in query.get("command", ())]
    if kind == "exec" and not query.get("command"):
        raise BadRequest("you must specify at least 1 command for the container")
    if not any(name != "tty" for name, _ in params if name != "command"):
        raise BadRequest("you must specify at least 1 of stdin, stdout, stderr")
    return f"/{kind}/{namespace_of(pod)}/{name_of(pod)}/{quote(container)}", urlencode(params)


def _container(pod: Object, query: dict[str, list[str]]) -> str:
    """The container meant.

    Raises:
        BadRequest: it is not in the pod, or none is named and there are several.
    """
    spec = pod.get("spec") or {}
    names = [c["name"] for c in spec.get("containers") or ()]
    others = [c["name"] for c in spec.get("initContainers") or ()]
    others += [c["name"] for c in spec.get("ephemeralContainers") or ()]
    wanted = (query.get("container") or [""])[-1]
    if wanted:
        if wanted not in (*names, *others):
            raise BadRequest(f"container {wanted} is not valid for pod {name_of(pod)}")
        return wanted
    if len(names) == 1:
        return str(names[0])
    default = annotations_of(pod).get(_DEFAULT_CONTAINER)
    if default in names:
        return str(default)
    text = (
        f"a container name must be specified for pod {name_of(pod)}, choose one of:"
        f" [{' '.join(names)}]"
    )
    inits = [c["name"] for c in spec.get("initContainers") or ()]
    if inits:
        text += f" or one of the init containers: [{' '.join(inits)}]"
    raise BadRequest(text)
