"""Who else may know a step's result: caches beyond this machine."""

from __future__ import annotations

from typing import Protocol

from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.model import Layer
from underway.kit.ports import Progress


class Lender(Protocol):
    """A cache that steps are looked up in when this machine does not know them."""

    def recall(self, key: str, shelf: Shelf, tell: Progress) -> tuple[bool, Layer | None]:
        """Whether a step's result is known, and its layer, which is on the shelf then.

        Nothing that goes wrong there is an error: the step is run instead.
        """
        ...
