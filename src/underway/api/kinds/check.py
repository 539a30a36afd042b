"""Which rules a kind has.

Kinds that are not built in are checked for their metadata alone; their schema says the rest. So
are CustomResourceDefinitions, which the server checks against what it can serve.
"""

from __future__ import annotations

from collections.abc import Callable

from underway.api.kinds import (
    cluster,
    infrastructure,
    network,
    pods,
    policies,
    registration,
    workloads,
)
from underway.api.kinds.metadata import check_metadata, check_metadata_update
from underway.api.objects import Object
from underway.api.resources import Resource
from underway.base.errors import Cause

Check = Callable[[Object], list[Cause]]
Keep = Callable[[Object, Object], list[Cause]]

_RBAC = "rbac.authorization.k8s.io"
_CHECKS: dict[tuple[str, str], Check] = {
    ("", "ConfigMap"): cluster.check_config_map,
    ("", "Endpoints"): network.check_endpoints,
    ("", "Event"): cluster.check_event,
    ("", "Node"): cluster.check_node,
    ("", "PersistentVolume"): cluster.check_volume,
    ("", "PersistentVolumeClaim"): cluster.check_claim,
    ("", "Pod"): pods.check_pod,
    ("", "ReplicationController"): workloads.check_replication_controller,
    ("", "ResourceQuota"): cluster.check_quota,
    ("", "Secret"): cluster.check_secret,
    ("", "Service"): network.check_service,
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"): policies.check_mutating_policy,
    (
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicyBinding",
    ): policies.check_mutating_binding,
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"): policies.check_policy,
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"): policies.check_binding,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): registration.check_webhooks,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): registration.check_webhooks,
    ("apps", "DaemonSet"): workloads.check_daemon_set,
    ("apps", "Deployment"): workloads.check_deployment,
    ("apps", "ReplicaSet"): workloads.check_replica_set,
    ("apps", "StatefulSet"): workloads.check_stateful_set,
    ("autoscaling", "HorizontalPodAutoscaler"): cluster.check_autoscaler,
    ("batch", "CronJob"): workloads.check_cron_job,
    ("batch", "Job"): workloads.check_job,
    ("coordination.k8s.io", "Lease"): cluster.check_lease,
    ("discovery.k8s.io", "EndpointSlice"): network.check_endpoint_slice,
    ("events.k8s.io", "Event"): cluster.check_event,
    ("networking.k8s.io", "Ingress"): network.check_ingress,
    ("networking.k8s.io", "IngressClass"): network.check_ingress_class,
    ("networking.k8s.io", "NetworkPolicy"): network.check_network_policy,
    ("policy", "PodDisruptionBudget"): cluster.check_disruption_budget,
    (_RBAC, "ClusterRole"): cluster.check_role,
    (_RBAC, "ClusterRoleBinding"): cluster.check_binding,
    (_RBAC, "Role"): cluster.check_role,
    (_RBAC, "RoleBinding"): cluster.check_binding,
    ("scheduling.k8s.io", "PriorityClass"): cluster.check_priority_class,
    ("storage.k8s.io", "StorageClass"): cluster.check_storage_class,
}
_KEEPS: dict[tuple[str, str], Keep] = {
    ("", "ConfigMap"): cluster.keep_config,
    ("", "PersistentVolumeClaim"): cluster.keep_claim,
    ("", "Secret"): cluster.keep_secret,
    ("", "Service"): network.keep_service,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): cluster.keep_definition,
    ("apps", "DaemonSet"): workloads.keep_selector,
    ("apps", "Deployment"): workloads.keep_selector,
    ("apps", "ReplicaSet"): workloads.keep_selector,
    ("apps", "StatefulSet"): workloads.keep_stateful_set,
    ("batch", "Job"): workloads.keep_job,
    ("discovery.k8s.io", "EndpointSlice"): network.keep_endpoint_slice,
    (_RBAC, "ClusterRoleBinding"): cluster.keep_binding,
    (_RBAC, "RoleBinding"): cluster.keep_binding,
    ("scheduling.k8s.io", "PriorityClass"): cluster.keep_priority_class,
}


def _check_of(kind: tuple[str, str]) -> Check | None:
    if kind not in _CHECKS and kind in infrastructure.KINDS:
        return infrastructure.check_required
    return _CHECKS.get(kind)


def validate_create(resource: Resource, obj: Object) -> list[Cause]:
    """What is wrong with a new object that has its defaults; empty when nothing is.

    Raises:
        BadRequest: a field has another type than its kind says.
    """
    found = check_metadata(resource, obj)
    check = _check_of((resource.group, resource.kind))
    return found + check(obj) if check else found


def validate_update(
    resource: Resource, new: Object, old: Object, subresource: str = ""
) -> list[Cause]:
    """What is wrong with a changed object that has its defaults; empty when nothing is.

    Changes of a subresource (``status``, ``binding``, ``resize`` ...) are checked for their
    metadata alone.

    Raises:
        BadRequest: a field has another type than its kind says.
    """
    found = check_metadata_update(new, old)
    if subresource:
        return found
    kind = (resource.group, resource.kind)
    if kind == ("", "Pod"):
        return found + pods.check_pod_update(new, old)
    found += infrastructure.keep_fixed(kind, new, old)
    keep, check = _KEEPS.get(kind), _check_of(kind)
    if keep:
        found += keep(new, old)
    return found + check(new) if check else found
