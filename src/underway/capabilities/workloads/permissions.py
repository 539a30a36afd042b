"""What each of the controllers may do, beside reading what informers show.

Names of users are upstream's. Source: Kubernetes docs, "Using RBAC Authorization", "Controller
roles".
"""

from __future__ import annotations

from underway.kit import Role, Rule

_READ = "get list watch"
_CHANGE = f"{_READ} patch update"
_ALL = f"{_READ} create delete patch update"
_STATUS = "get patch update"
_HISTORY = Rule(_ALL, "apps", "controllerrevisions")
_PODS = Rule(_ALL, "-", "pods")

_EVICT = (
    Rule(f"{_READ} delete", "-", "pods"),
    Rule("get patch", "-", "pods/status"),
    Rule(_READ, "-", "nodes"),
)

ROLES = {
    "deployment": Role(
        "deployment-controller",
        (
            Rule(_CHANGE, "apps", "deployments"),
            Rule(_STATUS, "apps", "deployments/status"),
            Rule(_ALL, "apps", "replicasets"),
            Rule(_READ, "-", "pods"),
        ),
    ),
    "replicaset": Role(
        "replicaset-controller",
        (
            Rule(_CHANGE, "apps", "replicasets"),
            Rule(_STATUS, "apps", "replicasets/status"),
            Rule(_CHANGE, "-", "replicationcontrollers"),
            Rule(_STATUS, "-", "replicationcontrollers/status"),
            _PODS,
        ),
    ),
    "statefulset": Role(
        "statefulset-controller",
        (
            Rule(_CHANGE, "apps", "statefulsets"),
            Rule(_STATUS, "apps", "statefulsets/status"),
            _HISTORY,
            _PODS,
            Rule(_ALL, "-", "persistentvolumeclaims"),
        ),
    ),
    "daemonset": Role(
        "daemon-set-controller",
        (
            Rule(_CHANGE, "apps", "daemonsets"),
            Rule(_STATUS, "apps", "daemonsets/status"),
            _HISTORY,
            _PODS,
            Rule(_READ, "-", "nodes"),
        ),
    ),
    "job": Role(
        "job-controller",
        (
            Rule(f"{_CHANGE} delete", "batch", "jobs"),
            Rule(_STATUS, "batch", "jobs/status"),
            _PODS,
        ),
    ),
    "cronjob": Role(
        "cronjob-controller",
        (
            Rule(_CHANGE, "batch", "cronjobs"),
            Rule(_STATUS, "batch", "cronjobs/status"),
            Rule(_ALL, "batch", "jobs"),
        ),
    ),
    "endpoints": Role(
        "endpointslice-controller",
        (
            Rule(_READ, "-", "services pods nodes"),
            Rule(_ALL, "-", "endpoints"),
            Rule(_ALL, "discovery.k8s.io", "endpointslices"),
        ),
    ),
    "mirroring": Role(
        "endpointslicemirroring-controller",
        (
            Rule(_READ, "-", "services endpoints"),
            Rule(_ALL, "discovery.k8s.io", "endpointslices"),
        ),
    ),
    # Whatever there is may have owners, finalizers of theirs, or a namespace that ends.
    "cleanup": Role(
        "generic-garbage-collector",
        (
            Rule(f"{_CHANGE} delete deletecollection", "*", "*"),
            Rule("update", "-", "namespaces/finalize namespaces/status"),
        ),
    ),
    "nodes": Role(
        "node-controller",
        (
            Rule(_CHANGE, "-", "nodes"),
            Rule(_STATUS, "-", "nodes/status"),
            Rule(_READ, "-", "pods"),
            Rule("get patch", "-", "pods/status"),
            Rule(_READ, "coordination.k8s.io", "leases"),
        ),
    ),
    "evictions": Role("taint-eviction-controller", _EVICT),
    "podgc": Role("pod-garbage-collector", _EVICT),
    "budgets": Role(
        "disruption-controller",
        (
            Rule(_READ, "policy", "poddisruptionbudgets"),
            Rule(_STATUS, "policy", "poddisruptionbudgets/status"),
            Rule(_READ, "-", "pods replicationcontrollers"),
            Rule("get patch", "-", "pods/status"),
            Rule(_READ, "apps", "deployments replicasets statefulsets"),
            Rule("get", "*", "*/scale"),
        ),
    ),
    "autoscaler": Role(
        "horizontal-pod-autoscaler",
        (
            Rule(_READ, "autoscaling", "horizontalpodautoscalers"),
            Rule(_STATUS, "autoscaling", "horizontalpodautoscalers/status"),
            Rule("get update", "*", "*/scale"),
            Rule(_READ, "-", "pods"),
            Rule("get list", "metrics.k8s.io", "pods"),
            Rule("get list", "custom.metrics.k8s.io external.metrics.k8s.io", "*"),
        ),
    ),
    "aggregation": Role(
        "clusterrole-aggregation-controller",
        (Rule(f"{_CHANGE} escalate", "rbac.authorization.k8s.io", "clusterroles"),),
    ),
}
