"""The machine's Debian archives: what versions they have, and the packages themselves.

apt does what it does best (signatures, by-hash, proxies, resolving) in a root of its own: it sees
neither what this machine has installed nor its configuration, but for the network's settings.
Source: apt.conf(5), sources.list(5), apt-get(8).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from underway.base.errors import BadRequest, NotFound, ServiceUnavailable
from underway.capabilities.build.backend import machine
from underway.capabilities.build.rules.debian import LockedPackage, Release, fields
from underway.kit.ports import Progress

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_HELPER = "/usr/lib/apt/apt-helper"
_INST = re.compile(r"^Inst (\S+) (\[[^]]*\] )?\((\S+) .*\[(\w+)\]\)", re.M)
_MISSING = re.compile(
    r"^E: (?:Unable to locate package (\S+)|Package '(\S+)' has no installation candidate"
    r"|Version '\S+' for '(\S+)' was not found|.*regex '([^']+)')", re.M,
)  # fmt: skip
_FETCH_AT_ONCE = 100  # names on one command line


@dataclass(frozen=True, slots=True)
class Archive:
    """One suite of an archive; ``keyring`` is the file with the keys that sign it."""

    uri: str
    suite: str
    components: str = "main"
    keyring: str = KEYRING


@dataclass(frozen=True, slots=True)
class Solved:
    """What has to be added, and the signed releases it was chosen from."""

    packages: list[LockedPackage]
    releases: list[Release]
    epoch_s: int


def of_machine(suite: str) -> list[Archive]:
    """The machine's own archives for a suite, its updates and its security fixes.

    Raises:
        ServiceUnavailable: its sources name none.
    """
    found: dict[str, str] = {}
    for path in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        if path.suffix in (".list", ".sources") and path.is_file():
            found |= archives(path.read_text(errors="replace"), suite)
    if suite not in found:
        raise ServiceUnavailable(
            f"this machine's apt sources name no archive of Debian {suite}",
            hint="add one below /etc/apt/sources.list.d",
        )
    uris = [found[suite]] * (2 if re.fullmatch(r"[a-z]+", suite) else 1)
    chosen = [
        Archive(uri, name) for uri, name in zip(uris, (suite, f"{suite}-updates"), strict=False)
    ]
    if security := found.get(f"{suite}-security"):
        chosen.append(Archive(security, f"{suite}-security"))
    return chosen


def archives(text: str, suite: str) -> dict[str, str]:
    """Archive URL by suite, from either format of sources."""
    wanted = {suite, f"{suite}-security"}
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(https?://\S+)\s+(\S+)\s+.*\bmain\b", line)
        if match and match[2] in wanted:
            found[match[2]] = match[1]
    for paragraph in re.split(r"\n\s*\n", text):
        one = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", paragraph, re.M))
        if "main" in one.get("Components", "").split() and one.get("Enabled") != "no":
            for each in wanted & set(one.get("Suites", "").split()):
                found[each] = one["URIs"].split()[0]
    return found


class Apt:
    """apt in a directory of its own. ``settings`` are lines for apt.conf."""

    def __init__(self, root: Path, sources: Sequence[Archive], settings: str | None = None) -> None:
        self._root = root
        self._sources = sources
        self._settings = machine.apt_configuration() if settings is None else settings
        self._architecture = ""
        self._updated = False

    def solve(
        self, packages: Mapping[str, str], below: Sequence[LockedPackage], architecture: str,
        tell: Progress,
    ) -> Solved:  # fmt: skip
        """Choose versions of packages and all they need, above those that are there.

        Args:
            packages: name or pattern -> where it is asked for.

        Raises:
            NotFound: a package does not exist; says where it is asked for.
            BadRequest: they cannot all be there together.
            ServiceUnavailable: an index cannot be fetched, or is not signed as it must be.
        """
        environment = self._prepare(architecture)
        if not self._updated:
            tell("reading the archives' indexes")
            _run(["apt-get", "update", "-q"], environment)
            self._updated = True
        there = {(each.name, each.version, each.architecture) for each in below}
        paragraphs = self._details(there, environment)
        status = "".join(f"{text}Status: install ok installed\n\n" for _, text in paragraphs)
        (self._root / "status").write_text(status)
        done = subprocess.run(
            ["apt-get", "install", "-s", "-y", "--no-install-recommends", "--", *packages],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise _unsolved(done.stdout + done.stderr, packages)
        chosen = {(m[1].partition(":")[0], m[3], m[4]) for m in _INST.finditer(done.stdout)}
        if changed := [m[1] for m in _INST.finditer(done.stdout) if m[2]]:
            raise BadRequest(
                f"{', '.join(changed)} would have to change below this image",
                hint="lock what it is based on anew",
            )
        releases, epoch_s = self._releases()
        found = [package for package, _ in self._details(chosen, environment)]
        return Solved(found, releases, epoch_s)

    def _prepare(self, architecture: str) -> dict[str, str]:
        root, self._architecture = self._root, architecture
        for each in ("state/lists/partial", "cache/archives/partial", "etc/parts"):
            (root / each).mkdir(parents=True, exist_ok=True)
        lines = [
            f"deb [signed-by={each.keyring}] {each.uri} {each.suite} {each.components}\n"
            for each in self._sources
        ]
        (root / "etc/sources.list").write_text("".join(lines))
        (root / "status").write_text("")
        (root / "apt.conf").write_text(
            f'Dir "{root}";\nDir::Etc::sourcelist "{root}/etc/sources.list";\n'
            f'Dir::Etc::parts "{root}/etc/parts";\nDir::State "{root}/state";\n'
            f'Dir::State::status "{root}/status";\nDir::Cache "{root}/cache";\n'
            'Dir::Bin::methods "/usr/lib/apt/methods";\n'
            + "".join(
                f'Dir::Etc::{name} "/dev/null";\n'
                for name in ("main", "sourceparts", "trusted", "trustedparts", "preferences",
                             "preferencesparts", "netrc", "netrcparts")
            )
            + f'APT::Architecture "{architecture}";\nAPT::Architectures {{ "{architecture}"; }};\n'
            'APT::Sandbox::User "root";\nAPT::Update::Error-Mode "any";\n'
            'Acquire::Languages "none";\nAcquire::Retries "2";\n' + self._settings
        )  # fmt: skip
        return _environment(root)

    def _details(
        self, chosen: set[tuple[str, str, str]], environment: Mapping[str, str]
    ) -> list[tuple[LockedPackage, str]]:
        """What the indexes say of packages (name, version, architecture), with the paragraphs."""
        if not chosen:
            return []
        form = "$(CREATED_BY)\t$(FILENAME)\t$(CODENAME)"
        listed = _run(["apt-get", "indextargets", "--format", form], environment)
        found: dict[str, tuple[LockedPackage, str]] = {}
        for line in listed.splitlines():
            kind, file, suite = line.split("\t")
            if kind != "Packages":
                continue
            for text in _paragraphs(Path(file), {name for name, _, _ in chosen}, environment):
                one = fields(text)
                name, version, architecture = one["Package"], one["Version"], one["Architecture"]
                # apt calls packages for all architectures by that of the machine in some places
                alike = {(name, version, each) for each in (architecture, self._architecture)}
                if chosen & alike and name not in found:
                    size = int(one["Size"])
                    locked = LockedPackage(
                        name, version, architecture, suite, one["Filename"], size, one["SHA256"]
                    )
                    found[name] = locked, text
        if lost := sorted(name for name, _, _ in chosen if name not in found):
            raise ServiceUnavailable(
                f"the archives no longer have {', '.join(lost)} in the version that was locked",
                hint="lock anew: underway base lock",
            )
        return [found[name] for name in sorted(found)]

    def _releases(self) -> tuple[list[Release], int]:
        found, newest = [], 0
        for file in sorted((self._root / "state/lists").glob("*_InRelease")):
            data = file.read_bytes()
            one = fields(data.decode("utf-8", "replace"))
            moment = parsedate_to_datetime(one["Date"])
            newest = max(newest, int(moment.timestamp()))
            digest = hashlib.sha256(data).hexdigest()
            found.append(Release(one.get("Codename", one.get("Suite", "")), one["Date"], digest))
        return found, newest


class Packages:
    """Packages as files, by digest, shared by all images made on this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, package: LockedPackage) -> Path:
        """Where a package lies, once fetched."""
        return self._root / f"{package.sha256}.deb"

    def fetch(
        self, packages: Iterable[LockedPackage], sources: Sequence[Archive], tell: Progress
    ) -> None:
        """Bring what is not here yet.

        Raises:
            ServiceUnavailable: a package cannot be had, or is not what the lock says.
        """
        missing = [each for each in packages if not self.path(each).is_file()]
        if not missing:
            return
        uris = {each.suite: each.uri.rstrip("/") for each in sources}
        total = sum(each.size for each in missing)
        tell(f"fetching {len(missing)} packages, {total / 1e6:.1f} MB")
        with _aside(self._root) as aside:
            (aside / "apt.conf").write_text(
                'APT::Sandbox::User "root";\nAcquire::Retries "2";\nDir::Etc::parts "/dev/null";\n'
                + machine.apt_configuration()
            )
            for start in range(0, len(missing), _FETCH_AT_ONCE):
                words: list[str] = []
                for each in missing[start : start + _FETCH_AT_ONCE]:
                    if each.suite not in uris:
                        raise ServiceUnavailable(
                            f"this machine's apt sources name no archive with {each.suite},"
                            f" which {each.name} comes from"
                        )
                    uri = f"{uris[each.suite]}/{each.filename.replace('+', '%2b')}"
                    words += [uri, str(aside / f"{each.sha256}.deb"), f"SHA256:{each.sha256}"]
                _run([_HELPER, "download-file", *words], _environment(aside))
            for each in missing:
                got = aside / f"{each.sha256}.deb"
                verified(got, each)
                got.replace(self.path(each))


def verified(file: Path, package: LockedPackage) -> bytes:
    """A package's bytes.

    Raises:
        ServiceUnavailable: they are not those that were locked.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ServiceUnavailable(f"{package.name}: {error}") from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != package.sha256:
        raise ServiceUnavailable(
            f"{package.name} {package.version}: the file has sha256 {actual}, but {package.sha256}"
            " was locked",
            hint=f"remove {file} and try again",
        )
    return data


@contextmanager
def _aside(root: Path) -> Iterator[Path]:
    folder = root / f".fetch-{secrets.token_hex(6)}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(root: Path) -> dict[str, str]:
    lent = machine.lent_environment({})
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "APT_CONFIG": str(root / "apt.conf"),
        **{name: value for name, value in lent.items() if name.lower().endswith("_proxy")},
    }


def _run(argv: list[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            argv, env=dict(environment), capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, errors="replace",
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ServiceUnavailable(
            f"{argv[0]} is not installed", hint="base images are assembled on Debian's like"
        ) from error
    if done.returncode:
        said = [
            line for line in (done.stdout + done.stderr).splitlines() if line[:2] in ("E:", "W:")
        ]
        shown = "\n".join(f"  {line}" for line in said[-12:])
        raise ServiceUnavailable(
            f"{Path(argv[0]).name} {argv[1]} ended with exit code {done.returncode}:\n{shown}",
            hint="can this machine reach its Debian mirror? try: apt-get update",
        )
    return done.stdout


def _unsolved(output: str, packages: Mapping[str, str]) -> Exception:
    for match in _MISSING.finditer(output):
        name = next(group for group in match.groups() if group)
        where = packages.get(name) or next(
            (at for asked, at in packages.items() if asked.partition("=")[0] == name), ""
        )
        return NotFound(
            f"{where + ': ' if where else ''}the archives have no package {name}",
            hint="is it spelled as in Debian, and in the component main?",
        )
    said = [line for line in output.splitlines() if line.startswith((" ", "E:"))]
    told = "\n".join(said[-15:])
    return BadRequest(f"the packages cannot be installed together:\n{told}")


def _paragraphs(file: Path, names: set[str], environment: Mapping[str, str]) -> Iterator[str]:
    """The paragraphs of packages with one of the names in an index, read one at a time."""
    with subprocess.Popen(
        [_HELPER, "cat-file", str(file)], env=dict(environment), stdout=subprocess.PIPE,
        text=True, errors="replace",
    ) as reading:  # fmt: skip
        assert reading.stdout is not None
        wanted = False
        lines: list[str] = []
        for line in reading.stdout:
            if line == "\n":
                if wanted:
                    yield "".join(lines)
                wanted, lines = False, []
            elif line.startswith("Package: "):
                wanted, lines = line[9:].strip() in names, [line]
            elif wanted:
                lines.append(line)
        if wanted:
            yield "".join(lines)
