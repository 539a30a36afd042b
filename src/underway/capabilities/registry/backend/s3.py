"""Blobs in a bucket of any S3-compatible store, so that several registries can share them.

Requests are signed here: five operations need no library of some hundred modules. Large blobs go
up in parts. Source: Amazon S3 API reference (PutObject, GetObject, HeadObject, DeleteObject,
ListObjectsV2, multipart uploads); AWS Signature Version 4.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree  # answers of our own store; size and form are checked

from underway.base.clock import Clock, SystemClock
from underway.base.errors import BadRequest, ServiceUnavailable
from underway.capabilities.registry.rules import times

if TYPE_CHECKING:
    import httpx

_PART_BYTES = 32 * 1024 * 1024  # S3 takes 10,000 parts: blobs of up to 312 GiB
_PIECE = 1024 * 1024
_TIMEOUT_S = 120.0
_XML_LIMIT = 4 * 1024 * 1024  # bytes of an answer that lists


class S3Contents:
    """See ``backend.contents.Contents``. Raises ServiceUnavailable where the store does not do."""

    local = False

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        *,
        region: str = "us-east-1",
        prefix: str = "",
        clock: Clock | None = None,
    ) -> None:
        import httpx

        self._endpoint = endpoint.rstrip("/")
        self._host = urlsplit(endpoint).netloc
        self._bucket = bucket
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._prefix = prefix
        self._clock = clock or SystemClock()
        self._http = httpx.Client(timeout=_TIMEOUT_S, trust_env=False)

    @classmethod
    def of_url(cls, url: str) -> S3Contents:
        """``s3+https://KEY:SECRET@HOST[:PORT]/BUCKET[/PREFIX][?region=REGION]``.

        Without a key, ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY`` are taken. Raises
        BadRequest.
        """
        parts = urlsplit(url)
        scheme = parts.scheme.removeprefix("s3+")
        bucket, _, prefix = parts.path.strip("/").partition("/")
        if scheme not in ("http", "https") or not parts.hostname or not bucket:
            raise BadRequest(
                "the store's address is no S3 bucket", hint="s3+https://KEY:SECRET@HOST/BUCKET"
            )
        host = parts.hostname + (f":{parts.port}" if parts.port else "")
        key = unquote(parts.username or "") or os.environ.get("AWS_ACCESS_KEY_ID", "")
        secret = unquote(parts.password or "") or os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        region = parse_qs(parts.query).get("region", ["us-east-1"])[0]
        return cls(
            f"{scheme}://{host}", bucket, key, secret, region=region,
            prefix=f"{prefix}/" if prefix else "",
        )  # fmt: skip

    def adopt(self, file: Path, digest: str, *, move: bool) -> str:
        """See ``Contents``. The file stays where it is; whoever gave it takes it away."""
        algorithm, _, value = digest.partition(":")
        place = f"{algorithm}/{value[:2]}/{value}.{secrets.token_hex(4)}"
        with file.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size <= _PART_BYTES:
                self._call("PUT", place, content=stream.read())
            else:
                self._in_parts(place, stream)
        return place

    def read(self, place: str, first: int, last: int) -> Iterator[bytes]:
        """See ``Contents``."""
        import httpx

        if last < first:
            return
        headers = {"range": f"bytes={first}-{last}"}
        request = self._request("GET", place, headers=headers)
        try:
            response = self._http.send(request, stream=True)
            with contextlib.closing(response):
                if response.status_code == 404:
                    raise FileNotFoundError(place)
                if response.status_code >= 300:
                    raise ServiceUnavailable(f"S3: GET {place}: HTTP {response.status_code}")
                yield from response.iter_raw(_PIECE)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(f"S3: GET {place}: {error}") from error

    def has(self, place: str) -> bool:
        """See ``Contents``."""
        return self._call("HEAD", place, missing=True).status_code == 200

    def remove(self, place: str) -> None:
        """See ``Contents``."""
        self._call("DELETE", place, missing=True)

    def places(self) -> Iterator[tuple[str, float, int]]:
        """See ``Contents``."""
        query = {"list-type": "2", "prefix": self._prefix}
        while True:
            page = _xml(self._call("GET", "", query=query, bucket=True))
            for each in page.iter("Contents"):
                key = each.findtext("Key") or ""
                moment = times.parse((each.findtext("LastModified") or "").replace("Z", "+00:00"))
                size = int(each.findtext("Size") or 0)
                yield key.removeprefix(self._prefix), moment.timestamp(), size
            token = page.findtext("NextContinuationToken")
            if not token:
                return
            query["continuation-token"] = token

    def _in_parts(self, place: str, stream: object) -> None:
        started = _xml(self._call("POST", place, query={"uploads": ""}))
        upload = started.findtext("UploadId") or ""
        try:
            etags: list[str] = []
            while data := stream.read(_PART_BYTES):  # type: ignore[attr-defined]
                query = {"partNumber": str(len(etags) + 1), "uploadId": upload}
                etags.append(self._call("PUT", place, query=query, content=data).headers["etag"])
            listed = "".join(
                f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
                for number, etag in enumerate(etags, 1)
            )
            body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
            done = self._call("POST", place, query={"uploadId": upload}, content=body.encode())
            if b"<Error>" in done.content:  # S3 may say 200 and fail later
                raise ServiceUnavailable(f"S3: {place}: the parts could not be put together")
        except BaseException:
            with contextlib.suppress(ServiceUnavailable):
                self._call("DELETE", place, query={"uploadId": upload}, missing=True)
            raise

    def _call(
        self,
        method: str,
        place: str,
        *,
        query: Mapping[str, str] | None = None,
        content: bytes = b"",
        bucket: bool = False,
        missing: bool = False,
    ) -> httpx.Response:
        import httpx

        request = self._request(method, place, query=query, content=content, bucket=bucket)
        try:
            response = self._http.send(request)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(f"S3: {method} {place}: {error}") from error
        if response.status_code >= 300 and not (missing and response.status_code == 404):
            raise ServiceUnavailable(f"S3: {method} {place}: HTTP {response.status_code}")
        return response

    def _request(
        self,
        method: str,
        place: str,
        *,
        query: Mapping[str, str] | None = None,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        bucket: bool = False,
    ) -> httpx.Request:
        path = f"/{self._bucket}" if bucket else f"/{self._bucket}/{quote(self._prefix + place)}"
        text = "&".join(
            f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
            for name, value in sorted((query or {}).items())
        )
        stamp = self._clock.now().strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(content).hexdigest()
        signed = {"host": self._host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
        authorization = sign(
            method, path, text, signed, digest, stamp,
            self._access_key, self._secret_key, self._region,
        )  # fmt: skip
        url = f"{self._endpoint}{path}" + (f"?{text}" if text else "")
        return self._http.build_request(
            method, url, content=content or None,
            headers={**signed, **(headers or {}), "authorization": authorization},
        )  # fmt: skip


def sign(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    digest: str,
    stamp: str,
    access_key: str,
    secret_key: str,
    region: str,
) -> str:
    """The ``Authorization`` header of a request, by Signature Version 4.

    ``path`` and ``query`` are encoded and the query's parameters in order; ``digest`` is the
    body's SHA-256, ``stamp`` the time as ``YYYYMMDDTHHMMSSZ``.
    """
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}"
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret_key}".encode()
    for part in (stamp[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    return (
        f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, "
        f"Signature={signature}"
    )


def _xml(response: httpx.Response) -> ElementTree.Element:
    """An answer's XML, without its namespace."""
    if len(response.content) > _XML_LIMIT or b"<!DOCTYPE" in response.content:
        raise ServiceUnavailable("S3: the answer is not what it should be")
    try:
        found = ElementTree.fromstring(response.content)  # noqa: S314  # without DOCTYPE, see above
    except ElementTree.ParseError as error:
        raise ServiceUnavailable(f"S3: the answer is no XML: {error}") from error
    for element in found.iter():
        element.tag = element.tag.rpartition("}")[2]
    return found
