"""Node: what is installed, built and run; sites that are only built are served by nginx."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from underway.capabilities.packs.model import Lacking, Listing, Plan
from underway.capabilities.packs.rules.procfile import web_command
from underway.capabilities.packs.rules.static import DEFAULT_PORT as SITE_PORT

_DEFAULT_PORT = 3000
_ENTRY_FILES = ("server.js", "index.js", "app.js", "main.js", "server.mjs", "index.mjs")
_SETTINGS = (".npmrc", ".yarnrc", ".yarnrc.yml", "pnpm-workspace.yaml")


@dataclass(frozen=True, slots=True)
class _Manager:
    """A package manager's commands; ``setup`` brings it into the image."""

    name: str
    install: str
    frozen: str
    production: str
    prune: str
    setup: str = ""
    quiet: str = ""


_NPM = _Manager(
    "npm", "npm install", "npm ci", "--omit=dev", "npm prune --omit=dev",
    quiet="--no-audit --no-fund",
)  # fmt: skip
_PNPM = _Manager(
    "pnpm", "pnpm install", "pnpm install --frozen-lockfile", "--prod",
    "CI=true pnpm prune --prod", setup="npm install -g pnpm@9 &&",
)  # fmt: skip
_YARN = _Manager(
    "yarn", "yarn install", "yarn install --frozen-lockfile", "--production",
    "yarn install --frozen-lockfile --production", setup="npm install -g yarn@1 &&",
)  # fmt: skip
_BERRY = _Manager(
    "yarn", "yarn install", "yarn install --immutable", "", "yarn workspaces focus --production",
    setup="npm install -g @yarnpkg/cli-dist &&",
)  # fmt: skip
_LOCKS = {
    "package-lock.json": _NPM, "npm-shrinkwrap.json": _NPM, "pnpm-lock.yaml": _PNPM,
    "yarn.lock": _YARN,
}  # fmt: skip


def detect(listing: Listing, port: int | None) -> Plan | Lacking | None:
    """The plan of a Node application; nothing where there is no package.json."""
    if "package.json" not in listing.files:
        return None
    package = _read(listing.text("package.json"))
    if package is None:
        return Lacking("Node", "package.json is no JSON object", "correct package.json")
    scripts = _mapping(package, "scripts")
    values = _installation(listing, package, scripts)
    command, script, why = _choose(listing, package, scripts)
    if command:
        found = port or _listening(listing.text(script)) or _DEFAULT_PORT
        evidence = f"Node: package.json; {why}"
        return Plan("node", evidence, found, "node.Dockerfile", command, values)
    if "build" in scripts:
        output = "build" if "react-scripts" in _dependencies(package) else "dist"
        evidence = f"Node: package.json; built into {output}/ and served by nginx"
        values = {**values, "output": output}
        return Plan("node", evidence, port or SITE_PORT, "node-site.Dockerfile", (), values)
    reason = "package.json has no start script and no main file"
    return Lacking("Node", reason, 'add a "start" script to package.json')


def _read(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _mapping(package: dict[str, Any], name: str) -> dict[str, Any]:
    value = package.get(name)
    return value if isinstance(value, dict) else {}


def _dependencies(package: dict[str, Any]) -> dict[str, Any]:
    return {**_mapping(package, "dependencies"), **_mapping(package, "devDependencies")}


def _installation(
    listing: Listing, package: dict[str, Any], scripts: dict[str, Any]
) -> dict[str, object]:
    lock = listing.first(*_LOCKS)
    manager = _LOCKS.get(lock, _NPM)
    if manager is _YARN and ".yarnrc.yml" in listing.files:
        manager = _BERRY  # from version 2 on, whose locks the first cannot read
    builds = "build" in scripts
    wanted = _dependencies(package) if builds else _mapping(package, "dependencies")
    install = ""
    if wanted or lock:
        words = [manager.frozen if lock else manager.install, "" if builds else manager.production]
        install = " ".join(word for word in (manager.setup, *words, manager.quiet) if word)
    early = ["package.json", *([lock] if lock else [])]
    early += [name for name in _SETTINGS if name in listing.files]
    return {
        "early": early,
        "install": install,
        "build": f"{manager.name} run build" if builds else "",
        "prune": manager.prune if install else "",
    }


def _choose(
    listing: Listing, package: dict[str, Any], scripts: dict[str, Any]
) -> tuple[tuple[str, ...], str, str]:
    """The command, the script whose text may name a port, and the reason."""
    web = web_command(listing.text("Procfile"))
    if web:
        return web, "", "run by its Procfile"
    start = scripts.get("start")
    if isinstance(start, str):
        words = _plain_words(start)
        if words and words[0] == "node" and len(words) > 1:
            # Without npm in between, the application gets the signals itself.
            script = next((word for word in words[1:] if not word.startswith("-")), "")
            return tuple(words), _file(listing, script), f"its start script, {start}"
        main = package.get("main")
        return ("npm", "start"), _file(listing, str(main or "")), "npm start"
    main = package.get("main")
    script = _file(listing, main) if isinstance(main, str) else ""
    script = script or listing.first(*_ENTRY_FILES)
    return (("node", script), script, f"node {script}") if script else ((), "", "")


def _plain_words(command: str) -> list[str]:
    """The words of a command that needs no shell; none where it does."""
    if re.search(r"[;&|<>$`*?(){}\[\]~=]", command):
        return []
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _file(listing: Listing, script: str) -> str:
    name = script.removeprefix("./")
    return listing.first(name, f"{name}.js", f"{name}/index.js") if name else ""


def _listening(text: str) -> int:
    """The port that a script names itself, where it does not take it from the environment."""
    if re.search(r"process\.env\.PORT|process\.env\[[\"']PORT[\"']\]", text):
        return 0
    match = re.search(r"\.listen\(\s*(\d{2,5})\b|\bport\s*[:=]\s*(\d{2,5})\b", text, re.IGNORECASE)
    return int(match[1] or match[2]) if match else 0
