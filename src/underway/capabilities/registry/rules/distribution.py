"""What paths, manifests and ranges mean.

Source: opencontainers/distribution-spec 1.1 (end-1 to end-14); opencontainers/image-spec 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from underway.base.errors import BadRequest
from underway.capabilities.registry.model import (
    ManifestInvalid,
    NameInvalid,
    PageInvalid,
    RangeInvalid,
    Route,
    Unsupported,
)
from underway.wire import oci

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/.*)?", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,9}")


_INDEX_TYPES = (oci.INDEX, oci.DOCKER_LIST)


def parse_path(segments: list[str]) -> Route:
    """Read a path below ``/v2/``.

    Raises:
        NameInvalid: the repository's name is malformed.
        Unsupported: it is no path of the specification.
    """
    if segments[:1] != ["v2"]:
        raise Unsupported("not a registry path")
    rest = segments[1:]
    if not rest:
        return Route("base")
    if rest == ["_catalog"]:
        return Route("catalog")
    if rest[-1:] == ["uploads"] and rest[-2:-1] == ["blobs"]:
        return Route("uploads", _repository(rest[:-2]))
    if rest[-2:] == ["tags", "list"]:
        return Route("tags", _repository(rest[:-2]))
    if len(rest) >= 4 and rest[-3:-1] == ["blobs", "uploads"]:
        return Route("upload", _repository(rest[:-3]), rest[-1])
    kinds = {"blobs": "blob", "manifests": "manifest", "referrers": "referrers"}
    if len(rest) >= 3 and rest[-2] in kinds:
        return Route(kinds[rest[-2]], _repository(rest[:-2]), rest[-1])
    raise Unsupported("not a registry path")


def _repository(segments: list[str]) -> str:
    name = "/".join(segments)
    if not oci.is_repository(name):
        raise NameInvalid(f"{name!r} is no repository name")
    return name


def check_manifest(data: bytes, media_type: str) -> dict[str, Any]:
    """Read a manifest that is pushed.

    Raises:
        ManifestInvalid: it is no JSON object, its type differs from the content type, or a
            descriptor in it is malformed.
    """
    try:
        content = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise ManifestInvalid(f"the manifest is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ManifestInvalid("the manifest is no JSON object")
    stated = content.get("mediaType")
    if stated is not None and stated != media_type:
        raise ManifestInvalid(f"mediaType {stated!r} differs from content type {media_type!r}")
    if media_type not in oci.MANIFEST_TYPES:
        raise ManifestInvalid(f"manifests of type {media_type!r} are not kept here")
    if content.get("schemaVersion") != 2:
        raise ManifestInvalid("schemaVersion must be 2")
    # What one client takes for an image and another for a list of images is neither.
    other = ("config", "layers") if media_type in _INDEX_TYPES else ("manifests",)
    if any(name in content for name in other):
        raise ManifestInvalid(f"a manifest of type {media_type} has no {' and no '.join(other)}")
    try:
        blobs_of(content)
        manifests_of(content)
        subject_of(content)
    except BadRequest as error:
        raise ManifestInvalid(error.message) from error
    return content


def blobs_of(content: Mapping[str, Any]) -> list[oci.Descriptor]:
    """The blobs a manifest needs: config and layers, except those kept elsewhere (``urls``)."""
    found = []
    if "config" in content:
        found.append(oci.Descriptor.from_dict(content["config"]))
    layers = content.get("layers") or []
    if not isinstance(layers, list):
        raise BadRequest("layers must be a list")
    for layer in layers:
        descriptor = oci.Descriptor.from_dict(layer)
        if not (isinstance(layer, dict) and layer.get("urls")):
            found.append(descriptor)
    return found


def manifests_of(content: Mapping[str, Any]) -> list[oci.Descriptor]:
    """The manifests an index lists."""
    listed = content.get("manifests") or []
    if not isinstance(listed, list):
        raise BadRequest("manifests must be a list")
    return [oci.Descriptor.from_dict(each) for each in listed]


def subject_of(content: Mapping[str, Any]) -> str:
    """The digest of the manifest this one is about, or empty."""
    subject = content.get("subject")
    return oci.Descriptor.from_dict(subject).digest if subject is not None else ""


def referrer(digest: str, data: bytes, media_type: str) -> dict[str, Any]:
    """The descriptor under which a manifest is listed as a referrer."""
    content = msgspec.json.decode(data)
    entry: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": len(data)}
    kind = content.get("artifactType") or (content.get("config") or {}).get("mediaType")
    if kind:
        entry["artifactType"] = kind
    if content.get("annotations"):
        entry["annotations"] = content["annotations"]
    return entry


def page(names: list[str], params: Mapping[str, str]) -> tuple[list[str], bool]:
    """One page of sorted names: those after ``last``, at most ``n``; and whether more follow.

    Raises:
        PageInvalid: ``n`` is no number.
    """
    names = sorted(names)
    if last := params.get("last"):
        names = [name for name in names if name > last]
    if "n" not in params:
        return names, False
    if not _COUNT.fullmatch(params["n"]):
        raise PageInvalid(f"n={params['n']!r} is no number of entries")
    count = int(params["n"])
    return names[:count], len(names) > count > 0


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte asked for by a ``Range`` header; None to send everything.

    Raises:
        ValueError: the range lies outside the content.
    """
    found = _RANGE.fullmatch(header.strip())
    if not found or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        start = max(0, size - int(last))
        end = size - 1
    else:
        start = int(first)
        end = min(int(last), size - 1) if last else size - 1
    if start >= size or end < start:
        raise ValueError(header)
    return start, end


def chunk_range(header: str) -> tuple[int, int] | None:
    """First and last byte of a chunk by its ``Content-Range``; None where the header is empty.

    Raises:
        RangeInvalid: it is no range.
    """
    if not header:
        return None
    found = _CONTENT_RANGE.fullmatch(header.strip())
    if not found or int(found.group(2)) < int(found.group(1)):
        raise RangeInvalid(f"content-range {header!r} is no range")
    return int(found.group(1)), int(found.group(2))
