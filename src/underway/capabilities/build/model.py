"""An image while it is being made."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from underway.wire import oci

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: ``digest`` and ``size_bytes`` are those of its compressed blob."""

    diff_id: str
    digest: str
    size_bytes: int
    media_type: str = oci.LAYER_GZIP

    def descriptor(self) -> dict[str, Any]:
        """The layer's entry in a manifest."""
        return oci.Descriptor(self.media_type, self.digest, self.size_bytes).as_dict()


@dataclass(frozen=True, slots=True)
class Packing:
    """How layers are compressed: ``gzip`` or ``zstd``; ``level`` 0 is the quickest sensible one."""

    compression: str = "gzip"
    level: int = 0

    @property
    def key(self) -> list[list[str]]:
        """What it adds to a step's cache key: nothing where it is as usual."""
        usual = self.compression == "gzip" and not self.level
        return [] if usual else [[self.compression, str(self.level)]]


@dataclass
class Image:
    """Layers, bottom first, and the config's ``config`` and ``history``."""

    layers: list[Layer] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def copy(self) -> Image:
        """An image that can be changed without changing this one."""
        return Image(list(self.layers), copy.deepcopy(self.config), list(self.history))

    @property
    def diff_ids(self) -> list[str]:
        """The layers' diff ids, bottom first."""
        return [layer.diff_id for layer in self.layers]

    @property
    def environment(self) -> dict[str, str]:
        """``Env`` as a mapping."""
        pairs = (entry.partition("=") for entry in self.config.get("Env") or [])
        return {name: value for name, _, value in pairs}

    @classmethod
    def read(cls, manifest: dict[str, Any], config: dict[str, Any]) -> Image:
        """The image that a manifest and its config describe."""
        layers = [
            Layer(diff_id, each["digest"], int(each["size"]), each["mediaType"])
            for diff_id, each in zip(config["rootfs"]["diff_ids"], manifest["layers"], strict=True)
        ]
        return cls(layers, dict(config.get("config") or {}), list(config.get("history") or []))


@dataclass
class StageState:
    """A stage at one of its steps.

    Attributes:
        image: what stands so far.
        scope: variables the next instruction sees: ``ENV`` and declared ``ARG``, last one wins.
        cmd_set: whether this stage, not its base, set ``CMD``.
    """

    image: Image
    scope: dict[str, str] = field(default_factory=dict)
    cmd_set: bool = False

    @property
    def shell(self) -> list[str]:
        """What runs a command in shell form."""
        return list(self.image.config.get("Shell") or ["/bin/sh", "-c"])

    @property
    def workdir(self) -> str:
        """The current directory."""
        return str(self.image.config.get("WorkingDir") or "/")

    @property
    def user(self) -> str:
        """``USER``, or empty for root."""
        return str(self.image.config.get("User") or "")
