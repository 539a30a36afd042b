"""The options of ``underway build``, as docker buildx writes them, read into values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from underway.base.errors import BadRequest
from underway.capabilities.build.model import Packing

_TRUE = ("true", "1")
_KINDS = ("oci", "docker", "tar", "local", "registry", "image", "cacheonly")
ENTITLEMENTS = ("security.insecure", "network.host", "device")
ATTESTATIONS = ("sbom", "provenance")


def pairs(values: tuple[str, ...], what: str) -> dict[str, str]:
    """``NAME=VALUE`` words; a bare name passes on the environment's value, if any.

    Raises:
        BadRequest: a word has no name.
    """
    found = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name:
            raise BadRequest(f"{what} {text!r} has no name")
        if not equals and name not in os.environ:
            continue
        found[name] = value if equals else os.environ[name]
    return found


def _options(text: str) -> dict[str, str]:
    return dict(part.strip().partition("=")[::2] for part in text.split(","))


def secrets_of(values: tuple[str, ...]) -> dict[str, Path | bytes]:
    """``id=NAME[,src=FILE|,env=VARIABLE]``; without either, the variable or file of that name.

    Raises:
        BadRequest: the secret is not there; the message never holds its value.
    """
    found: dict[str, Path | bytes] = {}
    for text in values:
        options = _options(text)
        name = options.get("id", "")
        source = options.get("src") or options.get("source") or ""
        variable = options.get("env", "")
        if not source and not variable and name in os.environ:
            variable = name
        if name and variable in os.environ and options.get("type") != "file":
            found[name] = os.environ[variable].encode()
        elif name and Path(source or name).is_file() and not variable:
            found[name] = Path(source or name)
        else:
            raise BadRequest(
                f"--secret {text!r} must be id=NAME,src=FILE or id=NAME,env=VARIABLE,"
                " with a file or variable that exists"
            )
    return found


@dataclass(frozen=True)
class Output:
    """One ``--output``: ``dest`` is a path, or ``-`` for standard output."""

    kind: str
    dest: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Output:
        """``type=KIND,dest=PATH``; a path alone is a directory for the files, ``-`` their tar.

        Raises:
            BadRequest: the kind is unknown, or lacks the path it needs.
        """
        if "=" not in text:
            return cls("tar" if text == "-" else "local", text)
        options = _options(text)
        kind, dest = options.get("type", ""), options.get("dest", "")
        if kind not in _KINDS:
            raise BadRequest(f"--output {text}: the types are {', '.join(_KINDS)}")
        if kind == "image":
            kind = "registry" if options.get("push", "") in _TRUE else "image"
        if not dest and kind not in ("registry", "image", "cacheonly"):
            raise BadRequest(f"--output {text} needs dest=PATH")
        if dest == "-" and (kind == "local" or options.get("tar") == "false"):
            raise BadRequest(f"--output {text}: a directory cannot go to standard output")
        return cls(kind, dest, options)

    @property
    def packing(self) -> Packing | None:
        """How it wants layers compressed, if it says so.

        Raises:
            BadRequest: nobody can compress them so.
        """
        if "compression" not in self.options and "compression-level" not in self.options:
            return None
        return packing_of(
            self.options.get("compression", "gzip"), self.options.get("compression-level", "")
        )

    def write(self, made: Any, names: list[str]) -> None:
        """Write the image, whole or not at all."""
        from underway.capabilities.build.backend import layout, outputs
        from underway.wire.oci import Reference

        several = isinstance(made, outputs.Index)
        if several and (self.kind == "tar" or self.options.get("tar") == "false"):
            raise BadRequest("one file system cannot hold an image for several platforms")
        if self.kind == "local" and several:
            for each in made.images:
                outputs.write_files(
                    Path(self.dest).absolute() / each.platform.replace("/", "_"), each
                )
        elif self.kind == "local":
            outputs.write_files(Path(self.dest).absolute(), made)
        elif self.kind == "tar":
            outputs.to_stream(self.dest, lambda out: outputs.write_tar(out, made))
        elif self.options.get("tar") == "false":
            tag = Reference.parse(names[0]).tag if names else ""
            folder = Path(self.dest).absolute()
            layout.write(folder, made.documents, made.image.layers, made.shelf, tag)
        elif self.kind in ("oci", "docker"):
            docker = self.kind == "docker"
            outputs.to_stream(
                self.dest, lambda out: outputs.write_archive(out, made, names, docker=docker)
            )


def packing_of(compression: str, level: str) -> Packing:
    """How layers are compressed.

    Raises:
        BadRequest: it is neither gzip nor zstd, or the level is no number they know.
    """
    highest = {"gzip": 9, "zstd": 22}.get(compression)
    if highest is None:
        raise BadRequest(f"layers are compressed by gzip or zstd, not {compression}")
    if level and not (level.lstrip("-").isdigit() and -1 <= int(level) <= highest):
        raise BadRequest(f"the compression level of {compression} is 0 to {highest}, not {level}")
    return Packing(compression, max(0, int(level or 0)))


def agents_of(values: tuple[str, ...]) -> dict[str, Path]:
    """``ID[=SOCKET]`` words of ``--ssh``; without a socket, that of ``SSH_AUTH_SOCK``.

    Raises:
        BadRequest: there is no such socket.
    """
    found = {}
    for text in values:
        name, _, place = text.partition("=")
        socket = Path(place or os.environ.get("SSH_AUTH_SOCK", ""))
        if not name or not socket.is_socket():
            raise BadRequest(
                f"--ssh {text}: there is no agent's socket",
                hint="start ssh-agent, or name its socket: --ssh default=SOCKET",
            )
        found[name] = socket.absolute()
    return found


def annotations_of(values: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """``[manifest:|index:]NAME=VALUE`` words: those of manifests, those of the index."""
    manifest: dict[str, str] = {}
    index: dict[str, str] = {}
    for text in values:
        head, mark, rest = text.partition(":")
        kinds = head.split(",") if mark and "=" not in head else ["manifest"]
        pair = rest if mark and "=" not in head else text
        for kind in kinds:
            place = {"manifest": manifest, "index": index}.get(kind.partition("[")[0])
            if place is None or "=" not in pair:
                raise BadRequest(f"--annotation {text!r} must be [manifest:|index:]NAME=VALUE")
            name, _, value = pair.partition("=")
            place[name] = value
    return manifest, index


def attestations_of(values: tuple[str, ...], shorthands: Mapping[str, str]) -> frozenset[str]:
    """What ``--attest``, ``--sbom`` and ``--provenance`` ask for.

    Raises:
        BadRequest: an attestation that nobody makes.
    """
    wanted = {name for name, text in shorthands.items() if text not in ("", "false")}
    for text in values:
        options = _options(text)
        kind = options.get("type", text)
        if kind not in ATTESTATIONS:
            raise BadRequest(f"--attest {text}: the types are {', '.join(ATTESTATIONS)}")
        if options.get("disabled") == "true":
            wanted.discard(kind)
        else:
            wanted.add(kind)
    return frozenset(wanted)


def duration_s(text: str, option: str) -> float:
    """Seconds of a duration as Go writes them: ``90s``, ``1h30m``; a bare number is seconds.

    Raises:
        BadRequest: it is none.
    """
    import re

    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(a + b for a, b in parts) != text:
        raise BadRequest(f"{option} {text!r} is no duration like 90s or 1h30m")
    return float(sum(float(number) * units[unit] for number, unit in parts))
