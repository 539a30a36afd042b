"""A container's environment: its own variables, ConfigMaps, Secrets, pod fields and Services.

Source: kubernetes API reference "EnvVar", "EnvFromSource"; ``$(VAR)`` references as in
kubernetes ``third_party/forked/golang/expansion``; Service variables as documented under
"Service environment variables".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from underway.api.objects import Object, name_of, namespace_of
from underway.base.errors import BadRequest, NotFound
from underway.capabilities.node.rules.fields import Machine, field_value, resource_value

_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")


@dataclass(frozen=True)
class Sources:
    """Objects of the pod's namespace that its containers name, by name."""

    configmaps: Mapping[str, Object] = field(default_factory=dict)
    secrets: Mapping[str, Object] = field(default_factory=dict)
    services: Iterable[Object] = ()


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by its value; ``$$`` is one ``$``, unknown names stay as they are."""

    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return variables.get(match[2], match[0])

    return _REFERENCE.sub(replace, text)


def secret_bytes(secret: Object) -> dict[str, bytes]:
    """A Secret's data, decoded.

    Raises:
        BadRequest: a value is no base64.
    """
    try:
        return {k: base64.b64decode(v) for k, v in (secret.get("data") or {}).items()}
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"secret {name_of(secret)}: {error}") from error


def environment(
    container: Object, pod: Object, sources: Sources, machine: Machine, pod_ip: str
) -> dict[str, str]:
    """The variables of a container, without those its image brings.

    Raises:
        NotFound: a ConfigMap, Secret or key that is not optional does not exist.
    """
    links = (pod.get("spec") or {}).get("enableServiceLinks", True)
    services = _service_variables(sources.services, namespace_of(pod), links=links)
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        prefix = source.get("prefix") or ""
        for key, value in _whole_object(source, sources).items():
            if _NAME.fullmatch(prefix + key):
                result[prefix + key] = value
    for variable in container.get("env") or ():
        name = variable["name"]
        if variable.get("valueFrom"):
            found = _value_from(variable["valueFrom"], container, pod, sources, machine, pod_ip)
            if found is not None:
                result[name] = found
        else:
            result[name] = expand(variable.get("value") or "", {**services, **result})
    return {**services, **result}


def _whole_object(source: Object, sources: Sources) -> dict[str, str]:
    if reference := source.get("configMapRef"):
        found = sources.configmaps.get(reference.get("name", ""))
        kind = "configmap"
        data = dict((found or {}).get("data") or {})
    else:
        reference = source.get("secretRef") or {}
        found = sources.secrets.get(reference.get("name", ""))
        kind = "secret"
        data = {k: v.decode("utf-8", "replace") for k, v in secret_bytes(found or {}).items()}
    if found is None and not reference.get("optional"):
        raise NotFound(f'{kind} "{reference.get("name", "")}" not found')
    return data


def _value_from(
    source: Object, container: Object, pod: Object, sources: Sources, machine: Machine, pod_ip: str
) -> str | None:
    if reference := source.get("fieldRef"):
        return field_value(pod, reference.get("fieldPath", ""), machine, pod_ip)
    if reference := source.get("resourceFieldRef"):
        return resource_value(reference, container, pod, machine)
    namespace = namespace_of(pod)
    if reference := source.get("configMapKeyRef"):
        found, kind = sources.configmaps.get(reference.get("name", "")), "configmap"
        value = ((found or {}).get("data") or {}).get(reference["key"])
    elif reference := source.get("secretKeyRef"):
        found, kind = sources.secrets.get(reference.get("name", "")), "secret"
        raw = secret_bytes(found or {}).get(reference["key"])
        value = raw.decode("utf-8", "replace") if raw is not None else None
    else:
        return None
    if value is not None or reference.get("optional"):
        return value
    if found is None:
        raise NotFound(f'{kind} "{reference.get("name", "")}" not found')
    raise NotFound(
        f"couldn't find key {reference['key']} in {kind} {namespace}/{reference.get('name', '')}"
    )


def _service_variables(
    services: Iterable[Object], namespace: str, *, links: bool
) -> dict[str, str]:
    result: dict[str, str] = {}
    for service in sorted(services, key=lambda s: (namespace_of(s), name_of(s))):
        api_server = namespace_of(service) == "default" and name_of(service) == "kubernetes"
        if not api_server and not (links and namespace_of(service) == namespace):
            continue
        spec = service.get("spec") or {}
        address, ports = spec.get("clusterIP"), spec.get("ports") or []
        if not address or address == "None" or not ports:
            continue
        prefix = name_of(service).upper().replace("-", "_")
        result[f"{prefix}_SERVICE_HOST"] = address
        result[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
        first = ports[0]
        url = f"{first.get('protocol', 'TCP').lower()}://{address}:{first['port']}"
        result[f"{prefix}_PORT"] = url
        for port in ports:
            protocol, number = port.get("protocol", "TCP"), port["port"]
            if port.get("name"):
                suffix = port["name"].upper().replace("-", "_")
                result[f"{prefix}_SERVICE_PORT_{suffix}"] = str(number)
            head = f"{prefix}_PORT_{number}_{protocol}"
            result[head] = f"{protocol.lower()}://{address}:{number}"
            result[f"{head}_PROTO"] = protocol.lower()
            result[f"{head}_PORT"] = str(number)
            result[f"{head}_ADDR"] = address
    return result
