"""Namespaces, and their names for the picker."""

from __future__ import annotations

from underway.api.objects import name_of
from underway.api.resources import NAMESPACES
from underway.base.errors import Forbidden, NotFound
from underway.kit.console import View, Visit, Watch


async def page(visit: Visit) -> View:
    """The list; ``options`` gives the names alone, none to those who may not list them."""
    match visit.path:
        case ():
            table = await visit.table(NAMESPACES)
            watches = (Watch(NAMESPACES),)
            return View("Namespaces", "console/namespaces.html", {"table": table}, watches)
        case ("options",):
            try:
                found = (await visit.client.list(NAMESPACES)).items
            except Forbidden:
                found = []
            names = sorted(name_of(each) for each in found)
            return View("Namespaces", "console/namespace_options.html", {"names": names})
    raise NotFound("a namespace has nothing below it; pick it in a list")
