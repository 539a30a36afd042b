"""Writing status: only when it differs, and only over what was read."""

from __future__ import annotations

from underway.api.objects import Object
from underway.api.resources import Resource
from underway.client import Client


async def write_status(client: Client, resource: Resource, obj: Object, status: Object) -> Object:
    """Replace ``obj``'s status if it differs; returns the object as it is then.

    Empty values (None) are left out, as the API leaves them out.

    Raises:
        Conflict: the object changed since it was read; reconcile again.
    """
    wanted = {name: value for name, value in status.items() if value is not None}
    if (obj.get("status") or {}) == wanted:
        return obj
    return await client.replace(resource, {**obj, "status": wanted}, subresource="status")
