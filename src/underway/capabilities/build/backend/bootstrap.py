"""A Debian root file system by mmdebstrap, the same bytes for the same packages.

Source: mmdebstrap(1), sources.list(5).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from underway.base.errors import ServiceUnavailable
from underway.capabilities.build.backend import machine
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.model import Layer
from underway.capabilities.build.rules.keys import DEFAULT_EPOCH_S
from underway.linux.layers import Mtimes

SLACK_S = 2.0
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_LEFT_OUT = ("man", "locale", "doc", "groff", "info", "lintian", "linda")
_WORTHLESS = (
    "dev/*", "run/*", "tmp/*", "etc/hostname", "etc/resolv.conf", "etc/apt/sources.list",
    "etc/apt/sources.list.d/*", "etc/apt/apt.conf.d/99mmdebstrap", "var/lib/apt/lists/*",
    "var/cache/apt/*", "var/log/*.log", "var/log/apt", "var/cache/ldconfig/aux-cache",
    "var/cache/debconf/*-old", "var/lib/dpkg/*-old", "var/lib/systemd",
)  # fmt: skip
_APT_SETTINGS = """\
// What a container image has no use for: downloaded packages, caches, translations.
APT::Keep-Downloaded-Packages "false";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
APT::AutoRemove::SuggestsImportant "false";
"""
_BUSYBOX_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    "www-data:x:33:33:www-data:/var/www:/bin/false\n"
    "nobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:::::::\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


class Plan(msgspec.Struct, frozen=True):
    """What to bootstrap: ``slim`` leaves documentation out; ``busybox`` is that program alone."""

    suite: str
    slim: bool = False
    busybox: bool = False


def make(plan: Plan, shelf: Shelf, started_s: float, tell: Callable[[str], object]) -> Layer:
    """Bootstrap and commit it as a layer. Must run in a thread with mounts of its own.

    Raises:
        ServiceUnavailable: mmdebstrap is missing or failed; carries its last lines.
    """
    with shelf.layers.scratch() as scratch:
        tree = scratch.root / "tree"
        sources = scratch.root / "sources.list"
        sources.write_text("".join(f"{line}\n" for line in _sources(plan.suite)))
        options = (
            ["--variant=extract", "--include=busybox-static"]
            if plan.busybox
            else (["--variant=minbase", "--include=tzdata"])
        )
        if plan.slim:
            options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
            options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
        for line in machine.apt_configuration().splitlines():
            if "CAInfo" not in line:
                options.append(f"--aptopt={line.rstrip(';')}")
        argv = ["mmdebstrap", "--mode=root", "--format=directory", *options]
        _run([*argv, plan.suite, str(tree), str(sources)], scratch.root, tell)
        if plan.busybox:
            tree = _busybox(tree, scratch.root / "busybox")
        else:
            _finish(tree, plan)
        made = shelf.layers.commit(tree, shelf.blobs, Mtimes(DEFAULT_EPOCH_S, started_s - SLACK_S))
        return Layer(made.diff_id, made.digest, made.size_bytes, made.media_type)


def _run(argv: list[str], tmp: Path, tell: Callable[[str], object]) -> None:
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(DEFAULT_EPOCH_S),
        "TMPDIR": str(tmp),
        **{n: v for n, v in machine.lent_environment({}).items() if n.lower().endswith("_proxy")},
    }
    tail: deque[str] = deque(maxlen=20)
    try:
        with subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                tail.append(line.rstrip())
                if line.startswith("I: "):
                    tell(f"  {line[3:].rstrip()}")
    except FileNotFoundError as error:
        raise ServiceUnavailable(
            "mmdebstrap is not installed", hint="apt-get install mmdebstrap"
        ) from error
    if process.returncode:
        shown = "\n".join(f"  {line}" for line in tail)
        raise ServiceUnavailable(
            f"mmdebstrap ended with exit code {process.returncode}; its last lines:\n{shown}",
            hint="can this machine reach its Debian mirror? try: apt-get update",
        )


def _sources(suite: str) -> list[str]:
    """The machine's own archives for the suite as one-line sources.

    Raises:
        ServiceUnavailable: its sources name none.
    """
    found: dict[str, str] = {}
    for path in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        if path.suffix in (".list", ".sources") and path.is_file():
            found |= _archives(path.read_text(errors="replace"), suite)
    if suite not in found:
        raise ServiceUnavailable(
            f"this machine's apt sources name no archive of Debian {suite}",
            hint="add one below /etc/apt/sources.list.d",
        )
    lines = [
        f"deb [signed-by={_KEYRING}] {found[suite]} {suite} main",
        f"deb [signed-by={_KEYRING}] {found[suite]} {suite}-updates main",
    ]
    if security := found.get(f"{suite}-security"):
        lines.append(f"deb [signed-by={_KEYRING}] {security} {suite}-security main")
    return lines


def _archives(text: str, suite: str) -> dict[str, str]:
    """Archive URL by suite, from either format of sources."""
    wanted = {suite, f"{suite}-security"}
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(https?://\S+)\s+(\S+)\s+.*\bmain\b", line)
        if match and match[2] in wanted:
            found[match[2]] = match[1]
    for paragraph in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", paragraph, re.M))
        if "main" in fields.get("Components", "").split() and fields.get("Enabled") != "no":
            for each in wanted & set(fields.get("Suites", "").split()):
                found[each] = fields["URIs"].split()[0]
    return found


def _finish(tree: Path, plan: Plan) -> None:
    """Take away what belongs to this machine or this minute; add what images have."""
    for pattern in _WORTHLESS:
        for path in tree.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    deb822 = [
        f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {_KEYRING}\n"
        for uri, suites in _grouped(plan.suite).items()
    ]
    _write(tree / "etc/apt/sources.list.d/debian.sources", "\n".join(deb822))
    _write(tree / "etc/apt/apt.conf.d/90container-image", _APT_SETTINGS)
    _write(tree / "etc/machine-id", "")
    # No service is started by installing its package.
    _write(tree / "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)


def _grouped(suite: str) -> dict[str, str]:
    groups: dict[str, list[str]] = {}
    for line in _sources(suite):
        uri, name = line.split()[2:4]
        groups.setdefault(uri, []).append(name)
    return {uri: " ".join(names) for uri, names in groups.items()}


def _busybox(extracted: Path, tree: Path) -> Path:
    """A tree with BusyBox and a name for each of its programs."""
    for name in ("bin", "etc", "home", "root", "tmp", "usr", "var", "usr/bin", "usr/sbin", "sbin"):
        (tree / name).mkdir(parents=True)
        (tree / name).chmod(0o755)
    (tree / "tmp").chmod(0o1777)
    (tree / "root").chmod(0o700)
    program = tree / "bin/busybox"
    shutil.copyfile(extracted / "bin/busybox", program)
    program.chmod(0o755)
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        if name != "busybox":
            os.link(program, tree / "bin" / name)
    (tree / "usr/bin/env").symlink_to("/bin/env")
    for path, text in _BUSYBOX_FILES.items():
        _write(tree / path, text, 0o600 if path == "etc/shadow" else 0o644)
    return tree


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
