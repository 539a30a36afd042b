"""Ruby: Rails, Rack and Sinatra applications, and plain scripts."""

from __future__ import annotations

import re

from underway.capabilities.packs.model import Lacking, Listing, Plan
from underway.capabilities.packs.rules.procfile import web_command

_DEFAULT_PORT = 3000
_RACK_PORT = 9292
_SINATRA_PORT = 4567
_ENTRY_FILES = ("app.rb", "server.rb", "main.rb")


def detect(listing: Listing, port: int | None) -> Plan | Lacking | None:
    """The plan of a Ruby application; nothing where there is neither Gemfile nor config.ru."""
    project = listing.first("Gemfile", "config.ru", *_ENTRY_FILES)
    if not project:
        return None
    chosen = _choose(listing, port)
    if chosen is None:
        reason = f"{project} is there, but no config.ru, Rails application or app.rb"
        return Lacking("Ruby", reason, "add a Procfile with a `web` line, or write a Dockerfile")
    command, number, why = chosen
    early = [name for name in ("Gemfile", "Gemfile.lock") if name in listing.files]
    bundled = bool(early)
    if bundled and command[0] != "/bin/sh":
        command = ("bundle", "exec", *command)
    return Plan(
        language="ruby",
        evidence=f"Ruby: {project}; {why}",
        port=number,
        template="ruby.Dockerfile",
        command=command,
        values={
            "early": early,
            "locked": "Gemfile.lock" in listing.files,
            "assets": "config/application.rb" in listing.files and listing.folder("app/assets"),
        },
    )


def _choose(listing: Listing, port: int | None) -> tuple[tuple[str, ...], int, str] | None:
    gemfile = listing.text("Gemfile")
    web = web_command(listing.text("Procfile"))
    if web:
        return web, port or _DEFAULT_PORT, "run by its Procfile"
    if "config/application.rb" in listing.files:
        number = port or _DEFAULT_PORT
        return ("rails", "server", "-b", "0.0.0.0", "-p", str(number)), number, "Rails"  # noqa: S104
    if "config.ru" in listing.files:
        number = port or _RACK_PORT
        if re.search(r"^\s*gem\s+['\"]puma['\"]", gemfile, re.MULTILINE):
            return ("puma", "-b", f"tcp://0.0.0.0:{number}"), number, "config.ru under puma"
        return ("rackup", "-o", "0.0.0.0", "-p", str(number)), number, "config.ru"  # noqa: S104
    script = listing.first(*_ENTRY_FILES)
    if not script:
        return None
    if re.search(r"^\s*require\s+['\"]sinatra['\"]", listing.text(script), re.MULTILINE):
        number = port or _SINATRA_PORT
        command = ("ruby", script, "-o", "0.0.0.0", "-p", str(number))  # noqa: S104
        return command, number, f"{script}, a Sinatra application"
    return ("ruby", script), port or _listening(listing.text(script)) or _DEFAULT_PORT, script


def _listening(text: str) -> int:
    """The port that a script names itself, where it does not take it from the environment."""
    if re.search(r"ENV(?:\.fetch\(|\[)\s*['\"]PORT['\"]", text):
        return 0
    match = re.search(r"TCPServer\.new\([^)]*?(\d{2,5})\s*\)|Port:?\s*(?:=>)?\s*(\d{2,5})", text)
    return int(match[1] or match[2]) if match else 0
