"""The images of pods and of what makes pods."""

from __future__ import annotations

from collections.abc import Iterator

from underway.api.objects import Object
from underway.base.errors import BadRequest
from underway.wire import oci

_LISTS = ("initContainers", "containers", "ephemeralContainers")


def pod_part(obj: Object) -> Object | None:
    """The pod or pod template within an object: what has ``metadata`` and a pod's ``spec``."""
    spec = obj.get("spec") or {}
    if obj.get("kind") == "Pod":
        return obj
    if obj.get("kind") == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    template = spec.get("template")
    return template if isinstance(template, dict) else None


def containers(part: Object | None) -> Iterator[Object]:
    """Every container of a pod or template that names an image."""
    spec = (part or {}).get("spec") or {}
    for name in _LISTS:
        for each in spec.get(name) or ():
            if isinstance(each, dict) and each.get("image"):
                yield each


def images(obj: Object | None) -> set[str]:
    """The images an object runs; none for None."""
    return {str(each["image"]) for each in containers(pod_part(obj) if obj else None)}


def pinned(image: str, digest: str) -> str:
    """The image by digest, as it was written otherwise."""
    return f"{image.partition('@')[0]}@{digest}"


def digest_of(image: str) -> str:
    """The digest in an image's name, or empty.

    Raises:
        BadRequest: it is no image name.
    """
    return oci.Reference.parse(image).digest


def running(pod: Object) -> Iterator[tuple[str, str]]:
    """Name and digest of every image a pod runs, as its status tells."""
    status = pod.get("status") or {}
    for name in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        for each in status.get(name) or ():
            image = str(each.get("image") or "")
            image_id = str(each.get("imageID") or "").rpartition("://")[2]
            # A runtime that does not tell the digest runs what the pod's own digest says.
            digest = _digest(image_id) or _digest(image)
            if digest:
                yield image or image_id, digest


def _digest(image: str) -> str:
    try:
        return digest_of(image) if "@" in image else ""
    except BadRequest:
        return ""
