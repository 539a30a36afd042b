"""The console's pages: the shell's own, and those of the installed capabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from underway.base.errors import InternalError, NotFound
from underway.dist.web.rendering import link
from underway.kit import Page, registry
from underway.kit.console import PageHandler

_PAGES = "underway.dist.web.pages"
_OWN = (
    Page("home", "Home", f"{_PAGES}.home:page", "", namespaced=False),
    Page("namespaces", "Namespaces", f"{_PAGES}.namespaces:page", "Cluster", namespaced=False),
    Page("nodes", "Nodes", f"{_PAGES}.nodes:page", "Cluster", namespaced=False),
    Page("events", "Events", f"{_PAGES}.events:page", "Cluster"),
    Page("resources", "All resources", f"{_PAGES}.browser:page", "Cluster"),
)
# Lists of the browser that people look for by name.
_SHORTCUTS = (("Services", ("core", "v1", "services"), "Workloads"),)
_SECTIONS = ("", "Delivery", "Workloads", "Cluster", "Platform")
_RESERVED = frozenset({"static", "login", "logout"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it is shown; ``current`` marks the page being seen."""

    title: str
    location: str
    current: bool


@dataclass(frozen=True, slots=True)
class Section:
    """Entries under one heading."""

    title: str
    entries: tuple[Entry, ...]


class Navigation:
    """Pages by path.

    Raises InternalError where two pages have one path.
    """

    def __init__(self, pages: Iterable[Page]) -> None:
        self._pages: dict[str, Page] = {}
        self._handlers: dict[str, PageHandler] = {}
        for page in pages:
            if page.path in self._pages or page.path in _RESERVED:
                raise InternalError(f"two pages of the console are called {page.path}")
            self._pages[page.path] = page

    @classmethod
    def installed(cls) -> Navigation:
        """The shell's pages, and those of every capability that is installed."""
        of_capabilities = (page for each in registry.installed() for page in each.pages)
        return cls((*_OWN, *of_capabilities))

    def handler(self, path: str) -> PageHandler:
        """What answers for a page, loaded at its first visit.

        Raises:
            NotFound: there is no such page.
        """
        if path not in self._pages:
            raise NotFound(f"the console has no page /{path}")
        if path not in self._handlers:
            self._handlers[path] = registry.load(self._pages[path].handler)
        return self._handlers[path]

    def namespaced(self, segments: Sequence[str]) -> bool:
        """Whether the picker of namespaces belongs on the page: lists have it, objects do not."""
        page = self._pages.get(segments[0] if segments else "home")
        deep = 4 if segments and segments[0] == "resources" else 1
        return page is not None and page.namespaced and len(segments) in {1, deep}

    def sections(self, segments: Sequence[str], namespace: str) -> list[Section]:
        """The navigation as seen from a page; the namespace picked goes along."""
        found: dict[str, list[Entry]] = {}
        shortcut = tuple(segments[1:4]) if segments[:1] == ["resources"] else ()
        for page in self._pages.values():
            current = page.path == (segments[0] if segments else "home")
            current = current and not any(shortcut == path for _, path, _ in _SHORTCUTS)
            location = "/" if page.path == "home" else self._at(page.path, namespace, page)
            found.setdefault(page.section, []).append(Entry(page.title, location, current))
        for title, path, section in _SHORTCUTS:
            location = link("resources", *path, namespace=namespace)
            entry = Entry(title, location, current=shortcut == path)
            found.setdefault(section, []).append(entry)
        order: Any = {title: place for place, title in enumerate(_SECTIONS)}
        titles = sorted(found, key=lambda title: (order.get(title, len(order)), title))
        return [
            Section(title, tuple(sorted(found[title], key=lambda entry: entry.title)))
            for title in titles
        ]

    def _at(self, path: str, namespace: str, page: Page) -> str:
        return link(path, namespace=namespace if page.namespaced else "")
