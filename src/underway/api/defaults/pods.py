"""Defaults of pods and of the pod templates in workloads.

Source: Kubernetes ``pkg/apis/core/v1/defaults.go``.
"""

from __future__ import annotations

from underway.api.defaults.setting import (
    canonical_quantities,
    canonical_quantity,
    default,
    default_positive,
)
from underway.api.objects import Object
from underway.api.shape import boolean, items, made, mapping, text

FILE_MODE = 0o644
TOKEN_EXPIRATION_S = 3600
CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")


def pull_policy(image: str) -> str:
    """``Always`` for images whose tag is or means ``latest``, otherwise ``IfNotPresent``."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return "Always" if tag == "latest" or (not tag and not digest) else "IfNotPresent"


def pod_defaults(pod: Object) -> None:
    """Defaults of a Pod, which has some that a template has not."""
    spec = made(pod, "spec")
    pod_spec_defaults(spec)
    default(spec, enableServiceLinks=True)
    for field in CONTAINER_LISTS[:2]:
        for container in items(spec, field):
            resources = made(container, "resources")
            limits = mapping(resources, "limits")
            if limits:
                requests = made(resources, "requests")
                for name, amount in limits.items():
                    requests.setdefault(name, amount)
            if boolean(spec, "hostNetwork"):
                for port in items(container, "ports"):
                    default_positive(port, hostPort=port.get("containerPort", 0))


def template_defaults(parent: Object) -> None:
    """Defaults of the pod template in ``parent["template"]``."""
    template = made(parent, "template")
    made(template, "metadata")
    pod_spec_defaults(made(template, "spec"))


def pod_spec_defaults(spec: Object) -> None:
    """Defaults that pods and templates share."""
    default(
        spec,
        dnsPolicy="ClusterFirst",
        restartPolicy="Always",
        schedulerName="default-scheduler",
        securityContext={},
        terminationGracePeriodSeconds=30,
    )
    account = text(spec, "serviceAccountName") or text(spec, "serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for field in CONTAINER_LISTS:
        for container in items(spec, field):
            _container(container, ephemeral=field == "ephemeralContainers")
    for volume in items(spec, "volumes"):
        _volume(volume)
    canonical_quantities(spec, "overhead")


def _container(container: Object, *, ephemeral: bool) -> None:
    default(
        container,
        imagePullPolicy=pull_policy(text(container, "image")),
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    if not ephemeral or container.get("resources"):
        resources = made(container, "resources")
        canonical_quantities(resources, "limits", "requests")
    for port in items(container, "ports"):
        default(port, protocol="TCP")
    for variable in items(container, "env"):
        source = mapping(variable, "valueFrom")
        _reference(source)
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(field) is not None:
            _probe(mapping(container, field))
    lifecycle = mapping(container, "lifecycle")
    for hook in ("postStart", "preStop"):
        _http_get(mapping(lifecycle, hook))


def _reference(source: Object) -> None:
    if source.get("fieldRef") is not None:
        default(mapping(source, "fieldRef"), apiVersion="v1")
    if source.get("resourceFieldRef") is not None:
        resource = mapping(source, "resourceFieldRef")
        default(resource, divisor="0")
        canonical_quantity(resource, "divisor")


def _probe(probe: Object) -> None:
    default_positive(
        probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3
    )
    _http_get(probe)
    if probe.get("grpc") is not None:
        mapping(probe, "grpc").setdefault("service", "")


def _http_get(handler: Object) -> None:
    if handler.get("httpGet") is not None:
        default(mapping(handler, "httpGet"), path="/", scheme="HTTP")


def _volume(volume: Object) -> None:
    if len([name for name in volume if name != "name"]) == 0:
        volume["emptyDir"] = {}
    if volume.get("emptyDir") is not None:
        canonical_quantity(mapping(volume, "emptyDir"), "sizeLimit")
    for kind in ("secret", "configMap", "downwardAPI", "projected"):
        if volume.get(kind) is not None:
            default(mapping(volume, kind), defaultMode=FILE_MODE)
    if volume.get("hostPath") is not None:
        mapping(volume, "hostPath").setdefault("type", "")
    for item in items(mapping(volume, "downwardAPI"), "items"):
        _reference(item)
    for source in items(mapping(volume, "projected"), "sources"):
        for item in items(mapping(source, "downwardAPI"), "items"):
            _reference(item)
        if source.get("serviceAccountToken") is not None:
            default(mapping(source, "serviceAccountToken"), expirationSeconds=TOKEN_EXPIRATION_S)
    if volume.get("ephemeral") is not None:
        template = made(mapping(volume, "ephemeral"), "volumeClaimTemplate")
        claim_spec_defaults(made(template, "spec"))


def claim_spec_defaults(spec: Object) -> None:
    """Defaults of a PersistentVolumeClaim's spec."""
    default(spec, volumeMode="Filesystem")
    canonical_quantities(made(spec, "resources"), "limits", "requests")
