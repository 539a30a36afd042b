"""Defaults by kind.

Source: Kubernetes ``pkg/apis/*/v1/defaults.go`` and each group's conversions.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from underway.api.defaults.infrastructure import INFRASTRUCTURE
from underway.api.defaults.pods import claim_spec_defaults, pod_defaults, template_defaults
from underway.api.defaults.registration import webhook_defaults
from underway.api.defaults.setting import (
    canonical_quantities,
    canonical_quantity,
    default,
    default_positive,
    drop_nulls,
)
from underway.api.objects import Object, meta, name_of
from underway.api.resources import Resource
from underway.api.shape import ShapeError, items, made, mapping, text, texts
from underway.base.errors import BadRequest

RBAC_GROUP = "rbac.authorization.k8s.io"
SESSION_TIMEOUT_S = 10_800
_MAX_INT32 = 2_147_483_647


# Fields that hold documents of somebody else, where a null may mean something.
_RAW = {"ControllerRevision": ("data",), "CustomResourceDefinition": ("spec",)}


def apply_defaults(resource: Resource, obj: Object) -> None:
    """Fill in, in place, what the kind means by fields that were left out.

    Quantities are rewritten in canonical form, nulls are dropped and a Secret's ``stringData``
    moves into ``data``, as decoding does at the API server. Kinds that are not built in are left
    alone. Doing it twice is the same as doing it once.

    Raises:
        BadRequest: a field has another type than its kind says, or a quantity is none.
    """
    defaults = _BY_KIND.get((resource.group, resource.kind))
    if defaults is None:
        return
    try:
        drop_nulls(obj, skip=_RAW.get(resource.kind, ()))
        made(obj, "metadata")
        defaults(obj)
    except ShapeError as error:
        version = resource.version
        raise BadRequest(
            f'{resource.kind} in version "{version}" cannot be handled as a {resource.kind}: '
            f"{error.message}"
        ) from error


def _nothing(obj: Object) -> None:
    """The kind has no defaults."""


# Workloads


def _deployment(obj: Object) -> None:
    spec = made(obj, "spec")
    default(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    strategy = made(spec, "strategy")
    default(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        default(made(strategy, "rollingUpdate"), maxUnavailable="25%", maxSurge="25%")
    template_defaults(spec)


def _replica_set(obj: Object) -> None:
    spec = made(obj, "spec")
    default(spec, replicas=1)
    template_defaults(spec)


def _replication_controller(obj: Object) -> None:
    _replica_set(obj)
    spec = obj["spec"]
    labels = texts(mapping(mapping(spec, "template"), "metadata"), "labels")
    if labels:
        if not spec.get("selector"):
            spec["selector"] = dict(labels)
        if not meta(obj).get("labels"):
            meta(obj)["labels"] = dict(labels)


def _stateful_set(obj: Object) -> None:
    spec = made(obj, "spec")
    default(spec, replicas=1, revisionHistoryLimit=10, podManagementPolicy="OrderedReady")
    strategy = made(spec, "updateStrategy")
    default(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        default(made(strategy, "rollingUpdate"), partition=0)
    default(
        made(spec, "persistentVolumeClaimRetentionPolicy"),
        whenDeleted="Retain",
        whenScaled="Retain",
    )
    for claim in items(spec, "volumeClaimTemplates"):
        default(claim, apiVersion="v1", kind="PersistentVolumeClaim")
        _claim(claim)
    template_defaults(spec)


def _daemon_set(obj: Object) -> None:
    spec = made(obj, "spec")
    default(spec, revisionHistoryLimit=10)
    strategy = made(spec, "updateStrategy")
    default(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        default(made(strategy, "rollingUpdate"), maxUnavailable=1, maxSurge=0)
    template_defaults(spec)


def _job(obj: Object) -> None:
    spec = made(obj, "spec")
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = spec["parallelism"] = 1
    default(
        spec,
        parallelism=1,
        completionMode="NonIndexed",
        manualSelector=False,
        suspend=False,
        backoffLimit=6 if spec.get("backoffLimitPerIndex") is None else _MAX_INT32,
        podReplacementPolicy="Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed",
    )
    labels = texts(mapping(mapping(spec, "template"), "metadata"), "labels")
    if labels and not meta(obj).get("labels"):
        meta(obj)["labels"] = dict(labels)
    template_defaults(spec)


def _cron_job(obj: Object) -> None:
    spec = made(obj, "spec")
    default(
        spec,
        concurrencyPolicy="Allow",
        suspend=False,
        successfulJobsHistoryLimit=3,
        failedJobsHistoryLimit=1,
    )
    template = made(spec, "jobTemplate")
    made(template, "metadata")
    template_defaults(made(template, "spec"))


def _autoscaler(obj: Object) -> None:
    spec = made(obj, "spec")
    default(spec, minReplicas=1)
    if not items(spec, "metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    for metric in items(spec, "metrics"):
        for source in ("resource", "containerResource", "pods", "object", "external"):
            target = mapping(mapping(metric, source), "target")
            for field in ("value", "averageValue"):
                canonical_quantity(target, field)


# Network


def _service(obj: Object) -> None:
    spec = made(obj, "spec")
    default(spec, type="ClusterIP", sessionAffinity="None")
    if spec["sessionAffinity"] == "ClientIP":
        client_ip = made(made(spec, "sessionAffinityConfig"), "clientIP")
        default(client_ip, timeoutSeconds=SESSION_TIMEOUT_S)
    elif spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    for port in items(spec, "ports"):
        default(port, protocol="TCP")
        if port.get("targetPort") in (None, "", 0) and "port" in port:
            port["targetPort"] = port["port"]
    kind = spec["type"]
    if kind != "ExternalName":
        default(spec, internalTrafficPolicy="Cluster")
    if kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        default(spec, externalTrafficPolicy="Cluster")
    if kind == "LoadBalancer":
        default(spec, allocateLoadBalancerNodePorts=True)


def _endpoints(obj: Object) -> None:
    for subset in items(obj, "subsets"):
        for port in items(subset, "ports"):
            default(port, protocol="TCP")


def _endpoint_slice(obj: Object) -> None:
    obj.setdefault("endpoints", [])
    obj.setdefault("ports", [])
    for endpoint in items(obj, "endpoints"):
        made(endpoint, "conditions")
    for port in items(obj, "ports"):
        default(port, name="", protocol="TCP")


def _network_policy(obj: Object) -> None:
    spec = made(obj, "spec")
    made(spec, "podSelector")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if items(spec, "egress") else ["Ingress"]
    for direction in ("ingress", "egress"):
        for rule in items(spec, direction):
            for port in items(rule, "ports"):
                default(port, protocol="TCP")


def _ingress_class(obj: Object) -> None:
    parameters = mapping(made(obj, "spec"), "parameters")
    if parameters:
        default(parameters, scope="Cluster")


# Configuration, storage, cluster


def _secret(obj: Object) -> None:
    default(obj, type="Opaque")
    plain = texts(obj, "stringData")
    if plain:
        data = made(obj, "data")
        for name, value in plain.items():
            data[name] = base64.b64encode(value.encode()).decode()
    obj.pop("stringData", None)


def _namespace(obj: Object) -> None:
    made(obj, "spec")
    name = name_of(obj)
    if name:
        made(meta(obj), "labels")["kubernetes.io/metadata.name"] = name
    default(made(obj, "status"), phase="Active")


def _node(obj: Object) -> None:
    made(obj, "spec")
    status = made(obj, "status")
    canonical_quantities(status, "capacity", "allocatable")
    if status.get("capacity") and not status.get("allocatable"):
        status["allocatable"] = dict(status["capacity"])


def _claim(obj: Object) -> None:
    claim_spec_defaults(made(obj, "spec"))
    status = made(obj, "status")
    default(status, phase="Pending")
    canonical_quantities(status, "capacity")


def _volume(obj: Object) -> None:
    spec = made(obj, "spec")
    default(spec, persistentVolumeReclaimPolicy="Retain", volumeMode="Filesystem")
    canonical_quantities(spec, "capacity")
    if spec.get("hostPath") is not None:
        mapping(spec, "hostPath").setdefault("type", "")
    default(made(obj, "status"), phase="Pending")


def _storage_class(obj: Object) -> None:
    default(obj, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def _limit_range(obj: Object) -> None:
    for limit in items(made(obj, "spec"), "limits"):
        canonical_quantities(
            limit, "max", "min", "default", "defaultRequest", "maxLimitRequestRatio"
        )
        if text(limit, "type") == "Container":
            standard = made(limit, "default")
            for name, amount in mapping(limit, "max").items():
                standard.setdefault(name, amount)
            requests = made(limit, "defaultRequest")
            for name, amount in {**mapping(limit, "min"), **standard}.items():
                requests.setdefault(name, amount)


def _quota(obj: Object) -> None:
    canonical_quantities(made(obj, "spec"), "hard")
    canonical_quantities(mapping(obj, "status"), "hard", "used")


def _binding(obj: Object) -> None:
    default(made(obj, "roleRef"), apiGroup=RBAC_GROUP)
    for subject in items(obj, "subjects"):
        if text(subject, "kind") in ("User", "Group"):
            default(subject, apiGroup=RBAC_GROUP)


def _priority_class(obj: Object) -> None:
    default(obj, preemptionPolicy="PreemptLowerPriority")
    default_positive(obj, value=0)


def _definition(obj: Object) -> None:
    spec = made(obj, "spec")
    default(spec, scope="Namespaced")
    default(made(spec, "conversion"), strategy="None")
    names = made(spec, "names")
    kind = text(names, "kind")
    if kind:
        default(names, singular=kind.lower(), listKind=f"{kind}List")


_BY_KIND: dict[tuple[str, str], Callable[[Object], None]] = {
    **INFRASTRUCTURE,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): webhook_defaults,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): webhook_defaults,
    ("", "ConfigMap"): _nothing,
    ("", "Endpoints"): _endpoints,
    ("", "Event"): _nothing,
    ("", "LimitRange"): _limit_range,
    ("", "Namespace"): _namespace,
    ("", "Node"): _node,
    ("", "PersistentVolume"): _volume,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "Pod"): pod_defaults,
    ("", "PodTemplate"): template_defaults,
    ("", "ReplicationController"): _replication_controller,
    ("", "ResourceQuota"): _quota,
    ("", "Secret"): _secret,
    ("", "Service"): _service,
    ("", "ServiceAccount"): _nothing,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
    ("apps", "ControllerRevision"): _nothing,
    ("apps", "DaemonSet"): _daemon_set,
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _replica_set,
    ("apps", "StatefulSet"): _stateful_set,
    ("autoscaling", "HorizontalPodAutoscaler"): _autoscaler,
    ("batch", "CronJob"): _cron_job,
    ("batch", "Job"): _job,
    ("coordination.k8s.io", "Lease"): _nothing,
    ("discovery.k8s.io", "EndpointSlice"): _endpoint_slice,
    ("events.k8s.io", "Event"): _nothing,
    ("networking.k8s.io", "Ingress"): _nothing,
    ("networking.k8s.io", "IngressClass"): _ingress_class,
    ("networking.k8s.io", "NetworkPolicy"): _network_policy,
    ("policy", "PodDisruptionBudget"): _nothing,
    (RBAC_GROUP, "ClusterRole"): _nothing,
    (RBAC_GROUP, "ClusterRoleBinding"): _binding,
    (RBAC_GROUP, "Role"): _nothing,
    (RBAC_GROUP, "RoleBinding"): _binding,
    ("scheduling.k8s.io", "PriorityClass"): _priority_class,
    ("storage.k8s.io", "StorageClass"): _storage_class,
}
