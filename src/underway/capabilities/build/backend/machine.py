"""What the machine lends to a build: resolver, certificates, proxies, apt settings."""

from __future__ import annotations

import os
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
    if not shutil.which("mmdebstrap"):
        return Error("mmdebstrap is not installed", "apt-get install mmdebstrap")
    return Ready()


def architecture() -> str:
    """This machine's architecture as OCI calls it."""
    return _ARCHITECTURES.get(os.uname().machine, os.uname().machine)


def platform_args() -> dict[str, str]:
    """The platform build arguments, for an image made for this machine."""
    arch = architecture()
    values = {"PLATFORM": f"linux/{arch}", "OS": "linux", "ARCH": arch, "VARIANT": ""}
    return {f"{side}{name}": v for side in ("TARGET", "BUILD") for name, v in values.items()}


def check_platform(text: str, where: str) -> None:
    """Refuse ``--platform`` for another kind of machine.

    Raises:
        BadRequest: the platform is not this machine's.
    """
    if text and text.removeprefix("linux/").split("/")[0] != architecture():
        raise BadRequest(
            f"{where}: this machine builds linux/{architecture()}, not {text}",
            hint="leave --platform out",
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
