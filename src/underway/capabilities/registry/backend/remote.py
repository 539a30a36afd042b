"""Other registries: what replication copies from and to, and what proxy caches stand before.

Source: opencontainers/distribution-spec 1.1 (end-8, end-9); distribution's ``_catalog``; Harbor's
``/api/v2.0/repositories``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from underway.base.errors import BadRequest, NotFound, UnderwayError
from underway.base.files import write_atomic
from underway.capabilities.registry.backend.database import Row
from underway.capabilities.registry.backend.tables import Table
from underway.transport.registry import RegistryClient

if TYPE_CHECKING:
    import httpx

REGISTRIES = Table("registries", "registry")
ADAPTERS = ("harbor", "docker-registry", "docker-hub", "quay", "github-ghcr", "gitlab")
_PAGE = 100
_LISTED_LIMIT = 100_000


class Remote(RegistryClient):
    """One other registry."""

    def __init__(self, row: Row, scratch: Path) -> None:
        self.type = row["type"]
        ca_file = None
        if row["ca_certificate"]:
            scratch.mkdir(parents=True, exist_ok=True)
            ca_file = scratch / f"registry-{row['id']}.crt"
            write_atomic(ca_file, row["ca_certificate"])
        super().__init__(
            check_url(row["url"]),
            ca_file=ca_file,
            username=row["access_key"],
            password=row["access_secret"],
            verify_tls=not row["insecure"],
        )

    def ping(self) -> None:
        """Ask whether it is there and knows us; raises UnderwayError."""
        self._call("GET", "/v2/")

    def tags(self, repository: str) -> list[str]:
        """All tags of a repository."""
        return self._listed(f"/v2/{repository}/tags/list?n={_PAGE}", "tags")

    def catalog(self) -> list[str]:
        """All repositories it shows us."""
        if self.type == "harbor":
            return list(self._harbor_repositories())
        return self._listed(f"/v2/_catalog?n={_PAGE}", "repositories")

    def delete(self, repository: str, reference: str) -> None:
        """Delete a tag or a manifest; by its digest where the registry knows no other way."""
        path = f"/v2/{repository}/manifests/"
        try:
            self._call("DELETE", path + reference)
        except NotFound:
            raise
        except UnderwayError:
            digest = self.digest(repository, reference)
            self._call("DELETE", path + digest)

    def _harbor_repositories(self) -> Iterator[str]:
        page = 1
        while True:
            found = self._call(
                "GET", "/api/v2.0/repositories", params={"page": page, "page_size": _PAGE}
            ).json()
            yield from (each["name"] for each in found)
            if len(found) < _PAGE:
                return
            page += 1

    def _listed(self, path: str, key: str) -> list[str]:
        found: list[str] = []
        while path and len(found) < _LISTED_LIMIT:
            response = self._call("GET", path)
            found += response.json().get(key) or []
            path = _next(response, path)
        return found


def check_url(url: str) -> str:
    """A registry's address; raises BadRequest where it is none."""
    if not url.startswith(("http://", "https://")) or len(url) > 2048:
        raise BadRequest(f"{url[:100]!r} is no registry's address", hint="https://HOST")
    return url.rstrip("/")


def throttled(pieces: Iterable[bytes], bytes_per_s: float) -> Iterator[bytes]:
    """The same pieces, so slowly; 0 is as fast as they come."""
    started, sent = time.monotonic(), 0
    for piece in pieces:
        yield piece
        sent += len(piece)
        if bytes_per_s > 0 and (ahead_s := sent / bytes_per_s - (time.monotonic() - started)) > 0:
            time.sleep(ahead_s)


def _next(response: httpx.Response, path: str) -> str:
    link: dict[str, Any] = response.links.get("next", {})
    return urljoin(path, link["url"]) if link.get("url") else ""
