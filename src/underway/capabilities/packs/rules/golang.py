"""Go: one main package, compiled here into a static binary that is all of the image."""

from __future__ import annotations

import re

from underway.capabilities.packs.model import Lacking, Listing, Plan

BINARY = ".underway/app"
_DEFAULT_PORT = 8080
# Folders that Go programs read at run time by relative path.
_ASSETS = ("assets", "public", "static", "templates", "views", "web")


def detect(listing: Listing, port: int | None) -> Plan | Lacking | None:
    """The plan of a Go program; nothing where there is no go.mod."""
    if "go.mod" not in listing.files:
        return None
    mains = sorted(
        {
            path.rpartition("/")[0] or "."
            for path, text in listing.texts.items()
            if path.endswith(".go")
            and not path.endswith("_test.go")
            and re.search(r"^package main\b", text, re.MULTILINE)
        }
    )
    package = "." if "." in mains else mains[0] if len(mains) == 1 else ""
    if not package:
        listed = ", ".join(mains) or "none"
        reason = f"go.mod is there, but not exactly one package main (found: {listed})"
        return Lacking("Go", reason, "ship the directory of one program, or write a Dockerfile")
    package = package if package == "." else f"./{package}"
    text = "\n".join(text for path, text in listing.texts.items() if path.endswith(".go"))
    literal = re.search(r"Listen\w*\(\s*(?:\"tcp\"\s*,\s*)?\"[\w.]*:(\d{2,5})\"", text)
    found = port or (int(literal[1]) if literal else _DEFAULT_PORT)
    return Plan(
        language="go",
        evidence=f"Go: go.mod; {package} compiled into a static binary",
        port=found,
        template="go.Dockerfile",
        command=("/app/app",),
        values={
            "binary": BINARY,
            "assets": [name for name in _ASSETS if listing.folder(name)],
        },
        go_package=package,
    )
