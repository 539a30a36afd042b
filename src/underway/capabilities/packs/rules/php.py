"""PHP under Apache: what composer installs, and which folder is served."""

from __future__ import annotations

import json

from underway.capabilities.packs.model import Lacking, Listing, Plan

_DEFAULT_PORT = 80
_FRAMEWORKS = {"artisan": ("Laravel", "public"), "bin/console": ("Symfony", "public")}
_FOLDERS = ("public", "web", "htdocs", "www")


def detect(listing: Listing, port: int | None) -> Plan | Lacking | None:
    """The plan of a PHP application; nothing where there is neither composer.json nor index.php."""
    composer = "composer.json" in listing.files
    framework, folder = next(
        (found for file, found in _FRAMEWORKS.items() if file in listing.files), ("", "")
    )
    if not folder:
        places = [name for name in _FOLDERS if f"{name}/index.php" in listing.files]
        folder = "." if "index.php" in listing.files else places[0] if places else ""
    if not folder:
        if not composer:
            return None
        reason = "composer.json is there, but no index.php here or in public, web, htdocs, www"
        return Lacking("PHP", reason, "ship an application, or write a Dockerfile")
    served = "the directory itself" if folder == "." else f"{folder}/"
    why = f"{framework}; " if framework else ""
    project = "composer.json" if composer else "index.php"
    return Plan(
        language="php",
        evidence=f"PHP: {project}; {why}Apache serves {served}",
        port=port or _DEFAULT_PORT,
        template="php.Dockerfile",
        command=("apache2-foreground",),
        values={
            "folder": folder,
            "composer": composer,
            "early": [name for name in ("composer.json", "composer.lock") if name in listing.files],
            "extensions": _extensions(listing.text("composer.json")),
        },
    )


def _extensions(text: str) -> list[str]:
    """Required extensions that the image lacks and that compile without further libraries."""
    try:
        required = json.loads(text).get("require") or {}
    except (ValueError, AttributeError):
        return []
    wanted = {name.removeprefix("ext-") for name in required if name.startswith("ext-")}
    return sorted(wanted & {"bcmath", "exif", "mysqli", "pcntl", "pdo_mysql"})
