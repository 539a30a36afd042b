"""A node agent that runs nothing: it says that pods run, end or fail, and lets deleted ones go."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from underway.api.objects import Object, deleting, name_of, namespace_of, uid_of
from underway.api.resources import NODES, PODS
from underway.base.clock import rfc3339
from underway.base.errors import NotFound
from underway.base.home import Home
from underway.client import Client
from underway.reconcile import Controller, Done, Manager, Request

Outcome = Callable[[Object], str]


def always_running(_pod: Object) -> str:
    return "Running"


def kubelet(
    outcome: Outcome = always_running, *, only_bound: bool = False
) -> Callable[[Manager, Home], None]:
    """A factory; ``outcome`` gives a pod's phase, or Unready for one that runs without Ready."""

    def add(manager: Manager, home: Home) -> None:
        pods = manager.informer(PODS)
        addresses = itertools.count(2)

        async def reconcile(request: Request) -> Done:
            pod = pods.get(request.key)
            if pod is None or (only_bound and not pod["spec"].get("nodeName")):
                return Done()
            try:
                if deleting(pod):
                    await _end(manager.client, pod)
                else:
                    await _report(manager, pod, outcome(pod), next(addresses))
            except NotFound:
                pass
            return Done()

        manager.add(Controller("kubelet", reconcile, primary=PODS, workers=4))

    return add


async def _end(client: Client, pod: Object) -> None:
    await client.delete(PODS, name_of(pod), namespace_of(pod), uid=uid_of(pod), grace_period_s=0)


async def _report(manager: Manager, pod: Object, outcome: str, number: int) -> None:
    phase = "Running" if outcome == "Unready" else outcome
    status = pod.get("status") or {}
    if phase == "Pending" or status.get("phase") in (phase, "Succeeded", "Failed"):
        return
    now = rfc3339(manager.clock.now())
    ready = "True" if outcome == "Running" else "False"
    kept = [each for each in status.get("conditions") or () if each["type"] == "PodScheduled"]
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": now}
    address = f"10.244.{number // 250}.{number % 250 + 1}"
    pod["status"] = {
        **status,
        "phase": phase,
        "startTime": now,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [*kept, condition],
    }
    if phase in ("Succeeded", "Failed"):
        ended = {"exitCode": int(phase == "Failed"), "startedAt": now, "finishedAt": now}
        pod["status"]["containerStatuses"] = [
            {
                "name": each["name"],
                "image": each["image"],
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"terminated": ended},
            }
            for each in pod["spec"]["containers"]
        ]
    await manager.client.replace(PODS, pod, subresource="status")


def node(name: str, cpu: str = "4", **labels: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        "status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "20"},
            "capacity": {"cpu": cpu, "memory": "8Gi", "pods": "20"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


async def add_node(client: Client, name: str, cpu: str = "4", **labels: str) -> None:
    made = node(name, cpu, **labels)
    stored = await client.create(NODES, made)
    if (stored.get("status") or {}).get("allocatable") is None:
        await client.replace(NODES, {**stored, "status": made["status"]}, subresource="status")
