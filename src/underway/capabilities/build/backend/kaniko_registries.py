"""Registries as kaniko's flags describe them: certificates, plain http, mirrors, maps."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from underway.base.clock import SystemClock
from underway.base.errors import BadRequest
from underway.base.home import Home
from underway.capabilities.build.backend.caches import OpenRegistry
from underway.capabilities.build.backend.origins import Origins, Source
from underway.capabilities.build.backend.outputs import Access, registry_at
from underway.capabilities.build.backend.shelf import Shelf
from underway.transport.registry import RegistryClient
from underway.wire import oci

Flags = Mapping[str, Any]


class _Every(frozenset[str]):
    """A set that has every host."""

    def __contains__(self, _host: object) -> bool:
        return True


def pushing(flags: Flags, hosts: set[str]) -> Access:
    """How the registries of destinations are talked to.

    Raises:
        BadRequest: a certificate's flag is not of the right form.
    """
    return Access(
        insecure=frozenset(flags["insecure_registries"]) | (hosts if flags["insecure"] else set()),
        skip_verify=frozenset(flags["unverified"]) | (hosts if flags["skip_tls_verify"] else set()),
        certificates=_certificates(flags),
        client_certificates=_client_certificates(flags),
    )


def pulling(flags: Flags) -> Access:
    """How the registries of base images are talked to; raises as ``pushing``."""
    return Access(
        insecure=_Every() if flags["insecure_pull"] else frozenset(flags["insecure_registries"]),
        skip_verify=_Every() if flags["skip_tls_verify_pull"] else frozenset(flags["unverified"]),
        certificates=_certificates(flags),
        client_certificates=_client_certificates(flags),
    )


def opener(home: Home, access: Access) -> OpenRegistry:
    """What opens the registry that a name says."""

    @contextlib.contextmanager
    def open_registry(reference: oci.Reference) -> Iterator[tuple[RegistryClient, str]]:
        with registry_at(reference.registry, home, home.load_settings(), access) as client:
            yield client, reference.repository

    return open_registry


def origins(home: Home, flags: Flags, access: Access) -> Origins:
    """Where FROM looks: mirrors and maps first, then the registry an image's name says.

    Docker Hub itself is asked only where a mirror or map names it.

    Raises:
        BadRequest: a map is not of the right form.
    """
    from underway.capabilities.build.backend.bases import StandIns

    settings = home.load_settings()
    asking = _Asking(home, access, _maps(flags))
    return Origins(
        home, settings, Shelf(home), lambda: StandIns(home, SystemClock()), asking.sources
    )


@dataclass(frozen=True)
class _Asking:
    home: Home
    access: Access
    maps: Mapping[str, Sequence[str]]

    def sources(self, reference: oci.Reference) -> list[Source]:
        host = reference.registry
        found = [self._source(*place.partition("/")[::2]) for place in self.maps.get(host, ())]
        if host != oci.DEFAULT_REGISTRY:
            found.append(self._source(host, ""))
        return found

    def _source(self, host: str, path: str) -> Source:
        make: Callable[[], Any] = functools.partial(
            registry_at, host, self.home, self.home.load_settings(), self.access
        )
        return Source(host, make, path)


def _maps(flags: Flags) -> dict[str, list[str]]:
    maps: dict[str, list[str]] = {}
    for text in flags["registry_maps"]:
        for part in text.split(";"):
            host, equals, mirror = part.partition("=")
            if not equals or not host or not mirror:
                raise BadRequest(f"--registry-map {text!r} must be HOST=MIRROR[/PATH]")
            maps.setdefault(_plain(host), []).append(mirror)
    for mirror in flags["mirrors"]:
        maps.setdefault(oci.DEFAULT_REGISTRY, []).append(mirror)
    return maps


def _plain(host: str) -> str:
    return oci.DEFAULT_REGISTRY if host in ("index.docker.io", "registry-1.docker.io") else host


def _certificates(flags: Flags) -> dict[str, Path]:
    found = {}
    for text in flags["certificates"]:
        host, equals, file = text.partition("=")
        if not equals or not Path(file).is_file():
            raise BadRequest(f"--registry-certificate {text!r} must be HOST=FILE")
        found[host] = Path(file)
    return found


def _client_certificates(flags: Flags) -> dict[str, tuple[Path, Path]]:
    found = {}
    for text in flags["client_certificates"]:
        host, equals, files = text.partition("=")
        certificate, comma, key = files.partition(",")
        if not equals or not comma or not (Path(certificate).is_file() and Path(key).is_file()):
            raise BadRequest(f"--registry-client-cert {text!r} must be HOST=CERT,KEY")
        found[host] = (Path(certificate), Path(key))
    return found
