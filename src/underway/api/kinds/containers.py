"""Rules of containers: names, images, ports, environment, mounts, probes and resources.

Source: Kubernetes ``pkg/apis/core/validation/validation.go`` (validateContainers and below).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from underway.api import names, quantity
from underway.api.kinds.causes import (
    bad,
    duplicate,
    forbidden,
    not_found,
    not_negative,
    one_of,
    required,
    unsupported,
)
from underway.api.objects import Object
from underway.api.shape import items, mapping, sequence, text
from underway.base.errors import Cause

_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_MESSAGE_POLICIES = ("File", "FallbackToLogsOnError")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOK_HANDLERS = ("exec", "httpGet", "tcpSocket", "sleep")
_STANDARD_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_DOWNWARD_FIELDS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
_RESOURCE_FIELDS = tuple(
    f"{side}.{name}"
    for side in ("limits", "requests")
    for name in ("cpu", "ephemeral-storage", "memory")
)
# Fields of a pod that have a label, beyond those a container may refer to.
_POD_FIELDS = (
    *_DOWNWARD_FIELDS,
    "metadata.annotations",
    "metadata.labels",
    "spec.hostNetwork",
    "spec.restartPolicy",
    "spec.schedulerName",
    "status.nominatedNodeName",
    "status.phase",
)


@dataclass(frozen=True)
class Context:
    """What a container may refer to."""

    volumes: frozenset[str]
    host_network: bool = False


def check_containers(spec: Object, field: str, context: Context) -> list[Cause]:
    """What is wrong with a pod spec's containers of all sorts."""
    found: list[Cause] = []
    seen: set[str] = set()
    host_ports: set[tuple[Any, Any, Any]] = set()
    for group in ("containers", "initContainers", "ephemeralContainers"):
        for number, container in enumerate(items(spec, group)):
            at = f"{field}.{group}[{number}]"
            name = text(container, "name")
            if not name:
                found.append(required(f"{at}.name"))
            else:
                found += [bad(f"{at}.name", name, each) for each in names.dns_label(name)]
                if name in seen:
                    found.append(duplicate(f"{at}.name", name))
            seen.add(name)
            found += _check_container(container, at, group, context)
            if group == "containers":
                found += _check_host_ports(container, at, host_ports)
    return found


def _check_container(container: Object, at: str, group: str, context: Context) -> list[Cause]:
    found: list[Cause] = []
    image = text(container, "image")
    if not image:
        found.append(required(f"{at}.image"))
    elif image != image.strip():
        message = "must not have leading or trailing whitespace"
        found.append(bad(f"{at}.image", image, message))
    found += one_of(f"{at}.imagePullPolicy", container.get("imagePullPolicy"), _PULL_POLICIES)
    policy = container.get("terminationMessagePolicy")
    found += one_of(f"{at}.terminationMessagePolicy", policy, _MESSAGE_POLICIES)
    found += _check_ports(items(container, "ports"), f"{at}.ports", context)
    found += _check_environment(container, at)
    found += _check_mounts(items(container, "volumeMounts"), f"{at}.volumeMounts", context)
    found += check_resources(mapping(container, "resources"), f"{at}.resources")
    sidecar = group == "initContainers" and container.get("restartPolicy") == "Always"
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name) is None:
            continue
        if group == "ephemeralContainers" or (group == "initContainers" and not sidecar):
            message = "may not be set for init containers without restartPolicy=Always"
            if group == "ephemeralContainers":
                message = "cannot be set for an Ephemeral Container"
            found.append(forbidden(f"{at}.{name}", message))
        found += _check_probe(mapping(container, name), f"{at}.{name}", name, container)
    lifecycle = mapping(container, "lifecycle")
    for name in ("postStart", "preStop"):
        if lifecycle.get(name) is not None:
            where = f"{at}.lifecycle.{name}"
            found += _check_handler(mapping(lifecycle, name), where, _HOOK_HANDLERS, container)
    return found


def _check_ports(ports: list[Object], field: str, context: Context) -> list[Cause]:
    found: list[Cause] = []
    seen: set[str] = set()
    for number, port in enumerate(ports):
        at = f"{field}[{number}]"
        name = text(port, "name")
        if name:
            found += [bad(f"{at}.name", name, message) for message in names.port_name(name)]
            if name in seen:
                found.append(duplicate(f"{at}.name", name))
            seen.add(name)
        value, host = port.get("containerPort"), port.get("hostPort")
        if not value:
            found.append(required(f"{at}.containerPort"))
        else:
            found += [bad(f"{at}.containerPort", value, each) for each in names.port_number(value)]
        if host:
            found += [bad(f"{at}.hostPort", host, each) for each in names.port_number(host)]
            if context.host_network and host != value:
                message = "must match `containerPort` when `hostNetwork` is true"
                found.append(bad(f"{at}.hostPort", host, message))
        found += one_of(f"{at}.protocol", port.get("protocol"), _PROTOCOLS)
    return found


def _check_host_ports(container: Object, at: str, seen: set[tuple[Any, Any, Any]]) -> list[Cause]:
    found: list[Cause] = []
    for number, port in enumerate(items(container, "ports")):
        host = port.get("hostPort")
        if not host:
            continue
        key = (port.get("hostIP") or "0.0.0.0", host, port.get("protocol"))  # noqa: S104  # any
        if key in seen:
            shown = f"{key[2]}/{key[0]}/{host}"
            found.append(duplicate(f"{at}.ports[{number}].hostPort", shown))
        seen.add(key)
    return found


def _check_environment(container: Object, at: str) -> list[Cause]:
    found: list[Cause] = []
    for number, variable in enumerate(items(container, "env")):
        where = f"{at}.env[{number}]"
        name = text(variable, "name")
        if not name:
            found.append(required(f"{where}.name"))
        else:
            messages = names.environment_name(name)
            found += [bad(f"{where}.name", name, message) for message in messages]
        if variable.get("valueFrom") is not None:
            found += _check_value_from(variable, f"{where}.valueFrom")
    for number, source in enumerate(items(container, "envFrom")):
        where = f"{at}.envFrom[{number}]"
        given = [each for each in ("configMapRef", "secretRef") if source.get(each) is not None]
        if not given:
            message = "must specify one of: `configMapRef` or `secretRef`"
            found.append(bad(f"{at}.envFrom", "", message))
        elif len(given) > 1:
            message = "may not have more than one field specified at a time"
            found.append(bad(f"{at}.envFrom", "", message))
        found += [
            required(f"{where}.{each}.name")
            for each in given
            if not text(mapping(source, each), "name")
        ]
    return found


def _check_value_from(variable: Object, where: str) -> list[Cause]:
    source = mapping(variable, "valueFrom")
    kinds = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
    given = [each for each in kinds if source.get(each) is not None]
    if not given:
        message = (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or "
            "`secretKeyRef`"
        )
        return [bad(where, "", message)]
    if text(variable, "value"):
        return [bad(where, "", "may not be specified when `value` is not empty")]
    if len(given) > 1:
        return [bad(where, "", "may not have more than one field specified at a time")]
    kind, at = given[0], f"{where}.{given[0]}"
    reference = mapping(source, kind)
    if kind in ("configMapKeyRef", "secretKeyRef"):
        name = text(reference, "name")
        found = [bad(f"{at}.name", name, message) for message in names.dns_subdomain(name)]
        key = text(reference, "key")
        if not key:
            return [*found, required(f"{at}.key")]
        return found + [bad(f"{at}.key", key, message) for message in names.config_key(key)]
    if kind == "fieldRef":
        return check_field_ref(text(reference, "fieldPath"), f"{at}.fieldPath")
    if kind == "resourceFieldRef":
        return check_resource_ref(reference, at)
    return []


def check_resource_ref(reference: Object, at: str) -> list[Cause]:
    """What is wrong with a reference to a container's resources."""
    resource = text(reference, "resource")
    if not resource:
        return [required(f"{at}.resource")]
    if resource.startswith(("limits.hugepages-", "requests.hugepages-")):
        return []
    return one_of(f"{at}.resource", resource, _RESOURCE_FIELDS)


def check_field_ref(path: str, at: str) -> list[Cause]:
    """What is wrong with a reference to a field of the pod."""
    if not path:
        return [required(at)]
    base, bracket, _ = path.partition("[")
    if bracket and base in ("metadata.labels", "metadata.annotations"):
        return []
    if path not in _POD_FIELDS:
        message = f"error converting fieldPath: field label not supported: {path}"
        return [bad(at, path, message)]
    if path not in _DOWNWARD_FIELDS:
        return [unsupported(at, path, _DOWNWARD_FIELDS)]
    return []


def _check_mounts(mounts: list[Object], field: str, context: Context) -> list[Cause]:
    found: list[Cause] = []
    paths: set[str] = set()
    for number, mount in enumerate(mounts):
        at = f"{field}[{number}]"
        name, path, sub = (text(mount, each) for each in ("name", "mountPath", "subPath"))
        if not name:
            found.append(required(f"{at}.name"))
        if name not in context.volumes:
            found.append(not_found(f"{at}.name", name))
        if not path:
            found.append(required(f"{at}.mountPath"))
        elif path in paths:
            found.append(bad(f"{at}.mountPath", path, "must be unique"))
        paths.add(path)
        if sub.startswith("/"):
            found.append(bad(f"{at}.subPath", sub, "must be a relative path"))
        if ".." in sub.split("/"):
            found.append(bad(f"{at}.subPath", sub, "must not contain '..'"))
        if sub and text(mount, "subPathExpr"):
            message = "subPathExpr and subPath are mutually exclusive"
            found.append(bad(f"{at}.subPathExpr", mount["subPathExpr"], message))
    return found


def check_resources(resources: Object, field: str) -> list[Cause]:
    """What is wrong with a container's ``resources``."""
    found: list[Cause] = []
    limits, requests = mapping(resources, "limits"), mapping(resources, "requests")
    for side, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            at = f"{field}.{side}[{name}]"
            if not _is_container_resource(name):
                found += [
                    Cause(at, f"Invalid value: {name}: {message}")
                    for message in (
                        "must be a standard resource type or fully qualified",
                        "must be a standard resource for containers",
                    )
                ]
            if not quantity.is_quantity(amount):
                found.append(bad(at, amount, quantity.MESSAGE))
            elif quantity.parse(amount) < 0:
                found.append(bad(at, str(amount), "must be greater than or equal to 0"))
    for name, amount in requests.items():
        limit = limits.get(name)
        if limit is None or not quantity.is_quantity(amount) or not quantity.is_quantity(limit):
            continue
        if quantity.parse(amount) > quantity.parse(limit):
            message = f"must be less than or equal to {name} limit of {limit}"
            found.append(bad(f"{field}.requests", str(amount), message))
    return found


def _is_container_resource(name: str) -> bool:
    return name in _STANDARD_RESOURCES or name.startswith("hugepages-") or "/" in name


def _check_probe(probe: Object, at: str, kind: str, container: Object) -> list[Cause]:
    found = _check_handler(probe, at, _HANDLERS, container)
    for name in (
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ):
        found += not_negative(f"{at}.{name}", probe.get(name))
    if kind != "readinessProbe" and probe.get("successThreshold") not in (None, 1):
        found.append(bad(f"{at}.successThreshold", probe["successThreshold"], "must be 1"))
    return found


def _check_handler(
    handler: Object, at: str, kinds: tuple[str, ...], container: Object
) -> list[Cause]:
    given = [kind for kind in kinds if handler.get(kind) is not None]
    if not given:
        return [required(at, "must specify a handler type")]
    found = [
        forbidden(f"{at}.{kind}", "may not specify more than 1 handler type") for kind in given[1:]
    ]
    kind = given[0]
    action, where = mapping(handler, kind), f"{at}.{kind}"
    if kind == "exec" and not sequence(action, "command"):
        found.append(required(f"{where}.command"))
    if kind == "httpGet":
        if not text(action, "path"):
            found.append(required(f"{where}.path"))
        found += one_of(f"{where}.scheme", action.get("scheme"), ("HTTP", "HTTPS"))
    if kind in ("httpGet", "tcpSocket"):
        found += _check_port(action.get("port") or 0, f"{where}.port")
    elif kind == "grpc":
        port = action.get("port") or 0
        found += [bad(f"{where}.port", port, message) for message in names.port_number(port)]
    return found


def _check_port(port: Any, at: str) -> list[Cause]:
    """A number, or the name of a port of the container."""
    if isinstance(port, str):
        return [bad(at, port, message) for message in names.port_name(port)]
    return [bad(at, port, message) for message in names.port_number(port)]
