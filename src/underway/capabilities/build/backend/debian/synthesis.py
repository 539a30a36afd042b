"""What well-known maintainer scripts would have done, done by reading.

Each row of the table says for which package, what, and why an image needs it. What is not here
stays undone: services are not enabled, no cache is filled, nothing is started. Packages whose
scripts do more than this need ``steps``.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from underway.base.errors import BadRequest
from underway.capabilities.build.backend.debian.accounts import Accounts
from underway.capabilities.build.backend.debian.certificates import install_authorities
from underway.capabilities.build.backend.debian.linkcache import write_cache
from underway.capabilities.build.backend.debian.unpacking import DPKG, Tree

_ROOT_DIRECTORIES = {
    "boot": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "media": 0o755, "mnt": 0o755,
    "opt": 0o755, "proc": 0o755, "root": 0o700, "run": 0o755, "srv": 0o755, "sys": 0o755,
    "tmp": 0o1777, "usr": 0o755, "var": 0o755, "var/tmp": 0o1777,
}  # fmt: skip
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


@dataclass(frozen=True)
class Made:
    """What is known while an image is made: its tree, its accounts, the names of new packages.

    ``sources`` is the text of apt's sources for it, ``exclude`` are dpkg's options for what is left
    out.
    """

    tree: Tree
    accounts: Accounts
    architecture: str
    sources: str = ""
    exclude: str = ""

    @property
    def new(self) -> set[str]:
        """The names of the packages unpacked now."""
        return {each.name for each in self.tree.packages}


Synthesis = Callable[[Made], None]


def _accounts_start(made: Made) -> None:
    for name in ("passwd", "group"):
        text = made.tree.read(f"usr/share/base-passwd/{name}.master")
        made.accounts.start(name, text)


def _apt_user(made: Made) -> None:
    made.accounts.add_user("_apt", 42, 65534, "/nonexistent", "/usr/sbin/nologin")


def _root_directories(made: Made) -> None:
    for path, mode in _ROOT_DIRECTORIES.items():
        made.tree.directory(path, mode)


def _base_files(made: Made) -> None:
    tree, default = made.tree, "usr/share/base-files"
    for name, path in (("dot.profile", "root/.profile"), ("dot.bashrc", "root/.bashrc"),
                       ("profile", "etc/profile"), ("motd", "etc/motd")):  # fmt: skip
        _copy(tree, f"{default}/{name}", path)
    for path in ("etc/opt", "var/opt", "var/log", "var/spool", "run/lock"):
        tree.directory(path, 0o755)
    _mode(tree, "run/lock", 0o1777)
    _mode(tree, "var/mail", 0o2775, gid=8)
    for name in ("share", "share/man", "bin", "games", "lib", "include", "sbin", "src", "etc"):
        tree.directory(f"usr/local/{name}", 0o755)
    for path, target in {
        "var/run": "/run", "var/lock": "/run/lock",
        "var/spool/mail": "../mail", "usr/local/man": "share/man",
    }.items():  # fmt: skip
        _replace_directory(tree, path, target)
    if not tree.exists("etc/dpkg/origins/default") and tree.exists("etc/dpkg/origins/debian"):
        tree.link("etc/dpkg/origins/default", "debian")
    for name, mode in (("wtmp", 0o664), ("btmp", 0o660), ("lastlog", 0o664)):
        tree.write(f"var/log/{name}", "", mode, 0, 43)
    tree.write("etc/fstab", "# UNCONFIGURED FSTAB FOR BASE SYSTEM\n")
    tree.write("etc/machine-id", "")


def _name_service(made: Made) -> None:
    _copy(made.tree, "usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf")


def _shells(made: Made) -> None:
    tree = made.tree
    found = ["/bin/sh"]
    listed = tree.resolved("usr/share/debianutils/shells.d")
    for file in sorted(listed.iterdir()) if listed else ():
        text = tree.read(f"usr/share/debianutils/shells.d/{file.name}")
        found += [line for line in text.splitlines() if line.startswith("/")]
    both = [*found, *(f"/usr{each}" for each in found if each.startswith("/bin/"))]
    tree.write(
        "etc/shells", "".join(f"{each}\n" for each in ["# /etc/shells: valid login shells", *both])
    )
    twice = [each for shell in found for each in (shell, f"/usr{shell}")]
    tree.write("var/lib/shells.state", "".join(f"{each}\n" for each in twice))


def _plain_sh(made: Made) -> None:
    tree = made.tree
    if not tree.exists("usr/bin/sh"):
        tree.link("usr/bin/sh", "dash")
    was = tree.read(f"{DPKG}/diversions")
    if made.accounts.has_dpkg and "/bin/sh\n" not in was:
        tree.write(f"{DPKG}/diversions", f"{was}/bin/sh\n/bin/sh.distrib\ndash\n")


def _time_zone(made: Made) -> None:
    if not made.tree.exists("etc/localtime"):
        made.tree.link("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
        made.tree.write("etc/timezone", "Etc/UTC\n")


def _login_files(made: Made) -> None:
    for name in ("environment", "subuid", "subgid", "security/opasswd"):
        if not made.tree.exists(f"etc/{name}"):
            made.tree.write(f"etc/{name}", "", 0o600 if name.endswith("opasswd") else 0o644)
    made.tree.write("var/log/faillog", "")


def _pluggable_authentication(made: Made) -> None:
    """One profile, pam_unix: the stacks of ``common-*`` from the package's own templates."""
    tree = made.tree
    profile = _profile(tree.read("usr/share/pam-configs/unix"))
    for kind in ("auth", "account", "password", "session", "session-noninteractive"):
        text = tree.read(f"usr/share/pam/common-{kind}")
        name = "session" if kind.startswith("session") else kind
        lines = "".join(
            f"{name}\t{each.replace('success=end', 'success=1')}\n"
            for each in profile.get(name, [])
        )
        permit = "session\t[default=1]\t\t\tpam_permit.so\n" if name == "session" else ""
        variable = kind.replace("-", r"[-_]")
        primary, additional = (permit, lines) if name == "session" else (lines, "")
        for place, new in (("primary", primary), ("additional", additional)):
            text = re.sub(rf"^\${variable}_{place}\n", new.replace("\\", r"\\"), text, flags=re.M)
        tree.write(f"etc/pam.d/common-{kind}", text)
        listed = "Module: null\n[default=1]\t\t\tpam_permit.so\n" if permit else ""
        modules = "".join(f"{each}\n" for each in profile.get(name, []))
        tree.write(f"var/lib/pam/{kind}", f"{listed}Module: unix\n{modules}")
    tree.write("var/lib/pam/seen", "unix\n")


def _profile(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for match in re.finditer(r"^(\w+)-Initial:\n((?:[ \t].*\n)+)", f"{text}\n", re.M):
        found[match[1].lower()] = [line.strip() for line in match[2].splitlines()]
    return found


def _apt_configuration(made: Made) -> None:
    made.tree.write("etc/apt/apt.conf.d/90container-image", _APT_SETTINGS)
    made.tree.write("etc/apt/sources.list.d/debian.sources", made.sources)
    for name in ("lists/partial", "mirrors/partial", "periodic"):
        made.tree.directory(f"var/lib/apt/{name}", 0o755)
    made.tree.directory("var/cache/apt/archives/partial", 0o755)
    _mode(made.tree, "var/lib/apt/lists/partial", 0o700, uid=42)
    _mode(made.tree, "var/cache/apt/archives/partial", 0o700, uid=42)


def _dpkg_configuration(made: Made) -> None:
    made.tree.write(f"{DPKG}/arch", f"{made.architecture}\n")
    # No service is started by installing its package.
    made.tree.write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    if made.exclude:
        made.tree.write("etc/dpkg/dpkg.cfg.d/90container-image", made.exclude)
    for name in ("dpkg", "alternatives"):
        made.tree.directory(f"var/lib/{name}" if name == "dpkg" else "etc/alternatives", 0o755)


def _debconf(made: Made) -> None:
    for name in ("config.dat", "templates.dat", "passwords.dat"):
        if not made.tree.exists(f"var/cache/debconf/{name}"):
            secret = name.startswith("passwords")
            made.tree.write(f"var/cache/debconf/{name}", "", 0o600 if secret else 0o644)


def _authorities(made: Made) -> None:
    install_authorities(made.tree)


def _busybox(made: Made) -> None:
    """The names of BusyBox's programs stand in its own binary, one after another."""
    program = made.tree.resolved("bin/busybox")
    if program is None:
        raise BadRequest("busybox-static has no /bin/busybox")
    data = program.read_bytes()
    start = data.find(b"\0[\0[[\0")
    if start < 0:
        raise BadRequest("busybox: its table of programs was not found")
    names = data[start + 1 : data.find(b"\0\0", start)].decode("ascii").split("\0")
    for name in names:
        if not re.fullmatch(r"[\w\[.-]+", name):
            raise BadRequest(f"busybox: {name!r} is no program's name")
        if name != "busybox" and not made.tree.exists(f"bin/{name}"):
            Path(made.tree.full(f"bin/{name}")).hardlink_to(program)
    if not made.tree.exists("usr/bin/env"):
        made.tree.link("usr/bin/env", "/bin/env")


def _python_paths(made: Made) -> None:
    for name in ("local/lib/python3.11/dist-packages",):
        made.tree.directory(f"usr/{name}", 0o755)


TABLE: tuple[tuple[str, Synthesis, str], ...] = (
    ("*", _root_directories, "directories that a container's runtime mounts on, and programs need"),
    ("base-passwd", _accounts_start, "users and groups that every system has, from its templates"),
    ("apt", _apt_user, "whom apt's downloads run as"),
    ("base-files", _base_files, "root's profile, links of /var, /usr/local, log files"),
    ("libc-bin", _name_service, "without nsswitch.conf names are looked up in other places"),
    ("debianutils", _shells, "shells that users may have"),
    ("dash", _plain_sh, "/bin/sh, and the diversion with which other shells can take it over"),
    ("tzdata", _time_zone, "UTC, as containers have"),
    ("login", _login_files, "files that useradd and login expect"),
    ("libpam-runtime", _pluggable_authentication, "su, passwd and login refuse without"),
    ("apt", _apt_configuration, "where apt finds packages, and what it leaves behind"),
    ("dpkg", _dpkg_configuration, "its own architecture; services are not started by installing"),
    ("debconf", _debconf, "an empty database of answers, so that questions get their defaults"),
    ("ca-certificates", _authorities, "the bundle and hashed links that TLS libraries look for"),
    ("busybox-static", _busybox, "a name for each of its programs"),
    (
        "python3.11-minimal",
        _python_paths,
        "where Debian's Python looks for what is installed later",
    ),
)


def synthesise(made: Made) -> None:
    """Do the table's part for the packages unpacked now, then what concerns all packages."""
    new = made.new
    for package, act, _ in TABLE:
        if package == "*" or package in new:
            act(made)
    _alternatives(made)
    _library_cache(made)


# What any package may ask for.


@dataclass
class _Choice:
    """One ``update-alternatives --install``; ``slaves`` map a name to its link and path."""

    link: str
    name: str
    path: str
    priority: int
    slaves: dict[str, tuple[str, str]]


def choices(script: str) -> Iterator[_Choice]:
    """The alternatives a postinst installs, as far as they stand there literally."""
    text = re.sub(r"\\\n", " ", script)
    for match in re.finditer(r"update-alternatives\s+(?:--quiet\s+)?(--install\s[^\n;|&]*)", text):
        try:
            words = shlex.split(match[1])
        except ValueError:
            continue
        if len(words) < 5 or any(set(word) & set("$`") for word in words):
            continue
        if not words[4].lstrip("-").isdigit():
            continue
        slaves, rest = {}, words[5:]
        while len(rest) >= 4 and rest[0] == "--slave":
            slaves[rest[2]] = (rest[1], rest[3])
            rest = rest[4:]
        yield _Choice(words[1], words[2], words[3], int(words[4]), slaves)


def _alternatives(made: Made) -> None:
    """Links by way of /etc/alternatives, and the records that let update-alternatives go on."""
    found: dict[str, list[_Choice]] = {}
    for package in made.tree.packages:
        for choice in choices(package.script("postinst")):
            if made.tree.resolved(choice.path) is not None:
                found.setdefault(choice.name, []).append(choice)
    for name, offered in sorted(found.items()):
        if made.tree.exists(f"{DPKG}/alternatives/{name}"):
            offered = _recorded(made.tree, name) + offered  # those below too
        best = max(offered, key=lambda each: each.priority)
        _choose(made.tree, best.link, name, best.path)
        for slave, (link, path) in best.slaves.items():
            if made.tree.resolved(path) is not None:
                _choose(made.tree, link, slave, path)
        if made.accounts.has_dpkg:
            made.tree.write(f"{DPKG}/alternatives/{name}", _record(offered))


def _choose(tree: Tree, link: str, name: str, path: str) -> None:
    tree.link(f"etc/alternatives/{name}", path)
    tree.link(link, f"/etc/alternatives/{name}")


def _record(offered: list[_Choice]) -> str:
    slaves = {name: link for each in offered for name, (link, _) in each.slaves.items()}
    lines = ["auto", offered[0].link]
    for name in sorted(slaves):
        lines += [name, slaves[name]]
    lines.append("")
    for each in sorted(offered, key=lambda each: each.path):
        lines += [each.path, str(each.priority)]
        lines += [each.slaves.get(name, ("", ""))[1] for name in sorted(slaves)]
    return "".join(f"{line}\n" for line in [*lines, ""])


def _recorded(tree: Tree, name: str) -> list[_Choice]:
    """The alternatives that update-alternatives' own record lists."""
    head, _, rest = tree.read(f"{DPKG}/alternatives/{name}").partition("\n\n")
    _, link, *pairs = head.split("\n")
    names, links = pairs[::2], pairs[1::2]
    words, found = rest.split("\n"), []
    size = 2 + len(names)
    for at in range(0, len(words) - size + 1, size):
        path, priority, *paths = words[at : at + size]
        if not path:
            break
        slaves = {n: (where, p) for n, where, p in zip(names, links, paths, strict=True) if p}
        found.append(_Choice(link, name, path, int(priority), slaves))
    return found


def _library_cache(made: Made) -> None:
    """What lies in standard places needs no cache, but ctypes and added directories do."""
    if any(".so" in each.script("list") for each in made.tree.packages):
        write_cache(made.tree)


def _copy(tree: Tree, source: str, target: str) -> None:
    found = tree.resolved(source)
    if found is not None and not tree.exists(target):
        tree.write(target, found.read_bytes())


def _mode(tree: Tree, path: str, mode: int, uid: int = 0, gid: int = 0) -> None:
    full = tree.directory(path, mode)
    os.chown(full, uid, gid)
    Path(full).chmod(mode)


def _replace_directory(tree: Tree, path: str, target: str) -> None:
    full = Path(tree.full(path))
    if full.is_dir() and not full.is_symlink():
        if any(full.iterdir()):
            raise BadRequest(f"/{path} holds files, and must be a link to {target}")
        full.rmdir()
        tree.forget(path)
    tree.link(posixpath.normpath(path), target)
