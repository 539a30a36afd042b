"""What the machine lends to a build: resolver, certificates, proxies, apt settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from underway.base.errors import BadRequest
from underway.capabilities.build.rules.container import APT_FILE, CA_FILE, CA_VARIABLES
from underway.capabilities.build.rules.stages import PROXY_ARGS
from underway.kit import Error, Probe, Ready, Skip

CA_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/cert.pem"),
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_APT_OPTIONS = (
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Date",
    "Acquire::Check-Valid-Until",
)


def probe() -> Probe:
    """Whether RUN steps can run here."""
    if os.geteuid() != 0:
        return Skip("building needs root", "run the platform as root")
    if not shutil.which("runc"):
        return Error("runc is not installed", "apt-get install runc")
    if not shutil.which("gpgv"):
        return Error("gpgv is not installed", "apt-get install gpgv")
    return Ready()


def architecture() -> str:
    """This machine's architecture as OCI calls it."""
    return _ARCHITECTURES.get(os.uname().machine, os.uname().machine)


def architecture_of(platform: str) -> str:
    """The architecture of ``[linux/]ARCH[/VARIANT]``; of this machine where that is empty.

    Raises:
        BadRequest: it is of another system, or none at all.
    """
    parts = platform.split("/") if platform else []
    if parts and parts[0] == "linux":
        parts = parts[1:]
    elif len(parts) > 1 or (parts and not re.fullmatch(r"[a-z0-9]+", parts[0])):
        raise BadRequest(f"the platform {platform} is not linux/ARCHITECTURE")
    return parts[0] if parts else architecture()


def platform_args(platform: str = "") -> dict[str, str]:
    """The platform build arguments, for an image made for a platform, or this machine."""
    arch = architecture()
    variant = platform.removeprefix("linux/").partition("/")[2]
    sides = {"BUILD": (arch, ""), "TARGET": (architecture_of(platform), variant)}
    found = {}
    for side, (name, kind) in sides.items():
        full = f"linux/{name}" + (f"/{kind}" if kind else "")
        found |= {f"{side}PLATFORM": full, f"{side}OS": "linux", f"{side}ARCH": name}
        found[f"{side}VARIANT"] = kind
    return found


def check_runs(arch: str, where: str) -> None:
    """Refuse RUN for another architecture unless the kernel knows what runs its programs.

    Raises:
        BadRequest: it does not (``binfmt_misc``, as qemu-user-static registers it).
    """
    if arch == architecture():
        return
    wanted = {found: name for name, found in _ARCHITECTURES.items()}.get(arch, arch)
    entry = _BINFMT / f"qemu-{wanted}"
    if not entry.is_file() or not entry.read_text().startswith("enabled"):
        raise BadRequest(
            f"{where}: RUN for linux/{arch} cannot run on this linux/{architecture()} machine",
            hint="install qemu-user-static, or use FROM --platform=$BUILDPLATFORM for this stage",
        )


def ca_bundle() -> Path | None:
    """The machine's certificate authorities, with those its administrator added."""
    return next((path for path in CA_BUNDLES if path.is_file()), None)


@cache
def java_trust_store() -> bytes:
    """The machine's certificate authorities as Java reads them: PKCS #12 without a password."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

    bundle = ca_bundle()
    with warnings.catch_warnings():
        # Old authorities have serial numbers that RFC 5280 forbids; they are trusted all the same.
        warnings.simplefilter("ignore")
        found = x509.load_pem_x509_certificates(bundle.read_bytes()) if bundle else []
    named = [pkcs12.PKCS12Certificate(each, b"%d" % n) for n, each in enumerate(found)]
    return pkcs12.serialize_java_truststore(named, NoEncryption())


def lent_environment(build_args: Mapping[str, str]) -> dict[str, str]:
    """Variables a RUN sees that never reach the image: certificates, apt settings, proxies."""
    lent = {name: value for name, value in os.environ.items() if name in PROXY_ARGS}
    lent |= {name: value for name, value in build_args.items() if name in PROXY_ARGS}
    lent["APT_CONFIG"] = APT_FILE
    if ca_bundle():
        lent |= dict.fromkeys(CA_VARIABLES, CA_FILE)
    return lent


@cache
def apt_configuration() -> str:
    """The machine's own apt settings that a build on this network needs."""
    lines = [f'Acquire::https::CAInfo "{CA_FILE}";'] if ca_bundle() else []
    if shutil.which("apt-config"):
        dump = subprocess.run(
            ["apt-config", "dump", *_APT_OPTIONS], capture_output=True, text=True, check=False
        )
        lines += [line for line in dump.stdout.splitlines() if line.startswith(_APT_OPTIONS)]
    return "".join(f"{line}\n" for line in lines if '""' not in line)
