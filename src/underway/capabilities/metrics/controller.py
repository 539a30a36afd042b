"""Telling the cluster that the metrics API is there, and who may read it."""

from __future__ import annotations

from underway.api.objects import Object
from underway.api.resources import APISERVICES, CLUSTERROLES
from underway.base.home import Home
from underway.reconcile import Manager

_RBAC = "rbac.authorization.k8s.io"
MANAGER = "underway-metrics"


def api_service() -> Object:
    """The APIService that leads here."""
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "service": {"namespace": "kube-system", "name": "metrics-server", "port": 443},
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
        },
    }


def reader_role() -> Object:
    """What lets those who may view a namespace see what its pods use."""
    labels = {f"{_RBAC}/aggregate-to-{role}": "true" for role in ("view", "edit", "admin")}
    rule = {
        "apiGroups": ["metrics.k8s.io"],
        "resources": ["pods", "nodes"],
        "verbs": ["get", "list", "watch"],
    }
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:aggregated-metrics-reader", "labels": labels},
        "rules": [rule],
    }


def add(manager: Manager, home: Home) -> None:  # the factory's shape
    """Register the API at every start."""

    async def register() -> None:
        for resource, obj in ((CLUSTERROLES, reader_role()), (APISERVICES, api_service())):
            await manager.client.apply(resource, obj, field_manager=MANAGER)

    manager.add_runnable(register, "metrics API")
