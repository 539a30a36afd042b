"""Manifests that tests of several modules use."""

from copy import deepcopy

from underway.api import resources
from underway.api.defaults import apply_defaults
from underway.api.objects import Object
from underway.api.resources import Resource

CONTAINER: Object = {"name": "web", "image": "nginx"}
TEMPLATE: Object = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {"containers": [CONTAINER]},
}
SELECTOR: Object = {"matchLabels": {"app": "web"}}
_JOB_TEMPLATE = {"spec": {"containers": [CONTAINER], "restartPolicy": "Never"}}

SPECS: dict[str, tuple[Resource, Object]] = {
    "pod": (resources.PODS, {"spec": {"containers": [CONTAINER]}}),
    "deployment": (resources.DEPLOYMENTS, {"spec": {"selector": SELECTOR, "template": TEMPLATE}}),
    "replicaset": (resources.REPLICASETS, {"spec": {"selector": SELECTOR, "template": TEMPLATE}}),
    "statefulset": (
        resources.STATEFULSETS,
        {"spec": {"selector": SELECTOR, "template": TEMPLATE, "serviceName": "web"}},
    ),
    "daemonset": (resources.DAEMONSETS, {"spec": {"selector": SELECTOR, "template": TEMPLATE}}),
    "job": (
        resources.JOBS,
        {
            "spec": {
                "template": {"metadata": {"labels": {"a": "b"}}, **_JOB_TEMPLATE},
                "selector": {"matchLabels": {"a": "b"}},
                "manualSelector": True,
            }
        },
    ),
    "cronjob": (
        resources.CRONJOBS,
        {
            "spec": {
                "schedule": "* * * * *",
                "jobTemplate": {"spec": {"template": _JOB_TEMPLATE}},
            }
        },
    ),
    "service": (resources.SERVICES, {"spec": {"ports": [{"port": 80}]}}),
    "configmap": (resources.CONFIGMAPS, {"data": {"a": "b"}}),
    "secret": (resources.SECRETS, {"stringData": {"a": "b"}}),
    "namespace": (resources.NAMESPACES, {}),
    "serviceaccount": (resources.SERVICEACCOUNTS, {}),
    "claim": (
        resources.PERSISTENTVOLUMECLAIMS,
        {
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1024Mi"}},
            }
        },
    ),
    "lease": (resources.LEASES, {"spec": {"holderIdentity": "x"}}),
    "slice": (
        resources.ENDPOINTSLICES,
        {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 1}]},
    ),
    "role": (
        resources.ROLES,
        {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
    ),
    "binding": (
        resources.ROLEBINDINGS,
        {
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [
                {"kind": "User", "name": "u"},
                {"kind": "ServiceAccount", "name": "s", "namespace": "d"},
            ],
        },
    ),
    "ingress": (
        resources.INGRESSES,
        {
            "spec": {
                "rules": [
                    {
                        "host": "a.b",
                        "http": {
                            "paths": [
                                {
                                    "path": "/",
                                    "pathType": "Prefix",
                                    "backend": {"service": {"name": "s", "port": {"number": 80}}},
                                }
                            ]
                        },
                    }
                ]
            }
        },
    ),
    "networkpolicy": (
        resources.NETWORKPOLICIES,
        {"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}},
    ),
    "autoscaler": (
        resources.HORIZONTALPODAUTOSCALERS,
        {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3}},
    ),
    "budget": (
        resources.POD_DISRUPTION_BUDGETS,
        {"spec": {"minAvailable": 1, "selector": SELECTOR}},
    ),
    "storageclass": (resources.STORAGECLASSES, {"provisioner": "x"}),
    "priorityclass": (resources.PRIORITYCLASSES, {"value": 5}),
}


def manifest(kind: str) -> tuple[Resource, Object]:
    """A manifest as a user writes it."""
    resource, body = SPECS[kind]
    metadata = {"name": "web"}
    if resource.namespaced:
        metadata["namespace"] = "default"
    obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
    return resource, deepcopy({**obj, **body})


def complete(kind: str) -> tuple[Resource, Object]:
    """The same with its defaults."""
    resource, obj = manifest(kind)
    apply_defaults(resource, obj)
    return resource, obj
