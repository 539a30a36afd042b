"""What rules a ClusterRole has that is made of others.

Source: Kubernetes docs, "Using RBAC Authorization", "Aggregated ClusterRoles".
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from underway.api import selectors
from underway.api.objects import Object, labels_of, name_of


def is_aggregated(role: Object) -> bool:
    """Whether the role's rules are those of others."""
    return bool((role.get("aggregationRule") or {}).get("clusterRoleSelectors"))


def rules_of(role: Object, roles: Iterable[Object]) -> list[Object]:
    """The rules of the roles that ``role`` selects, in the order of their names, each once."""
    chosen = [
        selectors.from_object(each)
        for each in (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()
    ]
    found: dict[bytes, Object] = {}
    for other in sorted(roles, key=name_of):
        labels = labels_of(other)
        if name_of(other) != name_of(role) and any(each.matches(labels) for each in chosen):
            for rule in other.get("rules") or ():
                found.setdefault(msgspec.json.encode(rule, order="sorted"), rule)
    return list(found.values())
