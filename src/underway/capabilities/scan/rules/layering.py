"""From the indexes of an image's layers to what the image contains.

Source: OCI image-spec ``layer.md`` (Whiteouts).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from underway.capabilities.scan.model import Inventory, LayerIndex, Package
from underway.capabilities.scan.rules import files


def combined(layers: Iterable[tuple[str, LayerIndex]]) -> Inventory:
    """The packages of an image: (diff id, index) of its layers, the lowest first.

    A package is said to come from the lowest layer that has it unchanged, though later layers
    write the database anew.
    """
    visible: dict[str, tuple[Package, ...]] = {}
    origin: dict[tuple[str, str, str, str], str] = {}
    problems: list[str] = []
    release = ""
    for digest, index in layers:
        if index.removed or index.opaque:
            visible = {path: found for path, found in visible.items() if not _hidden(path, index)}
        for path in index.paths & visible.keys():
            del visible[path]
        visible.update(index.packages)
        release = index.release or release
        problems += [f"{digest[:19]}: {each}" for each in index.problems]
        for found in index.packages.values():
            for package in found:
                origin.setdefault(_key(package), digest)
    distribution = files.distribution(release)
    packages = [
        replace(package, layer=origin[_key(package)])
        for path in sorted(visible)
        for package in visible[path]
    ]
    return Inventory(distribution, tuple(dict.fromkeys(packages)), tuple(problems))


def _key(package: Package) -> tuple[str, str, str, str]:
    return package.type, package.name, package.version, package.location


def _hidden(path: str, index: LayerIndex) -> bool:
    """Whether a layer hides a path that layers below it have."""
    if path in index.removed:
        return True
    parent = path
    while parent:
        parent = parent.rpartition("/")[0]
        if parent in index.removed or parent in index.opaque:
            return True
    return False
