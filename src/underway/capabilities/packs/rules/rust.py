"""Rust: one binary of a cargo package, in a small image without the toolchain."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from underway.capabilities.packs.model import Lacking, Listing, Plan

_DEFAULT_PORT = 8080
_HINT = "ship the directory of one package, or write a Dockerfile"
_ASSETS = ("assets", "public", "static", "templates", "migrations")


def detect(listing: Listing, port: int | None) -> Plan | Lacking | None:
    """The plan of a Rust program; nothing where there is no Cargo.toml."""
    if "Cargo.toml" not in listing.files:
        return None
    try:
        manifest = tomllib.loads(listing.text("Cargo.toml"))
    except tomllib.TOMLDecodeError as error:
        return Lacking("Rust", f"Cargo.toml: {error}", "correct Cargo.toml")
    if "package" not in manifest:
        return Lacking("Rust", "Cargo.toml is a workspace without a package of its own", _HINT)
    binaries = _binaries(listing, manifest)
    if len(binaries) != 1:
        listed = ", ".join(binaries) or "none"
        return Lacking("Rust", f"Cargo.toml has not exactly one binary (found: {listed})", _HINT)
    source = "\n".join(listing.text(name) for name in sorted(listing.texts) if name.endswith(".rs"))
    return Plan(
        language="rust",
        evidence=f"Rust: Cargo.toml; the binary {binaries[0]}",
        port=port or _listening(source) or _DEFAULT_PORT,
        template="rust.Dockerfile",
        command=("/app/app",),
        values={
            "binary": binaries[0],
            "locked": "Cargo.lock" in listing.files,
            "assets": [name for name in _ASSETS if listing.folder(name)],
        },
    )


def _binaries(listing: Listing, manifest: dict[str, Any]) -> list[str]:
    default = manifest["package"].get("default-run")
    if isinstance(default, str):
        return [default]
    found = {str(each["name"]) for each in manifest.get("bin") or () if "name" in each}
    if "src/main.rs" in listing.files:
        found.add(str(manifest["package"].get("name", "app")))
    found |= {path.removeprefix("src/bin/").removesuffix(".rs").removesuffix("/main")
              for path in listing.matching(r"src/bin/[\w-]+(\.rs|/main\.rs)")}  # fmt: skip
    return sorted(found)


def _listening(text: str) -> int:
    """The port that the program names itself, where it does not take it from the environment."""
    if re.search(r"env::var(?:_os)?\(\s*\"PORT\"", text):
        return 0
    match = re.search(r"\"(?:\[?[\d.:]+\]?):(\d{2,5})\"|\]\s*,\s*(\d{4,5})\s*\)", text)
    return int(match[1] or match[2]) if match else 0
