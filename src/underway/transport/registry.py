"""Talking to an OCI registry, blocking.

Source: opencontainers/distribution-spec 1.1 (pull, push, mount).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from underway.base.errors import (
    BadRequest,
    Forbidden,
    InternalError,
    NotFound,
    ServiceUnavailable,
    TooLarge,
    Unauthorized,
    UnderwayError,
)
from underway.base.home import Home, Settings
from underway.wire import oci

if TYPE_CHECKING:  # slow to import: a command that talks to no registry does without it
    import ssl

    import httpx

_CHUNK = 1024 * 1024
# A missing stand-in image is assembled while the registry's client waits.
_MANIFEST_TIMEOUT_S = 600.0
_TIMEOUT_S = 60.0
_ERRORS: dict[int, type[UnderwayError]] = {
    400: BadRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound, 413: TooLarge,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index as the registry served it."""

    digest: str
    media_type: str
    data: bytes

    def decode(self) -> dict[str, Any]:
        """The manifest's fields.

        Raises:
            BadRequest: it is no JSON object.
        """
        try:
            return msgspec.json.decode(self.data, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise BadRequest(f"manifest {self.digest}: {error}") from error


class RegistryClient:
    """One registry, as one user; ``verify_tls`` False takes any certificate.

    ``client_certificate`` is (certificate, key), for a registry that asks for one.

    Raises, from every call: NotFound, Unauthorized, Forbidden, BadRequest as the registry says;
    ServiceUnavailable where it cannot be reached.
    """

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        username: str = "",
        password: str = "",
        verify_tls: bool = True,
        client_certificate: tuple[Path, Path] | None = None,
    ) -> None:
        import httpx

        from underway.transport.registry_auth import RegistryAuth

        verify: ssl.SSLContext | bool = verify_tls
        if (ca_file and verify_tls) or client_certificate:
            import ssl

            context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
            if not verify_tls:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if client_certificate:
                context.load_cert_chain(*map(str, client_certificate))
            verify = context
        auth = RegistryAuth(username, password)
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self._url, verify=verify, auth=auth, timeout=_TIMEOUT_S, trust_env=False
        )

    @classmethod
    def of_platform(cls, home: Home, settings: Settings) -> RegistryClient:
        """The platform's own registry, with the credentials the platform keeps for itself."""
        host = f"{settings.bind_address}:{settings.registry_port}"
        username, password = credentials(home.registry_auth, host)
        return cls(
            f"https://{host}",
            ca_file=home.pki / "ca.crt",
            username=username,
            password=password,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def answers(self) -> bool:
        """Whether something speaks the protocol at that address, whatever it says."""
        import httpx

        try:
            self._http.get("/v2/", auth=None)
        except httpx.TransportError:
            return False
        return True

    def manifest(self, repository: str, reference: str) -> Manifest:
        """A manifest by tag or digest; the digest of its bytes is checked."""
        accept = ", ".join(oci.MANIFEST_TYPES)
        response = self._call(
            "GET",
            f"/v2/{repository}/manifests/{reference}",
            headers={"accept": accept},
            timeout=_MANIFEST_TIMEOUT_S,
        )
        data = response.content
        if len(data) > oci.MANIFEST_LIMIT:
            raise TooLarge(f"manifest {repository}:{reference} is larger than 4 MiB")
        digest = oci.digest_of(data)
        if reference.startswith("sha256:") and reference != digest:
            raise InternalError(f"{self._url} answered {digest} for {repository}@{reference}")
        return Manifest(digest, response.headers.get("content-type", oci.MANIFEST), data)

    def blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """A blob's bytes in pieces. The caller verifies what it makes of them."""
        import httpx

        try:
            with self._http.stream("GET", f"/v2/{repository}/blobs/{digest}") as response:
                if response.status_code >= 300:
                    response.read()
                    raise _error(response, f"blob {digest} of {repository}")
                yield from response.iter_raw(_CHUNK)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(f"registry {self._url}: {error}") from error

    def blob_exists(self, repository: str, digest: str) -> bool:
        """Whether the repository holds the blob."""
        return self._exists(f"/v2/{repository}/blobs/{digest}")

    def manifest_exists(self, repository: str, reference: str) -> bool:
        """Whether the repository holds the manifest."""
        return self._exists(f"/v2/{repository}/manifests/{reference}")

    def digest(self, repository: str, reference: str) -> str:
        """The digest that a tag names, as the registry says; empty where there is no such tag."""
        try:
            response = self._call(
                "HEAD",
                f"/v2/{repository}/manifests/{reference}",
                headers={"accept": ", ".join(oci.MANIFEST_TYPES)},
            )
        except NotFound:
            return ""
        return str(response.headers.get("docker-content-digest", ""))

    def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Take a blob over from another repository; False when it must be uploaded instead."""
        response = self._call(
            "POST",
            f"/v2/{repository}/blobs/uploads/",
            params={"mount": digest, "from": source},
        )
        if response.status_code == 201:
            return True
        self._http.delete(response.headers["location"])
        return False

    def push_blob(
        self, repository: str, digest: str, content: bytes | Path | Iterable[bytes], size: int
    ) -> None:
        """Upload a blob of ``size`` bytes unless the repository has it."""
        import httpx

        if self.blob_exists(repository, digest):
            return
        started = self._call("POST", f"/v2/{repository}/blobs/uploads/")
        location = httpx.URL(started.headers["location"]).copy_merge_params({"digest": digest})
        body = content if isinstance(content, bytes) else _pieces(content)
        headers = {"content-type": "application/octet-stream", "content-length": str(size)}
        self._call("PUT", str(location), content=body, headers=headers)

    def push_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> str:
        """Put a manifest under a tag or its digest; gives the digest."""
        self._call(
            "PUT",
            f"/v2/{repository}/manifests/{reference}",
            content=data,
            headers={"content-type": media_type},
        )
        return oci.digest_of(data)

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Take away a manifest by digest, or a tag where the registry lets tags go alone."""
        self._call("DELETE", f"/v2/{repository}/manifests/{reference}")

    def tags(self, repository: str) -> list[str]:
        """All tags of a repository."""
        found: list[str] = []
        path = f"/v2/{repository}/tags/list"
        while path:
            response = self._call("GET", path)
            found += _decoded(response, "tags") or []
            path = _next_page(response)
        return found

    def referrers(
        self, repository: str, digest: str, artifact_type: str = ""
    ) -> list[dict[str, Any]]:
        """Descriptors of the manifests that refer to a digest.

        A registry without the referrers API keeps them under the tag ``sha256-<hex>``.
        Source: distribution-spec 1.1, "Listing Referrers" and "Referrers Tag Schema".
        """
        found: list[dict[str, Any]] = []
        path = f"/v2/{repository}/referrers/{digest}"
        try:
            while path:
                response = self._call("GET", path, headers={"accept": oci.INDEX})
                found += _decoded(response, "manifests") or []
                path = _next_page(response)
        except NotFound:
            try:
                index = self.manifest(repository, digest.replace(":", "-"))
            except NotFound:
                return []
            found = index.decode().get("manifests") or []
        return [
            each for each in found if not artifact_type or each.get("artifactType") == artifact_type
        ]

    def _exists(self, path: str) -> bool:
        try:
            self._call("HEAD", path, headers={"accept": ", ".join(oci.MANIFEST_TYPES)})
        except NotFound:
            return False
        return True

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        import httpx

        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(f"registry {self._url}: {error}") from error
        if response.status_code >= 300:
            raise _error(response, f"{method} {path}")
        return response


def repository_for(reference: oci.Reference, settings: Settings) -> str:
    """The repository of the platform's registry that serves an image name.

    The platform's own images lie under their own repository, all others under the name of the
    registry they come from: ``docker.io/library/redis``.
    """
    if reference.registry == f"{settings.bind_address}:{settings.registry_port}":
        return reference.repository
    host = reference.registry.replace(":", "-")
    return f"{host}/{reference.repository}"


def credentials(auth_file: Path, host: str) -> tuple[str, str]:
    """User and password for a registry from a containers ``auth.json``; empty where none are.

    Raises:
        BadRequest: the file is not of that form.
    """
    try:
        content = msgspec.json.decode(auth_file.read_bytes())
        encoded = content.get("auths", {}).get(host, {}).get("auth", "")
        username, _, password = base64.b64decode(encoded).decode().partition(":")
    except FileNotFoundError:
        return "", ""
    except (msgspec.DecodeError, AttributeError, ValueError) as error:
        raise BadRequest(f"{auth_file} is no auth.json: {error}") from error
    return username, password


def _decoded(response: httpx.Response, member: str) -> Any:
    try:
        return msgspec.json.decode(response.content, type=dict[str, Any]).get(member)
    except msgspec.MsgspecError as error:
        raise BadRequest(
            f"registry: {response.url.path}: the answer is no JSON: {error}"
        ) from error


def _next_page(response: httpx.Response) -> str:
    """Where the answer goes on. Source: RFC 5988, as the distribution specification uses it."""
    link = response.links.get("next", {}).get("url", "")
    if not link:
        return ""
    following = response.url.join(link)
    return str(following) if following.host == response.url.host else ""


def _pieces(content: Path | Iterable[bytes]) -> Iterator[bytes]:
    if not isinstance(content, Path):
        yield from content
        return
    with content.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            yield piece


def _error(response: httpx.Response, what: str) -> UnderwayError:
    text = response.text[:2048]
    try:
        first = msgspec.json.decode(response.content)["errors"][0]
        text = f"{first.get('code', '')}: {first.get('message', '')}"
        detail = first.get("detail")
        if isinstance(detail, str) and detail:
            text += f" ({detail})"
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, AttributeError):
        pass
    cls = _ERRORS.get(response.status_code, ServiceUnavailable)
    return cls(f"registry: {what}: HTTP {response.status_code} {text}".strip())
