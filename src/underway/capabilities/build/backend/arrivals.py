"""Finding what a COPY or ADD names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from underway.base.errors import BadRequest
from underway.capabilities.build.backend import contexts
from underway.capabilities.build.backend.delivery import (
    Delivery,
    download,
    is_archive,
    is_git,
    is_url,
)
from underway.capabilities.build.backend.paths import inside
from underway.capabilities.build.backend.rooms import Room
from underway.capabilities.build.backend.trees import Source, Tree
from underway.wire import dockerfile_instructions as ins
from underway.wire.dockerfile_words import expand


class Arrivals:
    """The sources of one build's COPY and ADD instructions."""

    def __init__(self, room: Room, context: Tree) -> None:
        self._room = room
        self._context = context
        self._folders = 0

    def from_tree(self, tree: Tree, sources: Sequence[str]) -> list[Delivery]:
        """Files of another stage or image."""
        return [Delivery(tree, [found for word in sources for found in tree.find(word)])]

    def from_context(
        self,
        step: ins.Copy,
        sources: Sequence[str],
        scope: Mapping[str, str],
        dockerfile: ins.Dockerfile,
    ) -> list[Delivery]:
        """Files of the build context, here-documents and, for ADD, downloads and archives.

        Raises:
            NotFound: a source is not there.
            BadRequest: a source leads out of the context or cannot be fetched.
        """
        documents = {doc.name: doc for doc in step.at.heredocs}
        deliveries: list[Delivery] = []
        files: list[Source] = []
        for word in sources:
            if word.startswith("<<") and documents:
                name = word.lstrip("<-").strip("\"'")
                deliveries.append(self._written(documents[name], scope, dockerfile.escape))
            elif step.add and is_git(word):
                deliveries.append(self._repository(word, step))
            elif step.add and is_url(word):
                folder = self._folder("downloads")
                folder.mkdir(parents=True)
                found = download(word, folder, step.checksum)
                deliveries += self._unpacked(found, wanted=step.unpack is True)
            else:
                files += self._context.find(word)
        if step.checksum and not all(map(is_url, sources)):
            raise BadRequest("ADD --checksum is for URLs only")
        if files:
            delivery = Delivery(self._context, files)
            deliveries += self._unpacked(delivery, wanted=step.add and step.unpack is not False)
        return deliveries

    def _written(self, doc: ins.Heredoc, scope: Mapping[str, str], escape: str) -> Delivery:
        folder = self._folder("documents")
        folder.mkdir(parents=True)
        content = (
            expand(doc.content, scope, escape, keep_quotes=True) if doc.expand else doc.content
        )
        (folder / doc.name).write_text(content)
        (folder / doc.name).chmod(0o644)
        tree = Tree(folder, what="here-document")
        return Delivery(tree, tree.find(doc.name))

    def _repository(self, word: str, step: ins.Copy) -> Delivery:
        source = contexts.git_source(word)
        folder = self._folder("repositories")
        commit = contexts.check_out(source, folder, keep_git=step.keep_git)
        if step.checksum and commit != step.checksum:
            raise BadRequest(f"ADD {word}: its commit is {commit}, not {step.checksum}")
        tree = Tree(inside(folder, source.folder), what="repository")
        return Delivery(tree, tree.find("."))

    def _folder(self, kind: str) -> Path:
        """A directory that is not there yet."""
        self._folders += 1
        return self._room.path / kind / str(self._folders)

    def _unpacked(self, delivery: Delivery, *, wanted: bool) -> list[Delivery]:
        """Archives as deliveries of their own."""
        if not wanted:
            return [delivery]
        tree = delivery.tree
        plain = [s for s in delivery.sources if not is_archive(tree.root / s.relative)]
        archives = [s for s in delivery.sources if s not in plain]
        found = [Delivery(tree, plain)] if plain else []
        return found + [Delivery(tree, [source], archive=True) for source in archives]
