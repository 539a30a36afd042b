"""Pods: state, containers and events of each, its log as it is written, and deletion."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from urllib.parse import urlencode

from underway.api.objects import Object
from underway.api.resources import EVENTS_CORE, PODS
from underway.base.errors import BadRequest, Forbidden, NotFound, UnderwayError
from underway.kit.console import Moved, Shown, Text, View, Visit, Watch
from underway.wire.http import Response

_HERE = "underway.capabilities.workloads"
_TRAIL = (("Pods", "/pods"),)
_TAIL_LINES = 500
_LISTS = {"init": "initContainers", "": "containers", "ephemeral": "ephemeralContainers"}


async def page(visit: Visit) -> Shown:
    """All pods, one ``NAMESPACE/NAME``, or a container's log: ``.../log/CONTAINER``."""
    match visit.path:
        case ():
            table = await visit.table(PODS, visit.namespace)
            watches = (Watch(PODS, visit.namespace),)
            return View("Pods", f"{_HERE}:pods.html", {"table": table}, watches)
        case (namespace, name) if visit.method == "POST":
            return await _change(visit, namespace, name)
        case (namespace, name):
            return await _pod(visit, namespace, name)
        case (namespace, name, "log", container):
            return await _log(visit, namespace, name, container)
        case (namespace, name, "log", container, "text"):
            return Text(_lines(await _logged(visit, namespace, name, container)))
    raise NotFound("there is no such page below /pods")


async def _pod(visit: Visit, namespace: str, name: str) -> View:
    pod = await visit.client.get(PODS, name, namespace)
    about = f"involvedObject.uid={pod['metadata']['uid']}"
    try:
        events = (await visit.client.list(EVENTS_CORE, namespace, fields=about)).items
    except Forbidden:
        events = []
    row = (await visit.table(PODS, namespace, name=name)).rows
    values = {
        "pod": pod, "events": events, "containers": containers(pod),
        "state": row[0].cells[2] if row else "",
        "deletes": await visit.may("delete", PODS, namespace, name),
    }  # fmt: skip
    watches = (
        Watch(PODS, namespace, f"metadata.name={name}"),
        Watch(EVENTS_CORE, namespace, about),
    )
    return View(name, f"{_HERE}:pod.html", values, watches, _TRAIL)


def containers(pod: Object) -> list[Object]:
    """A pod's containers with ``kind``, ``name``, ``image``, ``state``, ``reason``, ``restarts``.

    ``previous`` says whether an earlier run left a log.
    """
    found: list[Object] = []
    status = pod.get("status") or {}
    for kind, field in _LISTS.items():
        observations = status.get(f"{field.removesuffix('s')}Statuses") or ()
        states = {each["name"]: each for each in observations}
        for container in (pod.get("spec") or {}).get(field) or ():
            observed = states.get(container["name"]) or {}
            word, detail = _state(observed)
            found.append(
                {
                    "kind": kind,
                    "name": container["name"],
                    "image": container.get("image", ""),
                    "state": word,
                    "reason": detail,
                    "ready": observed.get("ready", False),
                    "restarts": observed.get("restartCount", 0),
                    "previous": bool((observed.get("lastState") or {}).get("terminated")),
                    "ports": [each.get("containerPort") for each in container.get("ports") or ()],
                }
            )
    return found


def _state(observed: Object) -> tuple[str, str]:
    state = observed.get("state") or {}
    if "running" in state:
        return "Running", f"since {state['running'].get('startedAt', '')}"
    if ended := state.get("terminated"):
        word = "Complete" if ended.get("exitCode") == 0 else ended.get("reason") or "Error"
        return word, f"exit code {ended.get('exitCode')} {ended.get('message') or ''}".strip()
    waiting = state.get("waiting") or {}
    return waiting.get("reason") or "Waiting", waiting.get("message") or ""


async def _log(visit: Visit, namespace: str, name: str, container: str) -> View:
    pod = await visit.client.get(PODS, name, namespace)
    names = [each["name"] for each in containers(pod)]
    if container not in names:
        raise NotFound(f"the pod {name} has no container {container}")
    previous = visit.params.get("previous") == "yes"
    now = visit.at(namespace, name, "log", container)
    try:
        text = await (await _logged(now, namespace, name, container, whole=True)).read()
    except BadRequest as error:  # the container has not started
        text = error.message.encode()
    values = {
        "pod": pod, "container": container, "names": names, "previous": previous,
        "text": text.decode("utf-8", "replace"), "tail": _TAIL_LINES,
    }  # fmt: skip
    trail = (*_TRAIL, (name, f"/pods/{namespace}/{name}"))
    return View(f"Log of {container}", f"{_HERE}:log.html", values, (), trail)


async def _logged(
    visit: Visit, namespace: str, name: str, container: str, *, whole: bool = False
) -> Response:
    """The container's log from the API server; followed where the visitor wants that."""
    asked = {"container": container, "tailLines": str(_TAIL_LINES)}
    if visit.params.get("previous") == "yes":
        asked["previous"] = "true"
    elif visit.params.get("follow") == "yes" and not whole:
        asked["follow"] = "true"
    return await visit.client.request("GET", PODS.path(namespace, name, "log"), urlencode(asked))


async def _lines(response: Response) -> AsyncGenerator[bytes, None]:
    if isinstance(response.body, bytes):
        yield response.body
        return
    try:
        async for chunk in response.body:
            yield chunk
    except UnderwayError as error:
        yield f"\n{error.message}\n".encode()
    finally:
        aclose = getattr(response.body, "aclose", None)
        if aclose is not None:
            await aclose()


async def _change(visit: Visit, namespace: str, name: str) -> Moved:
    if visit.form.get("action") != "delete":
        raise BadRequest("a pod has no such action")
    await visit.client.delete(PODS, name, namespace)
    return Moved(f"/pods?namespace={namespace}", f"{name} is being deleted.")
