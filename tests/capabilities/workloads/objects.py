"""Small objects for the rules' tests."""

from underway.api.objects import Object

NOW = "2026-01-01T00:00:00Z"


def pod(
    name: str,
    *,
    phase: str = "Running",
    ready: bool = True,
    node: str = "n1",
    since: str = NOW,
    created: str = NOW,
    labels: dict[str, str] | None = None,
    **metadata: object,
) -> Object:
    conditions = [
        {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": since}
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "creationTimestamp": created,
            "labels": labels or {},
            **metadata,
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "conditions": conditions, "podIP": "10.0.0.1"},
    }


def replicaset(name: str, replicas: int, available: int = 0, **annotations: str) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "generation": 1,
            "creationTimestamp": f"2026-01-01T00:00:{len(name):02d}Z",
            "annotations": {
                f"deployment.kubernetes.io/{key.replace('_', '-')}": value
                for key, value in annotations.items()
            },
        },
        "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"set": name}}}},
        "status": {
            "replicas": replicas,
            "availableReplicas": available,
            "readyReplicas": available,
            "observedGeneration": 1,
        },
    }


def deployment(
    replicas: int,
    surge: int | str = "25%",
    unavailable: int | str = "25%",
    *,
    strategy: str = "RollingUpdate",
    template: str = "new",
    **spec: object,
) -> Object:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "uid": "uid-web", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {
                "type": strategy,
                **({"rollingUpdate": rolling} if strategy == "RollingUpdate" else {}),
            },
            "template": {"metadata": {"labels": {"set": template}}},
            "progressDeadlineSeconds": 600,
            **spec,
        },
    }
