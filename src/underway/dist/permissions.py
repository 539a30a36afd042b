"""The users that controllers act as: who they are, and their roles as the cluster holds them.

What a capability's controllers change is audited and authorized under a name of their own, as
upstream's controllers are with ``--use-service-account-credentials``. Copies of the cluster are
shared, and read by the manager's user. There are no ServiceAccount objects by these names, so
nobody can ask for a token of theirs.

Source: Kubernetes docs, "Using RBAC Authorization" (controller roles).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from underway.api.objects import Object, name_of
from underway.api.resources import CLUSTERROLEBINDINGS, CLUSTERROLES, Resource
from underway.base.errors import InternalError
from underway.client import Client
from underway.kit import Capability, Role, Rule, registry
from underway.wire.http import Handler

MANAGER = "system:kube-controller-manager"
_NAMESPACE = "kube-system"
_GROUPS = ("system:serviceaccounts", f"system:serviceaccounts:{_NAMESPACE}")
_API = "rbac.authorization.k8s.io"


class Users(Protocol):
    """What gives in-process handlers: an API server."""

    def as_user(self, name: str, groups: Sequence[str] = ()) -> Handler:
        """A handler that acts as this user."""
        ...


def manager_client(server: Users) -> Client:
    """The client behind shared informers and events."""
    return Client(server.as_user(MANAGER), user_agent="kube-controller-manager")


def controller_client(server: Users, capability: Capability, target: str) -> Client:
    """The client of the controllers that ``target``, a ``"module:attr"``, adds."""
    user = role_of(capability, target).user
    account = f"system:serviceaccount:{_NAMESPACE}:{user}"
    return Client(server.as_user(account, _GROUPS), user_agent=user)


def role_of(capability: Capability, target: str) -> Role:
    """The Role of the controllers that ``target`` adds."""
    roles = _roles(capability)
    module = target.partition(":")[0].rpartition(".")[2]
    found = roles.get(module) or roles.get(capability.id)
    return found or Role(f"{capability.id}-controller")


async def install(client: Client, capabilities: Iterable[Capability]) -> None:
    """Have the cluster hold the roles of these capabilities as they are now.

    Raises:
        InternalError: two Roles are of the same user.
    """
    roles: dict[str, Role] = {}
    for capability in capabilities:
        for role in _roles(capability).values():
            if roles.setdefault(role.user, role) is not role:
                raise InternalError(f"{capability.id}: another role is that of {role.user} already")
    async with asyncio.TaskGroup() as group:
        for resource, wanted in (
            (CLUSTERROLES, [_cluster_role(each) for each in roles.values()]),
            (CLUSTERROLEBINDINGS, [_binding(each) for each in roles.values()]),
        ):
            group.create_task(_ensure(client, resource, wanted))


async def _ensure(client: Client, resource: Resource, wanted: list[Object]) -> None:
    present = {name_of(each): each for each in (await client.list(resource)).items}
    async with asyncio.TaskGroup() as group:
        for obj in wanted:
            there = present.get(name_of(obj))
            if there is None:
                group.create_task(client.create(resource, obj))
            elif any(there.get(name) != obj[name] for name in ("rules", "subjects") if name in obj):
                group.create_task(client.replace(resource, obj))


def _roles(capability: Capability) -> Mapping[str, Role]:
    return registry.load(capability.permissions) if capability.permissions else {}


def _name(role: Role) -> str:
    return f"system:controller:{role.user}"


def _cluster_role(role: Role) -> Object:
    return {
        "apiVersion": f"{_API}/v1",
        "kind": "ClusterRole",
        "metadata": _header(role),
        "rules": [_policy_rule(rule) for rule in role.rules],
    }


def _binding(role: Role) -> Object:
    subject = {"kind": "ServiceAccount", "name": role.user, "namespace": _NAMESPACE}
    return {
        "apiVersion": f"{_API}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": _header(role),
        "roleRef": {"apiGroup": _API, "kind": "ClusterRole", "name": _name(role)},
        "subjects": [subject],
    }


def _header(role: Role) -> Object:
    return {
        "name": _name(role),
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {f"{_API}/autoupdate": "true"},
    }


def _policy_rule(rule: Rule) -> Object:
    found: Object = {
        "verbs": rule.verbs.split(),
        "apiGroups": ["" if group == "-" else group for group in rule.groups.split()],
        "resources": rule.resources.split(),
    }
    if rule.names:
        found["resourceNames"] = rule.names.split()
    return found
