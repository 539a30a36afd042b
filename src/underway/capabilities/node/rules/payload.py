"""The files of volumes that come from objects: configMap, secret, downwardAPI, projected.

Source: Kubernetes API reference "ConfigMapVolumeSource", "SecretVolumeSource",
"DownwardAPIVolumeSource", "ProjectedVolumeSource".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from underway.api.objects import Object, name_of, namespace_of
from underway.base.errors import BadRequest, NotFound
from underway.capabilities.node.rules.environment import Sources, secret_bytes
from underway.capabilities.node.rules.fields import Machine, field_value, resource_value

DEFAULT_MODE = 0o644


@dataclass(frozen=True, slots=True)
class File:
    """A file's content and permission bits."""

    data: bytes
    mode: int = DEFAULT_MODE


Files = dict[str, File]


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A service-account token that a projected volume wants, and where it goes."""

    path: str
    audience: str
    expiration_s: int


def safe_path(path: str) -> str:
    """A relative path that stays below the volume.

    Raises:
        BadRequest: it is absolute or climbs out.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise BadRequest(f"volume path {path!r} must be relative and must not contain '..'")
    return str(PurePosixPath(*parts))


def claim_name(pod: Object, volume: Object) -> str:
    """The claim behind a volume, be it named or the volume's own; empty for other kinds."""
    if volume.get("ephemeral"):
        return f"{name_of(pod)}-{volume['name']}"
    return str((volume.get("persistentVolumeClaim") or {}).get("claimName") or "")


def configmap_files(configmap: Object) -> dict[str, bytes]:
    """A ConfigMap's ``data`` and ``binaryData``.

    Raises:
        BadRequest: a value of ``binaryData`` is no base64.
    """
    result = {k: v.encode() for k, v in (configmap.get("data") or {}).items()}
    try:
        for key, value in (configmap.get("binaryData") or {}).items():
            result[key] = base64.b64decode(value)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"configmap {name_of(configmap)}: {error}") from error
    return result


def selected(data: Mapping[str, bytes], source: Object, default_mode: int, what: str) -> Files:
    """The keys a volume source asks for, at the paths it asks for.

    Raises:
        NotFound: an item names a key that is not there and is not optional.
    """
    items = source.get("items")
    if not items:
        return {safe_path(key): File(value, default_mode) for key, value in data.items()}
    result: Files = {}
    for item in items:
        key = item["key"]
        if key not in data:
            if source.get("optional"):
                continue
            raise NotFound(f"references non-existent {what} key: {key}")
        result[safe_path(item["path"])] = File(data[key], item.get("mode") or default_mode)
    return result


def files_of(
    volume: Object,
    pod: Object,
    sources: Sources,
    machine: Machine,
    pod_ip: str,
    tokens: Mapping[str, str] | None = None,
    root_ca: str = "",
) -> Files | None:
    """The files of a volume that comes from objects; None for any other kind.

    Args:
        tokens: by path, the service-account tokens that ``token_requests`` asked for.
        root_ca: unused where the namespace has its ``kube-root-ca.crt`` ConfigMap.

    Raises:
        NotFound: a ConfigMap, Secret or key that is not optional does not exist.
    """
    if source := volume.get("configMap"):
        return _configmap(source, source.get("defaultMode") or DEFAULT_MODE, pod, sources)
    if source := volume.get("secret"):
        mode = source.get("defaultMode") or DEFAULT_MODE
        return _secret(source.get("secretName", ""), source, mode, pod, sources)
    if source := volume.get("downwardAPI"):
        mode = source.get("defaultMode") or DEFAULT_MODE
        return _downward(source, mode, pod, machine, pod_ip)
    if (source := volume.get("projected")) is None:
        return None
    mode = source.get("defaultMode") or DEFAULT_MODE
    result: Files = {}
    for part in source.get("sources") or ():
        if inner := part.get("configMap"):
            result |= _root_ca(inner, root_ca, mode, sources) or _configmap(
                inner, mode, pod, sources
            )
        elif inner := part.get("secret"):
            result |= _secret(inner.get("name", ""), inner, mode, pod, sources)
        elif inner := part.get("downwardAPI"):
            result |= _downward(inner, mode, pod, machine, pod_ip)
        elif inner := part.get("serviceAccountToken"):
            path = safe_path(inner["path"])
            if tokens and path in tokens:
                result[path] = File(tokens[path].encode(), _token_mode(pod, mode))
    return result


def token_requests(volume: Object) -> list[TokenRequest]:
    """The service-account tokens a volume wants."""
    found = []
    for part in (volume.get("projected") or {}).get("sources") or ():
        if inner := part.get("serviceAccountToken"):
            expiration_s = int(inner.get("expirationSeconds") or 3600)
            found.append(
                TokenRequest(safe_path(inner["path"]), inner.get("audience") or "", expiration_s)
            )
    return found


def referenced(pod: Object) -> tuple[set[str], set[str]]:
    """Names of the ConfigMaps and of the Secrets that the pod's containers and volumes name."""
    configmaps: set[str] = set()
    secrets: set[str] = set()
    spec = pod.get("spec") or {}
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        for source in container.get("envFrom") or ():
            configmaps.add((source.get("configMapRef") or {}).get("name", ""))
            secrets.add((source.get("secretRef") or {}).get("name", ""))
        for variable in container.get("env") or ():
            value = variable.get("valueFrom") or {}
            configmaps.add((value.get("configMapKeyRef") or {}).get("name", ""))
            secrets.add((value.get("secretKeyRef") or {}).get("name", ""))
    for volume in spec.get("volumes") or ():
        parts = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        for part in parts:
            configmaps.add((part.get("configMap") or {}).get("name", ""))
            secret = part.get("secret") or {}
            secrets.add(secret.get("secretName") or secret.get("name") or "")
    return configmaps - {""}, secrets - {""}


def _token_mode(pod: Object, mode: int) -> int:
    # Whoever runs in the pod must be able to read its own token, and nobody else needs to.
    spec = pod.get("spec") or {}
    contexts = [spec.get("securityContext") or {}] + [
        container.get("securityContext") or {} for container in spec.get("containers") or ()
    ]
    plain = not any(c.get("runAsUser") or c.get("fsGroup") for c in contexts)
    return mode if plain else mode | 0o044


def _root_ca(source: Object, root_ca: str, mode: int, sources: Sources) -> Files:
    """The cluster's certificate authority, for namespaces whose ConfigMap is still to come."""
    if source.get("name") != "kube-root-ca.crt" or not root_ca:
        return {}
    if "kube-root-ca.crt" in sources.configmaps:
        return {}
    return selected({"ca.crt": root_ca.encode()}, source, mode, "config")


def _configmap(source: Object, mode: int, pod: Object, sources: Sources) -> Files:
    name = source.get("name", "")
    found = sources.configmaps.get(name)
    if found is None:
        if source.get("optional"):
            return {}
        raise NotFound(f'configmap "{name}" not found in namespace {namespace_of(pod)}')
    return selected(configmap_files(found), source, mode, "config")


def _secret(name: str, source: Object, mode: int, pod: Object, sources: Sources) -> Files:
    found = sources.secrets.get(name)
    if found is None:
        if source.get("optional"):
            return {}
        raise NotFound(f'secret "{name}" not found in namespace {namespace_of(pod)}')
    return selected(secret_bytes(found), source, mode, "secret")


def _downward(source: Object, mode: int, pod: Object, machine: Machine, pod_ip: str) -> Files:
    result: Files = {}
    for item in source.get("items") or ():
        path = safe_path(item["path"])
        if reference := item.get("fieldRef"):
            text = field_value(pod, reference.get("fieldPath", ""), machine, pod_ip)
        else:
            text = resource_value(item.get("resourceFieldRef") or {}, {}, pod, machine)
        result[path] = File(text.encode(), item.get("mode") or mode)
    return result
