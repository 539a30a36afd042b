"""Rules of Services, EndpointSlices, Ingresses and NetworkPolicies.

Source: Kubernetes ``pkg/apis/core/validation`` (ValidateService),
``pkg/apis/discovery/validation``, ``pkg/apis/networking/validation``.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from underway.api import names
from underway.api.kinds.causes import (
    bad,
    check_address,
    duplicate,
    forbidden,
    one_of,
    required,
    unchanged,
    unsupported,
)
from underway.api.kinds.metadata import check_labels
from underway.api.objects import Object
from underway.api.shape import items, mapping, sequence, text, texts
from underway.base.errors import Cause

_PROTOCOLS = ("SCTP", "TCP", "UDP")
_DAY_S = 86_400
_SERVICE_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_POLICIES = ("Cluster", "Local")


def check_service(obj: Object) -> list[Cause]:
    """What is wrong with a Service."""
    spec = mapping(obj, "spec")
    kind = spec.get("type")
    found = one_of("spec.type", kind, _SERVICE_TYPES)
    headless = spec.get("clusterIP") == "None"
    if not items(spec, "ports") and not headless and kind != "ExternalName":
        found.append(required("spec.ports"))
    found += one_of("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None"))
    if kind == "ExternalName":
        name = text(spec, "externalName").removesuffix(".")
        if not name:
            found.append(required("spec.externalName"))
        else:
            found += [bad("spec.externalName", name, each) for each in names.dns_subdomain(name)]
        if spec.get("clusterIP"):
            message = "may not be set when `type` is 'ExternalName'"
            found.append(forbidden("spec.clusterIP", message))
    if headless and kind not in ("ClusterIP", "ExternalName"):
        found.append(bad("spec.clusterIPs[0]", "None", "may not be set to 'None' for this type"))
    address = spec.get("clusterIP")
    if address and not headless:
        found += check_address(address, "spec.clusterIPs[0]")
    for number, external in enumerate(sequence(spec, "externalIPs")):
        found += check_address(external, f"spec.externalIPs[{number}]")
    for name in ("internalTrafficPolicy", "externalTrafficPolicy"):
        if spec.get(name) is not None:
            found += one_of(f"spec.{name}", spec[name], _POLICIES)
    timeout_s = mapping(mapping(spec, "sessionAffinityConfig"), "clientIP").get("timeoutSeconds")
    if timeout_s is not None and not (isinstance(timeout_s, int) and 0 < timeout_s <= _DAY_S):
        message = f"must be greater than 0 and less than {_DAY_S}"
        found.append(bad("spec.sessionAffinityConfig.clientIP.timeoutSeconds", timeout_s, message))
    found += check_labels(texts(spec, "selector"), "spec.selector")
    return found + _check_service_ports(items(spec, "ports"), str(kind))


def _check_service_ports(ports: list[Object], kind: str) -> list[Cause]:
    found: list[Cause] = []
    seen_names: set[str] = set()
    seen: set[tuple[Any, Any]] = set()
    for number, port in enumerate(ports):
        at = f"spec.ports[{number}]"
        name = text(port, "name")
        if not name and len(ports) > 1:
            found.append(required(f"{at}.name"))
        elif name:
            found += [bad(f"{at}.name", name, message) for message in names.dns_label(name)]
            if name in seen_names:
                found.append(duplicate(f"{at}.name", name))
            seen_names.add(name)
        value, target = port.get("port"), port.get("targetPort")
        found += [bad(f"{at}.port", value, message) for message in names.port_number(value)]
        found += one_of(f"{at}.protocol", port.get("protocol"), _PROTOCOLS)
        rule = names.port_name if isinstance(target, str) else names.port_number
        if target is not None:
            found += [bad(f"{at}.targetPort", target, each) for each in rule(target)]
        key = (port.get("protocol"), value)
        if key in seen:
            found.append(duplicate(at, {"protocol": key[0], "port": key[1]}))
        seen.add(key)
        if port.get("nodePort") and kind not in ("NodePort", "LoadBalancer"):
            message = f"may not be used when `type` is '{kind}'"
            found.append(forbidden(f"{at}.nodePort", message))
    return found


def keep_service(new: Object, old: Object) -> list[Cause]:
    """The address of a Service stays, unless it becomes or was an ExternalName."""
    ours, theirs = mapping(new, "spec"), mapping(old, "spec")
    if "ExternalName" in (ours.get("type"), theirs.get("type")) or not theirs.get("clusterIP"):
        return []
    if ours.get("clusterIP") == theirs["clusterIP"]:
        return []
    message = "may not change once set"
    return [bad("spec.clusterIPs[0]", ours.get("clusterIP"), message)]


def check_endpoint_slice(obj: Object) -> list[Cause]:
    """What is wrong with an EndpointSlice."""
    kind = obj.get("addressType")
    found = one_of("addressType", kind, ("FQDN", "IPv4", "IPv6"))
    for number, endpoint in enumerate(items(obj, "endpoints")):
        addresses = sequence(endpoint, "addresses")
        at = f"endpoints[{number}].addresses"
        if not addresses:
            found.append(required(at, "must contain at least 1 address"))
        for index, address in enumerate(addresses):
            if kind in ("IPv4", "IPv6"):
                found += check_address(address, f"{at}[{index}]")
    seen: set[str] = set()
    for number, port in enumerate(items(obj, "ports")):
        name = text(port, "name")
        if name in seen:
            found.append(duplicate(f"ports[{number}].name", name))
        seen.add(name)
        found += one_of(f"ports[{number}].protocol", port.get("protocol"), _PROTOCOLS)
    return found


def keep_endpoint_slice(new: Object, old: Object) -> list[Cause]:
    """A slice's kind of address stays."""
    return unchanged("addressType", new.get("addressType"), old.get("addressType"))


def check_endpoints(obj: Object) -> list[Cause]:
    """What is wrong with Endpoints."""
    found: list[Cause] = []
    for number, subset in enumerate(items(obj, "subsets")):
        at = f"subsets[{number}]"
        for side in ("addresses", "notReadyAddresses"):
            for index, address in enumerate(items(subset, side)):
                found += check_address(text(address, "ip"), f"{at}.{side}[{index}].ip")
    return found


def check_ingress(obj: Object) -> list[Cause]:
    """What is wrong with an Ingress."""
    spec = mapping(obj, "spec")
    found: list[Cause] = []
    if not items(spec, "rules") and spec.get("defaultBackend") is None:
        message = "either `defaultBackend` or `rules` must be specified"
        found.append(bad("spec", spec, message))
    if spec.get("defaultBackend") is not None:
        found += _check_backend(mapping(spec, "defaultBackend"), "spec.defaultBackend")
    for number, rule in enumerate(items(spec, "rules")):
        host, at = text(rule, "host"), f"spec.rules[{number}]"
        if host and not check_address(host, ""):
            found.append(bad(f"{at}.host", host, "must be a DNS name, not an IP address"))
        elif host:
            plain = host.removeprefix("*.")
            found += [bad(f"{at}.host", host, message) for message in names.dns_subdomain(plain)]
        if rule.get("http") is None:
            continue
        paths = items(mapping(rule, "http"), "paths")
        if not paths:
            found.append(required(f"{at}.http.paths"))
        for index, path in enumerate(paths):
            found += _check_path(path, f"{at}.http.paths[{index}]")
    return found


def _check_path(path: Object, at: str) -> list[Cause]:
    kinds = ("Exact", "ImplementationSpecific", "Prefix")
    kind, value = path.get("pathType"), text(path, "path")
    if kind is None:
        found = [required(f"{at}.pathType", "pathType must be specified")]
    elif kind not in kinds:
        found = [unsupported(f"{at}.pathType", kind, kinds)]
    else:
        found = []
    if kind in ("Exact", "Prefix") and not value.startswith("/"):
        found.append(bad(f"{at}.path", value, "must be an absolute path"))
    return found + _check_backend(mapping(path, "backend"), f"{at}.backend")


def _check_backend(backend: Object, at: str) -> list[Cause]:
    if backend.get("resource") is not None:
        if backend.get("service") is not None:
            return [bad(at, "", "cannot set both resource and service backends")]
        return []
    if backend.get("service") is None:
        return [bad(at, "", "resource or service backend is required")]
    service = mapping(backend, "service")
    name = text(service, "name")
    if not name:
        found = [required(f"{at}.service.name")]
    else:
        found = [bad(f"{at}.service.name", name, each) for each in names.dns_1035_label(name)]
    port = mapping(service, "port")
    label, number = text(port, "name"), port.get("number")
    if label and number:
        found.append(bad(f"{at}.service.port", "", "cannot set both port name & port number"))
    elif label:
        found += [bad(f"{at}.service.port.name", label, each) for each in names.port_name(label)]
    elif number:
        messages = names.port_number(number)
        found += [bad(f"{at}.service.port.number", number, message) for message in messages]
    else:
        found.append(required(at, "port name or number is required"))
    return found


def check_network_policy(obj: Object) -> list[Cause]:
    """What is wrong with a NetworkPolicy."""
    spec = mapping(obj, "spec")
    found: list[Cause] = []
    for number, kind in enumerate(sequence(spec, "policyTypes")):
        if kind not in ("Ingress", "Egress"):
            found.append(unsupported(f"spec.policyTypes[{number}]", kind, ("Ingress", "Egress")))
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for number, rule in enumerate(items(spec, direction)):
            for index, peer in enumerate(items(rule, peers)):
                at = f"spec.{direction}[{number}].{peers}[{index}]"
                found += _check_peer(peer, at)
            for index, port in enumerate(items(rule, "ports")):
                at = f"spec.{direction}[{number}].ports[{index}].protocol"
                found += one_of(at, port.get("protocol"), _PROTOCOLS)
    return found


def _check_peer(peer: Object, at: str) -> list[Cause]:
    if not peer:
        return [required(at, "must specify a peer")]
    if peer.get("ipBlock") is None:
        return []
    if len(peer) > 1:
        return [forbidden(at, "may not specify both ipBlock and another peer")]
    block = mapping(peer, "ipBlock")
    network = text(block, "cidr")
    if not network:
        return [required(f"{at}.ipBlock.cidr")]
    try:
        outer = ipaddress.ip_network(network)
    except ValueError:
        message = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        return [bad(f"{at}.ipBlock.cidr", network, message)]
    found: list[Cause] = []
    for number, hole in enumerate(sequence(block, "except")):
        try:
            inside = ipaddress.ip_network(hole).subnet_of(outer)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            inside = False
        if not inside:
            message = "must be a strict subset of `cidr`"
            found.append(bad(f"{at}.ipBlock.except[{number}]", hole, message))
    return found


def check_ingress_class(obj: Object) -> list[Cause]:
    """What is wrong with an IngressClass."""
    controller = text(mapping(obj, "spec"), "controller")
    if controller and "/" not in controller:
        message = 'must be a domain-prefixed path (such as "acme.io/foo")'
        return [bad("spec.controller", controller, message)]
    return []
