"""What a passage does to the cluster: names, rendered objects, their order, what goes again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from underway.api.objects import Object, labels_of, meta
from underway.base.errors import BadRequest
from underway.capabilities.passage.model import (
    APPLICATION_LABEL,
    PASSAGE_ANNOTATION,
    Applied,
    Reference,
)

IMAGE_PLACEHOLDER = "$(IMAGE)"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
# What others need comes first; everything else follows in the order it was written in.
_FIRST = ("Namespace", "CustomResourceDefinition", "ServiceAccount", "Secret", "ConfigMap")
# Data outlives the version of an application that no longer names it.
_KEPT = frozenset({"Namespace", "PersistentVolumeClaim", "PersistentVolume"})


def application_name(given: str, directory: str) -> str:
    """The application's name: the one given, or one made of the directory's.

    Raises:
        BadRequest: the name given is no DNS label of at most 40 characters.
    """
    if given:
        if not _NAME.fullmatch(given):
            raise BadRequest(
                f"--name {given}: not a valid name",
                hint="at most 40 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
            )
        return given
    name = re.sub(r"[^a-z0-9]+", "-", directory.lower()).strip("-")[:40].strip("-")
    return name or "app"


def passage_name(application: str, source_digest: str) -> str:
    """One source has one passage: shipping it again comes back to the same object."""
    return f"{application}-{source_digest.removeprefix('sha256:')[:10]}"


def render(
    documents: Iterable[Object], *, image: str, passage: str, application: str
) -> list[Object]:
    """The application's objects as they go to the cluster, in the order they go.

    The image takes its placeholder's place; the workload that runs it is marked with the passage,
    every object with the application.

    Raises:
        BadRequest: no object uses the placeholder.
    """
    rendered: list[Object] = []
    used = False
    for document in documents:
        changed = _substitute(document, image)
        if changed != document:
            used = True
            for holder in (changed, _template(changed)):
                if holder is not None:
                    meta(holder).setdefault("annotations", {})[PASSAGE_ANNOTATION] = passage
        meta(changed).setdefault("labels", {})[APPLICATION_LABEL] = application
        rendered.append(changed)
    if not used:
        raise BadRequest(
            f"no manifest has the image {IMAGE_PLACEHOLDER}",
            hint=f"write `image: {IMAGE_PLACEHOLDER}` where the built image belongs",
        )
    return sorted(rendered, key=_rank)


def _rank(obj: Object) -> int:
    kind = obj.get("kind", "")
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)


def _template(obj: Object) -> Object | None:
    """The pod template of a workload; a CronJob's stands inside its job template."""
    spec = obj.get("spec") or {}
    if obj.get("kind") == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    template = spec.get("template") if isinstance(spec, dict) else None
    return template if isinstance(template, dict) else None


def _substitute(value: Any, image: str) -> Any:
    if isinstance(value, str):
        return value.replace(IMAGE_PLACEHOLDER, image)
    if isinstance(value, dict):
        return {key: _substitute(item, image) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, image) for item in value]
    return value


def front_service(objects: Sequence[Object], passage: str) -> Object | None:
    """The Service in front of the shipped workload, or None where there is none."""
    labels: dict[str, str] = {}
    for obj in objects:
        template = _template(obj)
        if template and meta(obj).get("annotations", {}).get(PASSAGE_ANNOTATION) == passage:
            labels = labels_of(template)
    for obj in objects:
        selector = (obj.get("spec") or {}).get("selector") or {}
        if obj.get("kind") == "Service" and selector and selector.items() <= labels.items():
            return obj
    return None


def service_address(service: Object, host: str) -> tuple[str, int] | None:
    """Where a Service can be reached from the machine: its node port, else its cluster IP."""
    spec = service.get("spec") or {}
    for port in spec.get("ports") or ():
        if port.get("protocol", "TCP") != "TCP":
            continue
        if port.get("nodePort"):
            return host, port["nodePort"]
        if spec.get("clusterIP") not in (None, "", "None"):
            return spec["clusterIP"], port["port"]
    return None


def undo(applied: Sequence[Applied]) -> tuple[list[Applied], list[Applied]]:
    """What to delete and what to put back, so that a failed passage leaves nothing half-made."""
    delete = [each for each in reversed(applied) if each.before is None]
    restore = [each for each in reversed(applied) if each.verb == "configured"]
    return delete, restore


def restored(before: Object, current: Object) -> Object:
    """The object as it was, written over what is there now."""
    obj = {key: value for key, value in before.items() if key != "status"}
    obj["metadata"] = {
        key: value for key, value in before["metadata"].items() if key != "managedFields"
    }
    obj["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"]
    return obj


def left_behind(
    passages: Iterable[Object], application: str, now: Iterable[Reference]
) -> list[Reference]:
    """What earlier passages of an application applied and this one no longer has.

    Claims, volumes and namespaces are never among them: they hold data.
    """
    earlier = {
        Reference.from_dict(entry)
        for passage in passages
        if passage["spec"].get("application") == application
        for entry in (passage.get("status") or {}).get("inventory") or ()
    }
    gone = earlier - set(now)
    return sorted(each for each in gone if each.kind not in _KEPT)


def belongs_to(obj: Object, application: str) -> bool:
    """Whether an object still says that it is part of the application."""
    return labels_of(obj).get(APPLICATION_LABEL) == application
