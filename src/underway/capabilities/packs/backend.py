"""Reading source directories, compiling Go, and writing what a source lacks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import jinja2

from underway.base.errors import BadRequest, NotFound
from underway.base.files import write_atomic
from underway.base.home import Home
from underway.capabilities.packs.model import MARKER, Listing, Plan
from underway.capabilities.packs.rules import detect, dns_label
from underway.capabilities.packs.rules.golang import BINARY
from underway.kit.ports import FittedSource, SourceFitter

FOLDER = ".underway"
USER_ID = 10_001  # beyond the accounts of any base image
DEPTH_LIMIT = 4  # folders below the source that are looked into
FILES_LIMIT = 20_000
TEXT_LIMIT_BYTES = 256 * 1024
COMPILE_TIMEOUT_S = 600.0

_SKIPPED = frozenset(
    {".git", ".venv", "venv", "env", "node_modules", "__pycache__", "vendor", ".tox", FOLDER}
)
_READ = frozenset(
    {
        "Dockerfile",
        "Pipfile",
        "Procfile",
        "go.mod",
        "package.json",
        "pyproject.toml",
        "requirements.txt",
    }
)
_READ_SUFFIXES = (".py", ".js", ".mjs", ".go")
_IGNORED = {
    "python": ("**/__pycache__", "**/*.pyc", ".venv", "venv", ".pytest_cache", ".mypy_cache"),
    "node": ("node_modules", "npm-debug.log"),
    "static": (),
    "go": ("**/*.go", "go.mod", "go.sum"),
}


def make(home: Home) -> SourceFitter:
    """The provider of the port ``source-fitter``."""
    del home  # sources lie outside the platform's directory
    return Fitter()


def read_listing(root: Path) -> Listing:
    """The files of a source and the text of those that tell what it is.

    Raises:
        NotFound: there is no such directory.
        BadRequest: it holds more files than an application has.
    """
    if not root.is_dir():
        raise NotFound(f"{root} is not a directory")
    files: set[str] = set()
    texts: dict[str, str] = {}
    for folder, names, found in os.walk(root):
        here = Path(folder)
        depth = len(here.relative_to(root).parts)
        names[:] = sorted(n for n in names if n not in _SKIPPED) if depth < DEPTH_LIMIT else []
        for name in sorted(found):
            path = here / name
            relative = path.relative_to(root).as_posix()
            files.add(relative)
            if len(files) > FILES_LIMIT:
                raise BadRequest(
                    f"{root} holds more than {FILES_LIMIT} files",
                    hint="name the directory of one application",
                )
            if (depth == 0 and name in _READ) or name.endswith(_READ_SUFFIXES):
                texts[relative] = _text(path)
    return Listing(frozenset(files), texts)


def _text(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > TEXT_LIMIT_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadRequest(f"{path}: {error.strerror}") from error


class Fitter:
    """Writes what a source lacks; what is there is never touched."""

    def fit(self, root: Path, name: str, port: int | None) -> FittedSource:
        """Detect what the source is and write what it lacks.

        Args:
            root: the source's directory.
            name: the application's; made a DNS label.
            port: the port it shall listen on; otherwise what it says itself, or the habit of
                its language.

        Raises:
            NotFound: there is no such directory.
            BadRequest: nothing was recognised, saying what was looked for; a Dockerfile has an
                error; a Go program does not compile, or there is no Go to compile it.
        """
        root = root.absolute()
        plan = detect(read_listing(root), port)
        if plan.go_package:
            compile_go(root, plan.go_package)
        written = _write_missing(root, plan, dns_label(name or root.name))
        return FittedSource(
            root=root,
            language=plan.language,
            dockerfile=root / "Dockerfile",
            manifests=tuple(manifests_of(root)),
            port=plan.port,
            written=tuple(written),
            evidence=plan.evidence,
        )


def manifests_of(root: Path) -> list[Path]:
    """The manifests of a source: those below ``.underway``, or else those below ``k8s``."""
    for folder in (FOLDER, "k8s"):
        found = sorted(
            path
            for suffix in ("*.yaml", "*.yml")
            for path in (root / folder).glob(suffix)
            if path.is_file()
        )
        if found:
            return found
    return []


def _write_missing(root: Path, plan: Plan, name: str) -> list[Path]:
    wanted: dict[str, str] = {}
    values = _values(plan, name)
    if plan.template:
        wanted["Dockerfile"] = _render(plan.template, values)
        wanted[".dockerignore"] = _render("dockerignore", values)
        if values["own_port"]:
            wanted[f"{FOLDER}/nginx.conf"] = _render("nginx.conf", values)
    if plan.go_package:
        wanted[f"{FOLDER}/.gitignore"] = f"{Path(BINARY).name}\n"
    if not manifests_of(root):
        wanted[f"{FOLDER}/deploy.yaml"] = _render("deploy.yaml", values)
    written: list[Path] = []
    for relative, text in wanted.items():
        path = root / relative
        if path.exists() or path.is_symlink():
            continue
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, text)
        except OSError as error:
            raise BadRequest(
                f"{path} cannot be written: {error.strerror}",
                hint="make the source's directory writable, or write the file yourself",
            ) from error
        written.append(path)
    return written


def _values(plan: Plan, name: str) -> dict[str, object]:
    served = plan.template in ("static.Dockerfile", "node-site.Dockerfile")
    return {
        **plan.values,
        "marker": MARKER,
        "name": name,
        "port": plan.port,
        "command": json.dumps(list(plan.command)),
        "go_package": plan.go_package,
        # Below 1024 a port needs privileges; nginx drops its own.
        "user": USER_ID if plan.port >= 1024 and not served else 0,
        "own_port": served and plan.port != 80,
        "ignored": _IGNORED.get(plan.language, ()),
    }


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("underway.capabilities.packs", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # these are no web pages
    )


def _render(template: str, values: Mapping[str, object]) -> str:
    return _environment().get_template(template).render(values)


def compile_go(root: Path, package: str) -> Path:
    """Compile a Go program into a static binary below the source; the same source, same bytes.

    Raises:
        BadRequest: there is no Go toolchain, or the program does not compile; with the
            compiler's last lines.
    """
    go = shutil.which("go")
    if go is None:
        raise BadRequest(
            "this is a Go program, and `go` is not on PATH to compile it",
            hint="install Go (apt-get install golang-go), or write a Dockerfile",
        )
    target = root / BINARY
    command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"]
    try:
        target.parent.mkdir(exist_ok=True)
        done = subprocess.run(
            [*command, "-o", str(target), package],
            cwd=root,
            env={**os.environ, "CGO_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMPILE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BadRequest(f"go build took longer than {COMPILE_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise BadRequest(f"go build cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()[-20:]
        raise BadRequest("go build failed:\n" + "\n".join(lines))
    return target
