"""What the registry's controllers have in common: resources, conditions, pull secrets."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from underway.api.objects import Object, name_of
from underway.api.resources import Resource
from underway.base.clock import Clock
from underway.base.errors import UnderwayError
from underway.capabilities.registry.backend.credentials import auth_entry
from underway.client import Client
from underway.reconcile.conditions import condition, with_conditions
from underway.reconcile.status import write_status

GROUP, VERSION = "registry.underway.dev", "v1alpha1"
FINALIZER = f"{GROUP}/registry"
MANAGER = "underway-registry"
RETRY_S = 30.0


def _resource(plural: str, kind: str, *, namespaced: bool = False) -> Resource:
    return Resource(GROUP, VERSION, plural, kind, namespaced, kind.lower(), (), ("underway",),
                    subresources=("status",))  # fmt: skip


PROJECTS = _resource("projects", "Project")
ROBOTS = _resource("robots", "Robot", namespaced=True)
REMOTES = _resource("remoteregistries", "RemoteRegistry")
REPLICATIONS = _resource("replications", "Replication")


async def report(
    client: Client,
    resource: Resource,
    obj: Object,
    clock: Clock,
    *,
    error: UnderwayError | None = None,
    **more: Any,
) -> Object:
    """Write the condition ``Ready`` and further fields of the status."""
    if error is None:
        ready = condition("Ready", True, "Reconciled", of=obj)
    else:
        ready = condition("Ready", False, error.reason, error.message, of=obj)
    status = dict(obj.get("status") or {})
    status["conditions"] = with_conditions(obj, clock, ready)
    return await write_status(client, resource, obj, {**status, **more})


def pull_secret(
    name: str, namespace: str, host: str, username: str, password: str, owner: Object
) -> Object:
    """A Secret that pods can pull with."""
    config = {"auths": {host: auth_entry(username, password)}}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": MANAGER, f"{GROUP}/owner": name_of(owner)},
        },
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": base64.b64encode(msgspec.json.encode(config)).decode()},
    }


def password_of(secret: Object, host: str) -> tuple[str, str]:
    """User and password in a Secret for a registry; empty where it has none."""
    try:
        data = base64.b64decode((secret.get("data") or {}).get(".dockerconfigjson", ""))
        entry = msgspec.json.decode(data)["auths"][host]["auth"]
        username, _, password = base64.b64decode(entry).decode().partition(":")
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError):
        return "", ""
    return username, password
