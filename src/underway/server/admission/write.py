"""One write on its way through admission."""

from __future__ import annotations

from dataclasses import dataclass, field

from underway.api.objects import Object, name_of, namespace_of
from underway.server.catalog import Served
from underway.server.identity import User

CREATE, UPDATE, DELETE = "CREATE", "UPDATE", "DELETE"


@dataclass
class Write:
    """What is to be written, by whom, and what the client is to be told besides the answer.

    ``new`` and ``old`` are in the stored shape; a creation has no ``old``, a deletion no ``new``.
    Plugins change ``new`` in place. ``options`` are the request's CreateOptions, UpdateOptions,
    PatchOptions or DeleteOptions; ``annotations`` go into the audit log.
    """

    served: Served
    operation: str
    user: User
    new: Object | None = None
    old: Object | None = None
    subresource: str = ""
    dry_run: bool = False
    options: Object = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> Object:
        """The object written, or the one deleted."""
        found = self.new if self.new is not None else self.old
        assert found is not None
        return found

    @property
    def name(self) -> str:
        """The object's name."""
        return name_of(self.subject)

    @property
    def namespace(self) -> str:
        """The object's namespace; empty for cluster-scoped kinds."""
        return namespace_of(self.subject) if self.served.resource.namespaced else ""

    def warn(self, text: str) -> None:
        """Tell the client something once."""
        if text not in self.warnings:
            self.warnings.append(text)
