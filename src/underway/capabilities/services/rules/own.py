"""The cluster's own Services: ``kubernetes`` (the API server) and ``kube-dns``.

Both have the bridge's address as their endpoint; what listens elsewhere on this machine is led on
to by the packet rules.
"""

from __future__ import annotations

import ipaddress

from underway.api.objects import Object
from underway.base.home import Settings
from underway.capabilities.services.model import SERVICE_NAME_LABEL

_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
_DNS_INDEX = 10  # the tenth address of the range, as kubeadm and others have it


def published(settings: Settings) -> tuple[tuple[Object, Object], ...]:
    """Each Service with its EndpointSlice."""
    addresses = ipaddress.IPv4Network(settings.service_cidr)
    gateway = str(ipaddress.IPv4Network(settings.pod_cidr)[1])
    api = [("https", "TCP", 443, settings.api_port)]
    dns = [("dns", "UDP", 53, 53), ("dns-tcp", "TCP", 53, 53)]
    return (
        (
            _service("default", "kubernetes", str(addresses[1]), api, _API_LABELS),
            _slice("default", "kubernetes", gateway, api),
        ),
        (
            _service("kube-system", "kube-dns", str(addresses[_DNS_INDEX]), dns, _DNS_LABELS),
            _slice("kube-system", "kube-dns", gateway, dns),
        ),
    )


_API_LABELS = {"component": "apiserver", "provider": "kubernetes"}
_DNS_LABELS = {
    "k8s-app": "kube-dns",
    "kubernetes.io/cluster-service": "true",
    "kubernetes.io/name": "CoreDNS",
}
_Ports = list[tuple[str, str, int, int]]


def _service(namespace: str, name: str, ip: str, ports: _Ports, labels: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "ports": [
                {"name": port, "protocol": protocol, "port": number, "targetPort": target}
                for port, protocol, number, target in ports
            ],
        },
    }


def _slice(namespace: str, name: str, address: str, ports: _Ports) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": {SERVICE_NAME_LABEL: name, _MANAGED_BY: "underway"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [
            {"name": port, "protocol": protocol, "port": target}
            for port, protocol, _, target in ports
        ],
    }


def service_differs(current: Object, wanted: Object) -> bool:
    """Whether a Service leads elsewhere than it should."""
    return _ports(current) != _ports(wanted)


def _ports(service: Object) -> list[tuple[object, ...]]:
    ports = (service.get("spec") or {}).get("ports") or ()
    fields = ("name", "protocol", "port", "targetPort")
    return [tuple(port.get(field) for field in fields) for port in ports]


def slice_differs(current: Object, wanted: Object) -> bool:
    """Whether a slice names other endpoints or ports than it should."""
    same = all(current.get(name) == wanted[name] for name in ("addressType", "ports"))
    return not same or _places(current) != _places(wanted)


def _places(piece: Object) -> list[object]:
    return [endpoint.get("addresses") for endpoint in piece.get("endpoints") or ()]


def mended(current: Object, wanted: Object) -> Object:
    """``current`` leading where it should; what others added to it stays."""
    if wanted["kind"] == "Service":
        ports = wanted["spec"]["ports"]
        return {**current, "spec": {**(current.get("spec") or {}), "ports": ports}}
    return {**current, **{name: wanted[name] for name in ("addressType", "endpoints", "ports")}}


def owner_keys(piece: Object) -> list[str]:
    """The key of the Service a slice belongs to, if any."""
    found = piece.get("metadata") or {}
    owner = (found.get("labels") or {}).get(SERVICE_NAME_LABEL)
    return [f"{found.get('namespace', '')}/{owner}"] if owner else []
