"""Nodes, and one node with its conditions, resources and pods."""

from __future__ import annotations

from underway.api.resources import NODES, PODS
from underway.base.errors import Forbidden, NotFound
from underway.kit.console import Table, View, Visit, Watch


async def page(visit: Visit) -> View:
    """The list, or the node that the path names."""
    match visit.path:
        case ():
            table = await visit.table(NODES)
            return View("Nodes", "console/nodes.html", {"table": table}, (Watch(NODES),))
        case (name,):
            return await _node(visit, name)
    raise NotFound("a node has nothing below it")


async def _node(visit: Visit, name: str) -> View:
    node = await visit.client.get(NODES, name)
    on_it = f"spec.nodeName={name}"
    try:
        pods: Table | None = await visit.table(PODS, fields=on_it)
    except Forbidden:
        pods = None
    values = {"node": node, "pods": pods}
    watches = (Watch(NODES, fields=f"metadata.name={name}"), Watch(PODS, fields=on_it))
    return View(name, "console/node.html", values, watches, (("Nodes", "/nodes"),))
