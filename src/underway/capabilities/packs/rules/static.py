"""Static sites: a directory with an index.html, served by nginx."""

from __future__ import annotations

from underway.capabilities.packs.model import Lacking, Listing, Plan

DEFAULT_PORT = 80
_FOLDERS = ("public", "dist", "build", "_site", "site", "www")


def detect(listing: Listing, port: int | None) -> Plan | Lacking | None:
    """The plan of a static site; nothing where no index.html is found."""
    for folder in (".", *_FOLDERS):
        index = "index.html" if folder == "." else f"{folder}/index.html"
        if index in listing.files:
            return Plan(
                language="static",
                evidence=f"static site: {index}",
                port=port or DEFAULT_PORT,
                template="static.Dockerfile",
                values={"folder": folder},
            )
    return None
