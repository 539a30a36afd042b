"""Sources that bring a Dockerfile: theirs, or one of ours that is kept from last time."""

from __future__ import annotations

import re

from underway.capabilities.packs.model import LANGUAGES, MARKER, Plan
from underway.wire.dockerfile import parse
from underway.wire.dockerfile_instructions import Arg, Dockerfile, Env, Expose
from underway.wire.dockerfile_words import expand

FALLBACK_PORT = 8080
# What well-known images listen on, for Dockerfiles that leave it to them.
_PORTS_OF_BASES = {
    "nginx": 80,
    "httpd": 80,
    "caddy": 80,
    "redis": 6379,
    "postgres": 5432,
    "mysql": 3306,
    "memcached": 11211,
}


def detect(text: str, port: int | None) -> Plan:
    """The plan of a source with a Dockerfile of this text.

    Raises:
        BadRequest: the Dockerfile has an error; file and line are named.
    """
    language, go_package = _marked(text)
    found, why = exposed_port(parse(text))
    if port is not None:
        found, why = port, "as asked for"
    return Plan(
        language=language,
        evidence=f"Dockerfile; port {found} ({why})",
        port=found,
        go_package=go_package,
    )


def _marked(text: str) -> tuple[str, str]:
    """Language and Go package from the marker's line, for Dockerfiles of ours."""
    for line in text.splitlines()[:5]:
        if line.startswith(MARKER):
            words = line.removeprefix(MARKER).split()
            if words and words[0] in LANGUAGES:
                package = words[1] if len(words) > 1 and words[0] == "go" else ""
                return words[0], package
    return "dockerfile", ""


def exposed_port(file: Dockerfile) -> tuple[int, str]:
    """The port that the last stage (or a stage it stands on) declares, and how that is known."""
    variables = {name: expand(value or "", {}) for each in file.args for name, value in each.pairs}
    port, why = FALLBACK_PORT, "no EXPOSE, so a guess"
    by_name: dict[str, tuple[int, str]] = {}
    for stage in file.stages:
        image = expand(stage.base.image, variables).lower()
        port, why = by_name.get(image) or _port_of_base(image)
        known: dict[str, str] = {}
        exposed = False
        for step in stage.steps:
            if isinstance(step, Arg | Env):
                for name, value in step.pairs:
                    # An ARG without a value takes the one given before the first FROM.
                    given = expand(value, known) if value is not None else variables.get(name)
                    if given is not None:
                        known[name] = given
                if isinstance(step, Env) and known.get("PORT", "").isdigit() and not exposed:
                    port, why = int(known["PORT"]), "ENV PORT"
            elif isinstance(step, Expose) and not exposed:
                declared = _first_tcp(step, known)
                if declared:
                    port, why, exposed = declared, "EXPOSE", True
        if stage.name:
            by_name[stage.name] = (port, why)
        by_name[str(stage.index)] = (port, why)
    return port, why


def _port_of_base(image: str) -> tuple[int, str]:
    name = re.sub(r"[:@].*", "", image.rsplit("/", 1)[-1])
    if name in _PORTS_OF_BASES:
        return _PORTS_OF_BASES[name], f"what {name} listens on"
    return FALLBACK_PORT, "no EXPOSE, so a guess"


def _first_tcp(step: Expose, variables: dict[str, str]) -> int:
    for word in step.ports:
        match = re.fullmatch(r"(\d+)(?:-\d+)?(?:/(\w+))?", expand(word, variables))
        if match and (match[2] or "tcp").lower() == "tcp" and 0 < int(match[1]) < 65_536:
            return int(match[1])
    return 0
