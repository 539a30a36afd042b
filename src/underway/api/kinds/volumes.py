"""Rules of a pod's volumes.

Source: Kubernetes ``pkg/apis/core/validation/validation.go`` (ValidateVolumes).
"""

from __future__ import annotations

from underway.api import names, quantity
from underway.api.kinds.causes import bad, duplicate, forbidden, one_of, required
from underway.api.kinds.containers import check_field_ref, check_resource_ref
from underway.api.objects import Object
from underway.api.shape import items, mapping, text
from underway.base.errors import Cause

TOKEN_LIFE_MIN_S = 600
_HOST_PATH_TYPES = (
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
)


def check_volumes(volumes: list[Object], field: str) -> tuple[list[Cause], frozenset[str]]:
    """What is wrong with volumes, and the names that containers may mount."""
    found: list[Cause] = []
    seen: set[str] = set()
    for number, volume in enumerate(volumes):
        at = f"{field}[{number}]"
        name = text(volume, "name")
        problems = _check_source(volume, at)
        if not name:
            problems.append(required(f"{at}.name"))
        else:
            problems += [bad(f"{at}.name", name, message) for message in names.dns_label(name)]
            if name in seen:
                problems.append(duplicate(f"{at}.name", name))
        if not problems:
            seen.add(name)
        found += problems
    return found, frozenset(seen)


def _check_source(volume: Object, at: str) -> list[Cause]:
    sources = [name for name, value in volume.items() if name != "name" and value is not None]
    if not sources:
        return [required(at, "must specify a volume type")]
    found = [
        forbidden(f"{at}.{extra}", "may not specify more than 1 volume type")
        for extra in sources[1:]
    ]
    kind = sources[0]
    source = mapping(volume, kind)
    where = f"{at}.{kind}"
    if kind == "hostPath":
        found += _check_host_path(source, where)
    elif kind == "secret":
        if not text(source, "secretName"):
            found.append(required(f"{where}.secretName"))
        found += _check_files(source, where)
    elif kind == "configMap":
        if not text(source, "name"):
            found.append(required(f"{where}.name"))
        found += _check_files(source, where)
    elif kind == "emptyDir":
        limit = source.get("sizeLimit")
        if limit is not None and quantity.is_quantity(limit) and quantity.parse(limit) < 0:
            message = "SizeLimit field must be a valid resource quantity"
            found.append(forbidden(f"{where}.sizeLimit", message))
    elif kind == "persistentVolumeClaim" and not text(source, "claimName"):
        found.append(required(f"{where}.claimName"))
    elif kind == "downwardAPI":
        found += _check_mode(source, where) + _check_downward(source, where)
    elif kind == "projected":
        found += _check_mode(source, where)
        for number, each in enumerate(items(source, "sources")):
            downward = mapping(each, "downwardAPI")
            found += _check_downward(downward, f"{where}.sources[{number}].downwardAPI")
            token = each.get("serviceAccountToken")
            if token is not None:
                at_token = f"{where}.sources[{number}].serviceAccountToken.expirationSeconds"
                found += _check_token(mapping(each, "serviceAccountToken"), where, at_token)
    return found


def _check_downward(source: Object, where: str) -> list[Cause]:
    found: list[Cause] = []
    for item in items(source, "items"):
        found += _check_path(text(item, "path"), f"{where}.path")
        field, resource = mapping(item, "fieldRef"), mapping(item, "resourceFieldRef")
        if item.get("fieldRef") is not None:
            path = text(field, "fieldPath")
            if path not in ("metadata.annotations", "metadata.labels"):
                found += check_field_ref(path, f"{where}.fieldRef.fieldPath")
        elif item.get("resourceFieldRef") is not None:
            if not text(resource, "containerName"):
                found.append(required(f"{where}.resourceFieldRef.containerName"))
            found += check_resource_ref(resource, f"{where}.resourceFieldRef")
        else:
            found.append(required(where, "one of fieldRef and resourceFieldRef is required"))
    return found


def _check_token(token: Object, where: str, at: str) -> list[Cause]:
    found = _check_path(text(token, "path"), f"{where}.path")
    life_s = token.get("expirationSeconds")
    if isinstance(life_s, int) and life_s < TOKEN_LIFE_MIN_S:
        found.append(bad(at, life_s, "may not specify a duration less than 10 minutes"))
    return found


def _check_path(path: str, at: str) -> list[Cause]:
    """A file's path inside a volume."""
    if not path:
        return [required(at)]
    if path.startswith("/"):
        return [bad(at, path, "must be a relative path")]
    if ".." in path.split("/"):
        return [bad(at, path, "must not contain '..'")]
    return []


def _check_host_path(source: Object, where: str) -> list[Cause]:
    path = text(source, "path")
    if not path:
        return [required(f"{where}.path")]
    found: list[Cause] = []
    if ".." in path.split("/"):
        found.append(bad(f"{where}.path", path, "must not contain '..'"))
    if text(source, "type"):
        found += one_of(f"{where}.type", source["type"], _HOST_PATH_TYPES)
    return found


def _check_mode(source: Object, where: str, name: str = "defaultMode") -> list[Cause]:
    mode = source.get(name)
    if mode is None or (isinstance(mode, int) and 0 <= mode <= 0o777):
        return []
    message = "must be a number between 0 and 0777 (octal), both inclusive"
    return [bad(f"{where}.{name}", mode, message)]


def _check_files(source: Object, where: str) -> list[Cause]:
    found = _check_mode(source, where)
    for number, item in enumerate(items(source, "items")):
        at = f"{where}.items[{number}]"
        if not text(item, "key"):
            found.append(required(f"{at}.key"))
        found += _check_path(text(item, "path"), f"{at}.path")
        found += _check_mode(item, at, "mode")
    return found
