"""Which addresses stand behind a Service, as EndpointSlices and as the older Endpoints.

Source: Kubernetes docs, "EndpointSlices"; API reference discovery.k8s.io/v1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from underway.api.objects import (
    Object,
    deleting,
    labels_of,
    meta,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from underway.capabilities.workloads.model import finished, is_ready, spec_of, status_of

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
ENDPOINTS_MANAGED_BY = "endpoints.kubernetes.io/managed-by"
ENDPOINTS_MANAGER = "endpoint-controller"
SLICE_LIMIT = 100  # endpoints in one slice
ENDPOINTS_LIMIT = 1000  # addresses in an Endpoints object


def selects(service: Object) -> bool:
    """Whether the Service's endpoints come from pods."""
    return bool(spec_of(service).get("selector")) and (
        spec_of(service).get("type") != "ExternalName"
    )


def relevant(pod: Object) -> bool:
    """Whether the pod can be reached at all."""
    return bool(status_of(pod).get("podIP")) and not finished(pod)


def port_number(pod: Object, port: Object) -> int | None:
    """The number a service port leads to on a pod; None where the pod has no port of that name."""
    target = port.get("targetPort", port.get("port"))
    if isinstance(target, int):
        return target or port.get("port")
    if isinstance(target, str) and target.isdecimal():
        return int(target)
    for container in _port_bearers(pod):
        for each in container.get("ports") or ():
            same = each.get("protocol", "TCP") == port.get("protocol", "TCP")
            if each.get("name") == target and same:
                return int(each["containerPort"])
    return None


def _port_bearers(pod: Object) -> list[Object]:
    """Containers that run as long as the pod: sidecars too, other init containers not."""
    spec = spec_of(pod)
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    return [*(spec.get("containers") or ()), *sidecars]


def slice_ports(service: Object, pod: Object) -> list[Object]:
    """The ports of a slice with this pod in it, sorted."""
    found: list[Object] = []
    for port in spec_of(service).get("ports") or ():
        number = port_number(pod, port)
        if number is not None:
            entry = {
                "name": port.get("name") or "",
                "protocol": port.get("protocol") or "TCP",
                "port": number,
            }
            if port.get("appProtocol"):
                entry["appProtocol"] = port["appProtocol"]
            found.append(entry)
    return sorted(found, key=lambda port: (port["name"], port["protocol"], port["port"]))


def endpoint(service: Object, pod: Object) -> Object:
    """The entry for a pod."""
    serving = is_ready(pod)
    publish = bool(spec_of(service).get("publishNotReadyAddresses"))
    entry: Object = {
        "addresses": [status_of(pod)["podIP"]],
        "conditions": {
            "ready": publish or (serving and not deleting(pod)),
            "serving": serving,
            "terminating": deleting(pod),
        },
        "targetRef": _target(pod),
    }
    if node := spec_of(pod).get("nodeName"):
        entry["nodeName"] = node
    if hostname := _hostname(service, pod):
        entry["hostname"] = hostname
    return entry


def _target(pod: Object) -> Object:
    return {
        "kind": "Pod",
        "namespace": namespace_of(pod),
        "name": name_of(pod),
        "uid": uid_of(pod),
    }


def _hostname(service: Object, pod: Object) -> str:
    spec = spec_of(pod)
    return str(spec.get("hostname") or "") if spec.get("subdomain") == name_of(service) else ""


@dataclass(frozen=True)
class SlicePlan:
    """Slices to create, to replace and to delete."""

    create: tuple[Object, ...] = ()
    update: tuple[Object, ...] = ()
    delete: tuple[Object, ...] = ()


def plan_slices(service: Object, pods: Iterable[Object], slices: list[Object]) -> SlicePlan:
    """What makes the slices show exactly these pods, with as few writes as possible.

    An endpoint stays in the slice it is in; new ones fill the slices with room. A Service
    without endpoints keeps one empty slice.
    """
    groups: dict[bytes, dict[str, Object]] = {}
    ports_of: dict[bytes, list[Object]] = {}
    for pod in pods:
        if relevant(pod):
            ports = slice_ports(service, pod)
            key = msgspec.json.encode(ports)
            ports_of[key] = ports
            groups.setdefault(key, {})[uid_of(pod)] = endpoint(service, pod)
    if not groups:
        groups[b"null"] = {}
        ports_of[b"null"] = []
    free = sorted((each for each in slices if not deleting(each)), key=name_of)
    create: list[Object] = []
    update: list[Object] = []
    for key, wanted in sorted(groups.items()):
        mine = [each for each in free if msgspec.json.encode(each.get("ports") or []) == key]
        if not wanted:
            mine = free
        made, changed, kept = _fill(service, ports_of[key], wanted, mine)
        create += made
        update += changed
        free = [each for each in free if name_of(each) not in kept]
    return SlicePlan(tuple(create), tuple(update), tuple(free))


def _fill(
    service: Object, ports: list[Object], wanted: dict[str, Object], slices: list[Object]
) -> tuple[list[Object], list[Object], set[str]]:
    left = dict(wanted)
    contents: list[tuple[Object, list[Object]]] = []
    for each in slices:
        uids = [(e.get("targetRef") or {}).get("uid", "") for e in each.get("endpoints") or ()]
        contents.append((each, [left.pop(uid) for uid in uids if uid in left]))
    rest = list(left.values())
    for _, endpoints in contents:
        room = max(0, SLICE_LIMIT - len(endpoints))
        if endpoints and room:
            endpoints += rest[:room]
            rest = rest[room:]
    for _, endpoints in contents:
        if not endpoints and rest:
            endpoints += rest[:SLICE_LIMIT]
            rest = rest[SLICE_LIMIT:]
    created: list[Object] = []
    while rest or (not wanted and not contents):
        created.append(_slice(service, ports, rest[:SLICE_LIMIT]))
        rest = rest[SLICE_LIMIT:]
        if not wanted:
            break
    updated: list[Object] = []
    kept: set[str] = set()
    for each, endpoints in contents:
        if not endpoints and (wanted or kept):
            continue
        kept.add(name_of(each))
        fresh = _slice(service, ports, endpoints)
        if _differs(each, fresh):
            updated.append({**fresh, "metadata": {**meta(each), **_header(service, fresh)}})
    return created, updated, kept


def _header(service: Object, fresh: Object) -> Object:
    return {"labels": fresh["metadata"]["labels"], "ownerReferences": [owner_reference(service)]}


def _differs(current: Object, fresh: Object) -> bool:
    return (
        (current.get("endpoints") or []) != fresh["endpoints"]
        or (current.get("ports") or []) != fresh["ports"]
        or labels_of(current) != labels_of(fresh)
    )


def _slice(service: Object, ports: list[Object], endpoints: list[Object]) -> Object:
    labels = {
        **{k: v for k, v in labels_of(service).items() if k != HEADLESS},
        SERVICE_NAME: name_of(service),
        MANAGED_BY: MANAGER,
    }
    if spec_of(service).get("clusterIP") == "None":
        labels[HEADLESS] = ""
    families = spec_of(service).get("ipFamilies") or ["IPv4"]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{name_of(service)}-",
            "namespace": namespace_of(service),
            "labels": labels,
            "ownerReferences": [owner_reference(service)],
        },
        "addressType": families[0],
        "endpoints": list(endpoints),
        "ports": ports,
    }


def legacy_endpoints(service: Object, pods: Iterable[Object]) -> Object:
    """The Endpoints object of the Service, complete but for what the server adds."""
    publish = bool(spec_of(service).get("publishNotReadyAddresses"))
    groups: dict[bytes, Object] = {}
    ordered = sorted(
        (pod for pod in pods if relevant(pod) and (publish or not deleting(pod))),
        key=lambda pod: (status_of(pod)["podIP"], uid_of(pod)),
    )
    for pod in ordered[:ENDPOINTS_LIMIT]:
        ports = [
            {name: value for name, value in port.items() if value != ""}
            for port in slice_ports(service, pod)
        ]
        subset = groups.setdefault(
            msgspec.json.encode(ports), {"addresses": [], "notReadyAddresses": [], "ports": ports}
        )
        address: Object = {"ip": status_of(pod)["podIP"], "targetRef": _target(pod)}
        if node := spec_of(pod).get("nodeName"):
            address["nodeName"] = node
        if hostname := _hostname(service, pod):
            address["hostname"] = hostname
        subset["addresses" if publish or is_ready(pod) else "notReadyAddresses"].append(address)
    subsets = [{k: v for k, v in group.items() if v} for _, group in sorted(groups.items())]
    labels = {**labels_of(service), ENDPOINTS_MANAGED_BY: ENDPOINTS_MANAGER}
    if spec_of(service).get("clusterIP") == "None":
        labels[HEADLESS] = ""
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": name_of(service),
            "namespace": namespace_of(service),
            "labels": labels,
        },
        "subsets": subsets,
    }
