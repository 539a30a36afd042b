"""Build contexts that lie in object storage or in a registry.

Sources: Amazon S3 "Authenticating Requests (AWS Signature Version 4)"; kaniko README (build
contexts, ``S3_ENDPOINT``, ``S3_FORCE_PATH_STYLE``); OCI image-spec 1.1 ``manifest.md`` (artifacts).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

from underway.base.clock import Clock
from underway.base.errors import BadRequest, NotFound, ServiceUnavailable
from underway.capabilities.build.backend.caches import OpenRegistry
from underway.capabilities.build.backend.contexts import ARCHIVE_BYTES_MAX, unpacked
from underway.capabilities.build.backend.paths import inside
from underway.linux import layer_tar
from underway.linux.images import verified
from underway.linux.layers import TarStream, decompressed
from underway.wire import oci

_TIMEOUT_S = 60.0
_EMPTY = hashlib.sha256(b"").hexdigest()


@contextlib.contextmanager
def from_s3(url: str, sub_path: str, clock: Clock) -> Iterator[Path]:
    """``s3://BUCKET/KEY``, a tar archive, as a directory, gone afterwards.

    The server, region and keys come from ``S3_ENDPOINT``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``,
    ``AWS_SECRET_ACCESS_KEY`` and ``AWS_SESSION_TOKEN``; without keys the request is not signed.

    Raises:
        NotFound: there is no such object.
        BadRequest: it is no tar archive.
        ServiceUnavailable: the server cannot be reached or refuses.
    """
    import tempfile

    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise BadRequest(f"{url} must be s3://BUCKET/KEY")
    address, path = _address(bucket, key)
    headers = _signed(address, path, os.environ, clock.now())
    with tempfile.TemporaryDirectory(prefix="underway-s3-") as made:
        file = Path(made) / "context.tar"
        _download(f"{address}{path}", headers, file, url)
        with unpacked(str(file), sub_path) as found:
            yield found


@contextlib.contextmanager
def from_registry(text: str, sub_path: str, open_registry: OpenRegistry) -> Iterator[Path]:
    """``oci://NAME``: an artifact whose layers are tar archives, as a directory.

    Raises:
        NotFound: there is no such artifact.
        BadRequest: a layer is no archive, or not what its digest says.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="underway-context-") as made:
        folder = Path(made) / "context"
        folder.mkdir()
        unpack_artifact(text.removeprefix("oci://"), folder, open_registry)
        yield inside(folder, sub_path)


def unpack_artifact(name: str, folder: Path, open_registry: OpenRegistry) -> None:
    """Unpack an artifact's one archive into an empty directory; raises as ``from_registry``."""
    reference = oci.Reference.parse(name)
    with open_registry(reference) as (client, repository):
        content = client.manifest(repository, reference.target).decode()
        layers = content.get("layers") or []
        if len(layers) != 1:
            raise BadRequest(f"{name} must be an artifact of one archive, not {len(layers)}")
        digest, kind = layers[0]["digest"], layers[0]["mediaType"]
        chunks = verified(client.blob(repository, digest), digest)
        stream = TarStream(decompressed(chunks, kind))
        layer_tar.unpack(stream, folder)
        stream.drain()


def _address(bucket: str, key: str) -> tuple[str, str]:
    endpoint = os.environ.get("S3_ENDPOINT", "").rstrip("/")
    quoted = quote(key, safe="/-_.~")
    if not endpoint:
        region = os.environ.get("AWS_REGION", "us-east-1")
        return f"https://{bucket}.s3.{region}.amazonaws.com", f"/{quoted}"
    if os.environ.get("S3_FORCE_PATH_STYLE", "true").lower() in ("true", "1"):
        return endpoint, f"/{bucket}/{quoted}"
    scheme, _, host = endpoint.partition("://")
    return f"{scheme}://{bucket}.{host}", f"/{quoted}"


def _signed(
    address: str, path: str, environment: Mapping[str, str], now: datetime
) -> dict[str, str]:
    """The headers of a GET, signed where there are keys."""
    host = urlsplit(address).netloc
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {"host": host, "x-amz-content-sha256": _EMPTY, "x-amz-date": stamp}
    if token := environment.get("AWS_SESSION_TOKEN"):
        headers["x-amz-security-token"] = token
    key_id, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not key_id or not secret:
        return {}
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = f"GET\n{path}\n\n{lines}\n{names}\n{_EMPTY}"
    scope = f"{day}/{region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    signing = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        signing = hmac.digest(signing, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = hmac.digest(signing, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={names},"
        f" Signature={signature}"
    )
    return headers


def _download(address: str, headers: Mapping[str, str], file: Path, shown: str) -> None:
    import ssl

    import httpx

    size = 0
    try:
        with (
            httpx.Client(verify=ssl.create_default_context(), timeout=_TIMEOUT_S) as client,
            client.stream("GET", address, headers=dict(headers)) as response,
            file.open("wb") as stream,
        ):
            if response.status_code == 404:
                raise NotFound(f"there is no {shown}")
            if response.status_code >= 300:
                raise ServiceUnavailable(f"{shown}: HTTP {response.status_code}")
            for chunk in response.iter_raw(1 << 20):
                size += len(chunk)
                if size > ARCHIVE_BYTES_MAX:
                    raise BadRequest(f"{shown} is larger than {ARCHIVE_BYTES_MAX} bytes")
                stream.write(chunk)
    except httpx.HTTPError as error:
        raise ServiceUnavailable(f"{shown}: {error}") from error
