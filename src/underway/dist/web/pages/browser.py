"""Any resource the cluster serves: what there is, its objects as a table, one object as YAML.

Values of Secrets stand as their sizes, until the visitor asks for them; whoever may read the
Secret may then see them. Source: Kubernetes API concepts ("API Discovery", "Receiving resources as
Tables").
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from underway.api.objects import Object
from underway.api.resources import EVENTS_CORE, SECRETS, Resource
from underway.base.errors import Forbidden, NotFound
from underway.kit.console import View, Visit, Watch, decoded
from underway.wire.http import Request

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_TRAIL = (("All resources", "/resources"),)
_CLUSTER = "-"  # stands for the namespace of what has none
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


async def page(visit: Visit) -> View:
    """All resources, ``GROUP/VERSION/PLURAL``, or an object ``.../NAMESPACE/NAME`` of these."""
    match visit.path:
        case ():
            served = [each for each in await discover(visit) if "list" in each.verbs]
            return View("All resources", "console/resources.html", {"resources": _grouped(served)})
        case (group, version, plural):
            return await _objects(visit, await _resource(visit, group, version, plural))
        case (group, version, plural, namespace, name):
            resource = await _resource(visit, group, version, plural)
            return await _object(visit, resource, "" if namespace == _CLUSTER else namespace, name)
    raise NotFound("there is no such page below /resources")


async def discover(visit: Visit) -> list[Resource]:
    """Every resource the cluster serves, each group's preferred version first."""
    found: list[Resource] = []
    for path in ("/api", "/apis"):
        answer = await decoded(await visit.api(Request("GET", path, "", {"accept": _AGGREGATED})))
        for group in answer.get("items") or ():
            name = (group.get("metadata") or {}).get("name", "")
            for version in group.get("versions") or ():
                found += [
                    _described(name, version["version"], each)
                    for each in version.get("resources") or ()
                ]
    return found


def _described(group: str, version: str, entry: Object) -> Resource:
    return Resource(
        group,
        version,
        entry["resource"],
        (entry.get("responseKind") or {}).get("kind", ""),
        namespaced=entry.get("scope") == "Namespaced",
        short_names=tuple(entry.get("shortNames") or ()),
        verbs=tuple(entry.get("verbs") or ()),
        subresources=tuple(each["subresource"] for each in entry.get("subresources") or ()),
    )


def _grouped(resources: list[Resource]) -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for each in resources:
        found.setdefault(each.api_version, []).append(each)
    return found


async def _resource(visit: Visit, group: str, version: str, plural: str) -> Resource:
    group = "" if group == "core" else group
    for each in await discover(visit):
        if (each.group, each.version, each.plural) == (group, version, plural):
            return each
    raise NotFound(f"the cluster serves no {plural} in {group or 'core'}/{version}")


async def _objects(visit: Visit, resource: Resource) -> View:
    namespace = visit.namespace if resource.namespaced else None
    table = await visit.table(resource, namespace)
    values = {"resource": resource, "table": table, "cluster": _CLUSTER}
    watches = (Watch(resource, namespace),) if "watch" in resource.verbs else ()
    return View(resource.kind, "console/objects.html", values, watches, _TRAIL)


async def _object(visit: Visit, resource: Resource, namespace: str, name: str) -> View:
    obj = await visit.client.get(resource, name, namespace)
    (obj.get("metadata") or {}).pop("managedFields", None)
    hidden = resource.group_resource == SECRETS.group_resource
    hidden = hidden and visit.params.get("values") != "shown"
    if hidden:
        obj = without_values(obj)
    about = f"involvedObject.uid={obj['metadata'].get('uid', '')}"
    try:
        events = (await visit.client.list(EVENTS_CORE, namespace or None, fields=about)).items
    except Forbidden:
        events = []
    values = {
        "object": obj, "resource": resource, "events": events, "hidden": hidden,
        "reveals": resource.group_resource == SECRETS.group_resource,
    }  # fmt: skip
    own = Watch(resource, namespace or None, f"metadata.name={name}")
    watches = (own, Watch(EVENTS_CORE, namespace or None, about))
    listed = ("resources", resource.group or "core", resource.version, resource.plural)
    trail = (*_TRAIL, (resource.kind, "/" + "/".join(listed)))
    return View(name, "console/object.html", values, watches, trail)


def without_values(secret: Object) -> Object:
    """A Secret with sizes in place of its values, and without the copy that kubectl leaves."""
    shown: dict[str, Any] = dict(secret)
    for part in ("data", "stringData"):
        if isinstance(values := secret.get(part), dict):
            shown[part] = {key: _described_value(value) for key, value in values.items()}
    annotations = (secret.get("metadata") or {}).get("annotations") or {}
    if _LAST_APPLIED in annotations:
        kept = {**annotations, _LAST_APPLIED: "(hidden: it repeats the values)"}
        shown["metadata"] = {**secret["metadata"], "annotations": kept}
    return shown


def _described_value(value: object) -> str:
    try:
        length = len(base64.b64decode(str(value), validate=True))
    except binascii.Error:
        length = len(str(value))
    return f"({length} bytes, hidden)"
