"""Python: what is installed, what is run, and on which port."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from underway.capabilities.packs.model import Lacking, Listing, Plan
from underway.capabilities.packs.rules.procfile import web_command

_PROJECT_FILES = ("requirements.txt", "pyproject.toml", "Pipfile", "setup.py")
_ENTRY_FILES = ("app.py", "main.py", "wsgi.py", "asgi.py", "server.py", "application.py", "run.py")
_DEFAULT_PORT = 8000
_FLASK_PORT = 5000
_STREAMLIT_PORT = 8501
_WSGI = {"flask": "Flask", "bottle": "Bottle", "falcon": "App", "dash": "Dash"}
_ASGI = {
    "fastapi": "FastAPI",
    "starlette": "Starlette",
    "quart": "Quart",
    "litestar": "Litestar",
    "sanic": "Sanic",
}
# How a lock becomes requirements with hashes, so that pip alone installs.
_LOCKS = {
    "uv.lock": "pip install --no-cache-dir uv && uv export --frozen --no-dev"
    " --no-emit-project --quiet -o /tmp/requirements.txt",
    "poetry.lock": "pip install --no-cache-dir poetry poetry-plugin-export"
    " && poetry export --only main -o /tmp/requirements.txt",
}
_HINT = "add a Procfile with a line such as `web: gunicorn app:app`, or write a Dockerfile"


def detect(listing: Listing, port: int | None) -> Plan | Lacking | None:
    """The plan of a Python application; nothing where there is no Python."""
    project = listing.first(*_PROJECT_FILES)
    entry = listing.first("manage.py", *_ENTRY_FILES)
    if not project and not entry:
        return None
    packages = dependencies(listing)
    chosen = _choose(listing, packages, port)
    if chosen is None:
        reason = f"{project or entry} is there, but nothing says what to run"
        return Lacking("Python", reason, _HINT)
    command, found_port, why = chosen
    return Plan(
        language="python",
        evidence=f"Python: {project or entry}; {why}",
        port=found_port,
        template="python.Dockerfile",
        command=command,
        values=_installation(listing),
    )


def _installation(listing: Listing) -> dict[str, object]:
    """What is copied before the rest so that its layer is kept, and how it is installed."""
    if "requirements.txt" in listing.files:
        if re.search(r"^\s*(?:-e\s+)?\.", listing.text("requirements.txt"), re.MULTILINE):
            # It installs the source itself, which has to be there first.
            return {"install_late": "pip install --no-cache-dir -r requirements.txt"}
        others = listing.matching(r"requirements[-_\w]*\.txt|constraints\.txt")
        return {
            "early": others,
            "install_early": "pip install --no-cache-dir -r requirements.txt",
        }
    if "Pipfile" in listing.files:
        locked = "Pipfile.lock" in listing.files
        how = "--deploy --ignore-pipfile" if locked else "--skip-lock"
        return {
            "early": ["Pipfile", *(["Pipfile.lock"] if locked else [])],
            "install_early": f"pip install --no-cache-dir pipenv && pipenv install --system {how}",
        }
    table = _toml(listing.text("pyproject.toml"))
    for lock, export in _LOCKS.items():
        if lock in listing.files:
            install = "pip install --no-cache-dir -r /tmp/requirements.txt"
            late = "pip install --no-cache-dir --no-deps ." if "build-system" in table else ""
            return {
                "early": ["pyproject.toml", lock],
                "install_early": f"{export} && {install}",
                "install_late": late,
            }
    if "setup.py" in listing.files or "build-system" in table:
        return {"install_late": "pip install --no-cache-dir ."}
    wanted = _strings((table.get("project") or {}).get("dependencies"))
    if wanted:
        quoted = " ".join(f"'{each}'" for each in wanted if "'" not in each)
        return {"install_early": f"pip install --no-cache-dir {quoted}"}
    return {}


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def _strings(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def dependencies(listing: Listing) -> dict[str, str]:
    """Names of the packages the project lists, normalised, with their extras."""
    table = _toml(listing.text("pyproject.toml"))
    lines = listing.text("requirements.txt").splitlines()
    lines += _strings((table.get("project") or {}).get("dependencies"))
    poetry = ((table.get("tool") or {}).get("poetry") or {}).get("dependencies") or {}
    pipfile = _toml(listing.text("Pipfile")).get("packages") or {}
    lines += [*poetry, *pipfile]
    lines += re.findall(r"""["']([\w.-]+(?:\[[\w,\s]+\])?)[^"']*["']""", listing.text("setup.py"))
    found: dict[str, str] = {}
    for line in lines:
        match = re.match(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?", line)
        if match:
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2] or ""
    return found


Chosen = tuple[tuple[str, ...], int, str]


def _choose(listing: Listing, packages: dict[str, str], port: int | None) -> Chosen | None:
    """The command, the port it listens on, and the reason."""
    web = web_command(listing.text("Procfile"))
    if web:
        literal = re.search(r":(\d{2,5})\b|--port[= ](\d{2,5})\b", web[-1])
        named = int(literal[1] or literal[2]) if literal else 0
        return web, port or named or _DEFAULT_PORT, "run by its Procfile"
    if "manage.py" in listing.files:
        return _django(listing, packages, port or _DEFAULT_PORT)
    return (
        _framework(listing, packages, port) or _script(listing, port) or _installed(listing, port)
    )


def _django(listing: Listing, packages: dict[str, str], port: int) -> Chosen:
    for server, kind in (("gunicorn", "wsgi"), ("uvicorn", "asgi"), ("daphne", "asgi")):
        modules = listing.matching(rf"[A-Za-z_]\w*/{kind}\.py")
        if server not in packages or not modules:
            continue
        target = f"{modules[0].partition('/')[0]}.{kind}:application"
        return _server(server, target, port), port, f"Django under {server}"
    command = ("python", "manage.py", "runserver", "--noreload", f"0.0.0.0:{port}")
    return command, port, "Django's own server, as no other is listed"


def _server(server: str, target: str, port: int) -> tuple[str, ...]:
    commands: dict[str, tuple[str, ...]] = {
        "gunicorn": ("gunicorn", "--bind", f"0.0.0.0:{port}", target),
        "waitress": ("waitress-serve", f"--listen=0.0.0.0:{port}", target),
        "uvicorn": ("uvicorn", "--host", "0.0.0.0", "--port", str(port), target),  # noqa: S104
        "hypercorn": ("hypercorn", "--bind", f"0.0.0.0:{port}", target),
        "daphne": ("daphne", "--bind", "0.0.0.0", "--port", str(port), target),  # noqa: S104
    }
    return commands[server]


def _framework(listing: Listing, packages: dict[str, str], port: int | None) -> Chosen | None:
    """An application object in one of the usual modules, under a server the project lists."""
    if "streamlit" in packages and (script := listing.first(*_ENTRY_FILES, "streamlit_app.py")):
        number = port or _STREAMLIT_PORT
        options = ("--server.address", "0.0.0.0", "--server.port", str(number))  # noqa: S104
        command = ("streamlit", "run", script, *options, "--server.headless", "true")
        return command, number, "Streamlit"
    for classes, servers in (
        (_ASGI, ("uvicorn", "hypercorn")),
        (_WSGI, ("gunicorn", "waitress")),
    ):
        for framework, name in classes.items():
            if framework not in packages:
                continue
            target = _application(listing, name)
            if target is None:
                continue
            for server in servers:
                if server in packages or (server == "uvicorn" and _brings_uvicorn(packages)):
                    number = port or _DEFAULT_PORT
                    why = f"{framework} under {server}"
                    return _server(server, ":".join(target), number), number, why
            if framework == "flask":
                return _flask(listing, target, port)
    return None


def _brings_uvicorn(packages: dict[str, str]) -> bool:
    extras = re.split(r"[,\s]+", packages.get("fastapi", ""))
    return "standard" in extras or "all" in extras


def _flask(listing: Listing, target: tuple[str, str], port: int | None) -> Chosen:
    """Flask without a server: the script if it listens on all addresses, otherwise flask run."""
    module, name = target
    file = f"{module.replace('.', '/')}.py"
    text = listing.text(file)
    if re.search(r"\.run\([^)]*host\s*=\s*[\"']0\.0\.0\.0", text) and "__main__" in text:
        number = port or _listening(text) or _FLASK_PORT
        return ("python", file), number, f"{file}, which listens by itself"
    number = port or _FLASK_PORT
    options = ("--host", "0.0.0.0", "--port", str(number))  # noqa: S104  # inside its container
    command = ("flask", "--app", f"{module}:{name}", "run", *options)
    return command, number, "flask run, as no server is listed"


def _application(listing: Listing, name: str) -> tuple[str, str] | None:
    """Module and variable of the first object of a class, or of a factory that makes one."""
    packaged = listing.matching(r"[A-Za-z_]\w*/(?:__init__|app|main|wsgi|asgi|server)\.py")
    for file in (*_ENTRY_FILES, *packaged):
        text = listing.text(file)
        module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        made = re.search(rf"^(\w+)\s*(?::[^=\n]+)?=\s*(?:\w+\.)*{name}\(", text, re.MULTILINE)
        if made:
            return module, made[1]
        factory = re.search(r"^(\w+)\s*=\s*create_app\(", text, re.MULTILINE)
        if factory:
            return module, factory[1]
        if name == "Flask" and re.search(r"^def create_app\(", text, re.MULTILINE):
            return module, "create_app()"
    return None


def _script(listing: Listing, port: int | None) -> Chosen | None:
    script = listing.first(*_ENTRY_FILES)
    if not script:
        mains = listing.matching(r"[A-Za-z_]\w*/__main__\.py")
        if len(mains) != 1:
            return None
        package = mains[0].partition("/")[0]
        number = port or _listening(listing.text(mains[0])) or _DEFAULT_PORT
        return ("python", "-m", package), number, f"python -m {package}"
    number = port or _listening(listing.text(script)) or _DEFAULT_PORT
    return ("python", script), number, f"python {script}"


def _listening(text: str) -> int:
    """The port that a script names itself, where it does not take it from the environment."""
    if re.search(r"environ[^\n]*[\"']PORT[\"']|getenv\([\"']PORT[\"']", text):
        return 0
    for pattern in (
        r"\bport\s*=\s*(\d{2,5})\b",
        r"Server\(\s*\(\s*[\"'][^\"']*[\"']\s*,\s*(\d{2,5})\s*\)",
        r"^PORT\s*=\s*(\d{2,5})\b",
    ):
        match = re.search(pattern, text, re.MULTILINE)
        if match:
            return int(match[1])
    return 0


def _installed(listing: Listing, port: int | None) -> Chosen | None:
    """The one command that the project installs."""
    project = _toml(listing.text("pyproject.toml")).get("project") or {}
    scripts = project.get("scripts") or {}
    if not isinstance(scripts, dict) or len(scripts) != 1:
        return None
    name = next(iter(scripts))
    return (str(name),), port or _DEFAULT_PORT, f"its command {name}"
