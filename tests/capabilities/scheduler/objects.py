"""Small nodes and pods for the scheduler's rules."""

from collections.abc import Iterable

from underway.capabilities.scheduler.model import PodInfo, pod_info
from underway.capabilities.scheduler.rules.cluster import Cluster

HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"


def node(
    name: str = "n1",
    cpu: str = "4",
    memory: str = "8Gi",
    pods: str = "110",
    *,
    zone: str = "",
    ready: bool = True,
    images: Iterable[tuple[str, int]] = (),
    **spec: object,
) -> dict:
    labels = {HOST: name, **({ZONE: zone} if zone else {})}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": pods},
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
            "images": [{"names": [image], "sizeBytes": size} for image, size in images],
        },
    }


def pod(
    name: str = "p",
    cpu: str = "100m",
    memory: str = "64Mi",
    *,
    labels: dict[str, str] | None = None,
    namespace: str = "default",
    ports: Iterable[dict] = (),
    image: str = "web",
    created: str = "2026-01-01T00:00:00Z",
    **spec: object,
) -> PodInfo:
    container = {"name": "c", "image": image, "ports": list(ports)}
    container["resources"] = {"requests": {"cpu": cpu, "memory": memory}}
    return pod_info(
        {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": f"uid-{namespace}-{name}",
                "labels": labels or {},
                "creationTimestamp": created,
            },
            "spec": {"containers": [container], **spec},
        }
    )


def cluster(*nodes: dict, **placed: list[PodInfo]) -> Cluster:
    found = Cluster()
    for each in nodes:
        found.put_node(each)
    for name, pods in placed.items():
        for each in pods:
            found.place(each, name)
    return found
