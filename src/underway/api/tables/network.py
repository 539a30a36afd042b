"""Rows of Services, endpoints, Ingresses and NetworkPolicies.

Source: Kubernetes ``pkg/printers/internalversion/printers.go``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from underway.api.objects import Object
from underway.api.tables.columns import (
    AGE,
    NAME,
    NONE,
    SELECTOR,
    UNSET,
    Column,
    Layout,
    age,
    joined,
    labels_text,
    name_of,
    selector_text,
    spec_of,
    status_of,
)

_SHOWN = 3  # entries of a list before "+ n more..."


def _shortened(entries: list[str], missing: str, separator: str = " ") -> str:
    if not entries:
        return missing
    listed = ",".join(entries[:_SHOWN])
    more = len(entries) - _SHOWN
    return f"{listed}{separator}+ {more} more..." if more > 0 else listed


def _ingress_points(obj: Object) -> list[str]:
    points = (status_of(obj).get("loadBalancer") or {}).get("ingress") or ()
    return [point.get("ip") or point.get("hostname") or "" for point in points]


def _external_address(obj: Object) -> str:
    spec = spec_of(obj)
    own = list(spec.get("externalIPs") or ())
    kind = spec.get("type")
    if kind == "ExternalName":
        return str(spec.get("externalName") or "")
    if kind == "LoadBalancer":
        return joined([*_ingress_points(obj), *own], "<pending>")
    return joined(own)


def _service_ports(spec: Object) -> str:
    shown = []
    for port in spec.get("ports") or ():
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        shown.append(f"{port.get('port')}{node}/{port.get('protocol', 'TCP')}")
    return joined(shown)


def _service(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [
        name_of(obj),
        spec.get("type") or "",
        addresses[0] or NONE,
        _external_address(obj),
        _service_ports(spec),
        age(obj, now),
        labels_text(spec.get("selector")),
    ]


def _endpoints(obj: Object, now: datetime) -> list[Any]:
    shown: list[str] = []
    for subset in obj.get("subsets") or ():
        addresses = [address.get("ip", "") for address in subset.get("addresses") or ()]
        ports = subset.get("ports") or ()
        if not ports:
            shown += addresses
        for port in ports:
            shown += [
                f"[{address}]:{port.get('port')}"
                if ":" in address
                else f"{address}:{port.get('port')}"
                for address in addresses
            ]
    return [name_of(obj), _shortened(shown, NONE), age(obj, now)]


def _endpoint_slice(obj: Object, now: datetime) -> list[Any]:
    ports = [
        str(port.get("port") if port.get("port") is not None else port.get("name") or "*")
        for port in obj.get("ports") or ()
    ]
    addresses = [
        address for each in obj.get("endpoints") or () for address in each.get("addresses") or ()
    ]
    return [
        name_of(obj),
        obj.get("addressType") or "",
        _shortened(ports, UNSET),
        _shortened(addresses, UNSET),
        age(obj, now),
    ]


def _ingress(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    hosts = [rule.get("host") for rule in spec.get("rules") or () if rule.get("host")]
    return [
        name_of(obj),
        spec.get("ingressClassName") or NONE,
        _shortened(hosts, "*"),
        ",".join(_ingress_points(obj)),
        "80, 443" if spec.get("tls") else "80",
        age(obj, now),
    ]


def _ingress_class(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    parameters = spec.get("parameters")
    shown = NONE
    if parameters:
        group = f".{parameters['apiGroup']}" if parameters.get("apiGroup") else ""
        shown = f"{parameters.get('kind', '')}{group}/{parameters.get('name', '')}"
    return [name_of(obj), spec.get("controller") or "", shown, age(obj, now)]


def _network_policy(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), selector_text(spec_of(obj).get("podSelector")), age(obj, now)]


LAYOUTS = {
    ("", "Service"): Layout(
        (
            NAME,
            Column("Type", description="How the service is exposed"),
            Column("Cluster-IP", description="Its address inside the cluster"),
            Column("External-IP", description="Its addresses outside"),
            Column("Port(s)", description="Its ports"),
            AGE,
            SELECTOR,
        ),
        _service,
    ),
    ("", "Endpoints"): Layout(
        (NAME, Column("Endpoints", description="Addresses and ports"), AGE), _endpoints
    ),
    ("discovery.k8s.io", "EndpointSlice"): Layout(
        (
            NAME,
            Column("AddressType", description="What addresses they are"),
            Column("Ports", description="Ports of all endpoints"),
            Column("Endpoints", description="Addresses"),
            AGE,
        ),
        _endpoint_slice,
    ),
    ("networking.k8s.io", "Ingress"): Layout(
        (
            NAME,
            Column("Class", description="Its ingress class"),
            Column("Hosts", description="Names it answers for"),
            Column("Address", description="Where it is reached"),
            Column("Ports", description="Ports it listens on"),
            AGE,
        ),
        _ingress,
    ),
    ("networking.k8s.io", "IngressClass"): Layout(
        (
            NAME,
            Column("Controller", description="What implements it"),
            Column("Parameters", description="Where its settings are"),
            AGE,
        ),
        _ingress_class,
    ),
    ("networking.k8s.io", "NetworkPolicy"): Layout(
        (NAME, Column("Pod-Selector", description="The pods it is about"), AGE), _network_policy
    ),
}
