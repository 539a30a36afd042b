"""What a platform needs before its processes start: settings, certificates, kubeconfig."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator, Mapping

import msgspec

from underway.base.errors import Forbidden, ServiceUnavailable
from underway.base.home import Home, Settings
from underway.client import kubeconfig
from underway.linux import network
from underway.server import snapshots
from underway.transport import pki


def prepare(home: Home, ports: Mapping[str, int]) -> Settings:
    """Choose settings at the first start, and make certificates and kubeconfig.

    Args:
        home: where the platform's state lies.
        ports: names of ``Settings`` ports -> the port asked for; 0 picks a free one.

    Raises:
        Forbidden: not started as root.
    """
    if os.geteuid() != 0:
        raise Forbidden(
            "the platform must be started as root",
            hint="namespaces, mounts and nftables need it; run it with sudo",
        )
    snapshots.finish_restore(home)
    first = not home.settings_file.exists()
    settings = home.load_settings()
    free = _free_ports()
    chosen: dict[str, object] = {name: port or next(free) for name, port in ports.items()}
    # Services keep their addresses for good; pods get new ones whenever they are made anew.
    chosen["pod_cidr"], chosen["service_cidr"] = network.claim(
        home.id, settings.pod_cidr, "" if first else settings.service_cidr
    )
    wanted = msgspec.structs.replace(settings, **chosen)
    if first or wanted != settings:
        settings = wanted
        home.save_settings(settings)
    home.root.chmod(0o711)
    pki.ensure_pki(home, settings)
    _write_kubeconfig(home, settings)
    return settings


def _write_kubeconfig(home: Home, settings: Settings) -> None:
    kubeconfig.write(
        home.kubeconfig,
        server=f"https://{settings.bind_address}:{settings.api_port}",
        ca_pem=(home.pki / "ca.crt").read_bytes(),
        cert_pem=(home.pki / "admin.crt").read_bytes(),
        key_pem=(home.pki / "admin.key").read_bytes(),
        name="underway",
    )


def _free_ports() -> Iterator[int]:
    # Below the kernel's ephemeral ports and the node ports: nobody takes them while we are down.
    for port in random.sample(range(20000, 30000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            yield port
    raise ServiceUnavailable("no free port was found between 20000 and 29999")
