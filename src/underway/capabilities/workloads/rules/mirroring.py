"""Endpoints written by hand, shown as EndpointSlices, which is what Services are served from.

Source: Kubernetes docs, "EndpointSlices" (EndpointSlice mirroring).
"""

from __future__ import annotations

import ipaddress

import msgspec

from underway.api.objects import (
    Object,
    annotations_of,
    deleting,
    labels_of,
    meta,
    name_of,
    namespace_of,
    owner_reference,
)
from underway.capabilities.workloads.model import spec_of
from underway.capabilities.workloads.rules.endpoints import (
    ENDPOINTS_MANAGED_BY,
    ENDPOINTS_MANAGER,
    MANAGED_BY,
    SERVICE_NAME,
    SlicePlan,
)

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
TRIGGERED = "endpoints.kubernetes.io/last-change-trigger-time"
ADDRESS_LIMIT = 1000  # of one subset; more are not shown


def mirrors(service: Object | None, endpoints: Object | None) -> bool:
    """Whether somebody else than a controller says where the Service leads."""
    if service is None or endpoints is None or deleting(endpoints):
        return False
    labels = labels_of(endpoints)
    return (
        not spec_of(service).get("selector")
        and spec_of(service).get("type") != "ExternalName"
        and labels.get(SKIP) != "true"
        and labels.get(ENDPOINTS_MANAGED_BY) != ENDPOINTS_MANAGER
        and LEADER not in annotations_of(endpoints)
    )


def plan(endpoints: Object | None, slices: list[Object]) -> SlicePlan:
    """What makes the slices show exactly what the Endpoints object says; None shows nothing."""
    left = {_key(each): each for each in sorted(slices, key=name_of)}
    surplus = [each for each in slices if left[_key(each)] is not each]
    create: list[Object] = []
    update: list[Object] = []
    for wanted in _slices(endpoints) if endpoints is not None else ():
        current = left.pop(_key(wanted), None)
        if current is None:
            create.append(wanted)
        elif _content(current) != _content(wanted):
            update.append({**wanted, "metadata": {**meta(current), **_header(wanted)}})
    return SlicePlan(tuple(create), tuple(update), (*left.values(), *surplus))


def _slices(endpoints: Object) -> list[Object]:
    found: dict[bytes, Object] = {}
    for subset in endpoints.get("subsets") or ():
        ports = [{"name": "", "protocol": "TCP", **port} for port in subset.get("ports") or ()]
        ports.sort(key=lambda port: (port["name"], port["protocol"], port["port"]))
        addresses = [
            *((each, True) for each in subset.get("addresses") or ()),
            *((each, False) for each in subset.get("notReadyAddresses") or ()),
        ]
        for address, ready in addresses[:ADDRESS_LIMIT]:
            family = _family(address["ip"])
            if family:
                fresh = _slice(endpoints, family, ports)
                piece = found.setdefault(_key(fresh), fresh)
                piece["endpoints"].append(_endpoint(address, ready))
    return list(found.values())


def _family(address: str) -> str:
    try:
        return f"IPv{ipaddress.ip_address(address).version}"
    except ValueError:
        return ""


def _endpoint(address: Object, ready: bool) -> Object:
    entry: Object = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
    for name in ("hostname", "nodeName", "targetRef"):
        if address.get(name):
            entry[name] = address[name]
    return entry


def _slice(endpoints: Object, family: str, ports: list[Object]) -> Object:
    annotations = {
        name: value
        for name, value in annotations_of(endpoints).items()
        if name not in (LAST_APPLIED, TRIGGERED)
    }
    metadata: Object = {
        "generateName": f"{name_of(endpoints)}-",
        "namespace": namespace_of(endpoints),
        "labels": {
            **labels_of(endpoints),
            SERVICE_NAME: name_of(endpoints),
            MANAGED_BY: MANAGER,
        },
        "ownerReferences": [owner_reference(endpoints)],
    }
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": family,
        "endpoints": [],
        "ports": ports,
    }


def _key(piece: Object) -> bytes:
    return msgspec.json.encode([piece["addressType"], piece.get("ports") or []], order="sorted")


def _content(piece: Object) -> tuple[object, ...]:
    return piece.get("endpoints") or [], labels_of(piece), annotations_of(piece)


def _header(wanted: Object) -> Object:
    header = meta(wanted)
    return {
        "labels": header["labels"],
        "annotations": header.get("annotations") or {},
        "ownerReferences": header["ownerReferences"],
    }
