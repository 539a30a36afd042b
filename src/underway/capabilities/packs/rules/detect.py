"""Which language a source is of.

A Dockerfile wins; then the languages, each only when there is something to run; then a static
site.
"""

from __future__ import annotations

from underway.base.errors import BadRequest
from underway.capabilities.packs.model import LANGUAGES, Lacking, Listing, Plan
from underway.capabilities.packs.rules import (
    dockerfile,
    dotnet,
    golang,
    java,
    node,
    php,
    python,
    ruby,
    rust,
    static,
)

_RULES = {
    "python": python, "node": node, "go": golang, "java": java, "rust": rust, "dotnet": dotnet,
    "php": php, "ruby": ruby, "static": static,
}  # fmt: skip
LOOKED_FOR = {
    "dockerfile": "a Dockerfile",
    "python": "requirements.txt, pyproject.toml, Pipfile, setup.py, app.py or main.py",
    "node": "package.json",
    "go": "go.mod",
    "java": "pom.xml or build.gradle",
    "rust": "Cargo.toml",
    "dotnet": "a .csproj, .fsproj or .vbproj",
    "php": "composer.json or index.php",
    "ruby": "Gemfile, config.ru or app.rb",
    "static": "index.html in the directory itself or in public, dist, build, _site, site or www",
}
"""What each language is known by."""


def detect(listing: Listing, port: int | None = None, dockerfile_name: str = "Dockerfile") -> Plan:
    """How to make an image of a source.

    Args:
        listing: its files.
        port: the port the application shall listen on; otherwise its language's habit.
        dockerfile_name: the path of the Dockerfile below the source.

    Raises:
        BadRequest: nothing was recognised, or what was lacks something to run.
    """
    if dockerfile_name in listing.files:
        return dockerfile.detect(listing.text(dockerfile_name), port)
    lacking: list[Lacking] = []
    for language in LANGUAGES:
        found = _RULES[language].detect(listing, port)
        if isinstance(found, Plan):
            return found
        if found is not None:
            lacking.append(found)
    if lacking:
        raise BadRequest(
            "; ".join(f"{each.language}: {each.reason}" for each in lacking),
            hint=lacking[0].hint or "write a Dockerfile",
        )
    raise BadRequest(
        f"nothing here that can be shipped; looked for {'; '.join(LOOKED_FOR.values())}",
        hint="write a Dockerfile, or name the directory that holds the application",
    )
