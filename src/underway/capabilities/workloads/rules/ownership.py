"""The graph of who owns whom, and what it means for each object.

Nodes are UIDs: a namesake made later is another node. The graph holds what the watches have
shown; whether an owner that it does not know is really absent has to be asked of the server.

Source: Kubernetes docs, "Garbage Collection" and "Owners and Dependents".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


@dataclass(frozen=True)
class Owner:
    """One owner reference."""

    uid: str
    api_version: str
    kind: str
    name: str
    blocks: bool = False


@dataclass(frozen=True)
class Node:
    """One object, as far as ownership goes."""

    uid: str
    api_version: str
    kind: str
    namespace: str
    name: str
    owners: tuple[Owner, ...] = ()
    deleting: bool = False
    finalizers: frozenset[str] = frozenset()

    @property
    def awaits_dependents(self) -> bool:
        """Whether it is being deleted in the foreground."""
        return self.deleting and FOREGROUND in self.finalizers

    @property
    def orphans_dependents(self) -> bool:
        """Whether it is being deleted and leaves its dependents behind."""
        return self.deleting and ORPHAN in self.finalizers


@dataclass
class Graph:
    """All known nodes and the edges between them."""

    nodes: dict[str, Node] = field(default_factory=dict)
    _dependents: dict[str, set[str]] = field(default_factory=dict)

    def put(self, node: Node) -> None:
        """An object is there, as described."""
        self._unlink(node.uid)
        self.nodes[node.uid] = node
        for owner in node.owners:
            self._dependents.setdefault(owner.uid, set()).add(node.uid)

    def drop(self, uid: str) -> None:
        """An object is gone."""
        self._unlink(uid)
        self.nodes.pop(uid, None)

    def dependents(self, uid: str) -> list[Node]:
        """The nodes that name this UID among their owners."""
        return [self.nodes[each] for each in sorted(self._dependents.get(uid, ()))]

    def owner(self, owner: Owner, dependent: Node) -> Node | None:
        """The owner's node, if the graph has it where the reference says it is."""
        found = self.nodes.get(owner.uid)
        if found is None or found.kind != owner.kind or found.name != owner.name:
            return None
        return found if found.namespace in ("", dependent.namespace) else None

    def _unlink(self, uid: str) -> None:
        node = self.nodes.get(uid)
        for owner in node.owners if node else ():
            edges = self._dependents.get(owner.uid, set())
            edges.discard(uid)
            if not edges:
                self._dependents.pop(owner.uid, None)


@dataclass(frozen=True)
class Nothing:
    """The object stays as it is."""


@dataclass(frozen=True)
class StrikeOwners:
    """Take these owners off the object: they are gone, and others remain."""

    uids: frozenset[str]


@dataclass(frozen=True)
class Delete:
    """Delete the object, since all its owners are gone or going."""

    propagation: str


@dataclass(frozen=True)
class Release:
    """Take a finalizer off an object being deleted: what it waited for has happened."""

    finalizer: str


@dataclass(frozen=True)
class Orphan:
    """Strike the object off these dependents, then release it."""

    dependents: tuple[Node, ...]


@dataclass(frozen=True)
class Collect:
    """Look at these dependents: they hold up the object's deletion in the foreground."""

    dependents: tuple[Node, ...]


Action = Nothing | StrikeOwners | Delete | Release | Orphan | Collect


def decide(graph: Graph, node: Node, absent: Iterable[str]) -> Action:
    """What is to be done about a node.

    Args:
        graph: what is known.
        node: the object.
        absent: UIDs of its owners that the server says do not exist. Owners that are neither in
            the graph nor named here count as present.
    """
    if node.orphans_dependents:
        return Orphan(tuple(graph.dependents(node.uid)))
    if node.awaits_dependents:
        return _in_foreground(graph, node)
    if node.deleting or not node.owners:
        return Nothing()
    gone = set(absent)
    going: set[str] = set()
    staying = False
    for owner in node.owners:
        found = graph.owner(owner, node)
        if found is not None and found.awaits_dependents:
            going.add(owner.uid)
        elif owner.uid not in gone:
            staying = True
    if staying:
        return StrikeOwners(frozenset(gone | going)) if gone | going else Nothing()
    if going and graph.dependents(node.uid):
        return Delete("Foreground")
    if ORPHAN in node.finalizers:
        return Delete("Orphan")
    return Delete("Foreground" if FOREGROUND in node.finalizers else "Background")


def _in_foreground(graph: Graph, node: Node) -> Action:
    dependents = graph.dependents(node.uid)
    blocking = [
        each
        for each in dependents
        if any(owner.uid == node.uid and owner.blocks for owner in each.owners)
    ]
    if not blocking:
        return Release(FOREGROUND)
    return Collect(tuple(each for each in dependents if not each.deleting))
