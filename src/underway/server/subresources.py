"""Subresources that are another kind of object over the same one: scale, binding, token.

Source: kubernetes/api autoscaling/v1 ``Scale``, core/v1 ``Binding``,
authentication/v1 ``TokenRequest``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from underway.api import selectors
from underway.api.objects import Object, deleting, labels_of, meta, name_of, namespace_of, uid_of
from underway.base.clock import Clock, rfc3339
from underway.base.errors import BadRequest, Conflict, Invalid, NotFound
from underway.server import crds
from underway.server.auth import AUDIENCES, Authenticator
from underway.server.call import Call
from underway.server.store import Key, Store
from underway.server.writing import Transform

_TOPOLOGY = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone")
_MIN_TOKEN_LIFE_S = 600
_TOKEN_LIFE_S = 3600
# What kubelets ask for in a pod's projected volume; upstream grants those a year (and warns at
# their normal age), because old clients do not reload tokens.
_PROJECTED_LIFE_S = 3607


# -- scale ---------------------------------------------------------------------------------


def scale_of(call: Call, obj: Object) -> Object:
    """The Scale of an object."""
    custom = call.served.custom
    if custom is not None:
        spec_path, status_path, selector_path = crds.scale_paths(custom)
        wanted, present = _at(obj, spec_path) or 0, _at(obj, status_path) or 0
        selector = str(_at(obj, selector_path) or "") if selector_path else ""
    else:
        wanted = (obj.get("spec") or {}).get("replicas") or 0
        present = (obj.get("status") or {}).get("replicas") or 0
        selector = _selector_text(call, (obj.get("spec") or {}).get("selector"))
    metadata = meta(obj)
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Object = {"replicas": present}
    if selector:
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": {"replicas": wanted},
        "status": status,
    }


def scaled(call: Call, change: Callable[[Object], Object]) -> Transform:
    """A change of an object's Scale as a change of the object.

    Raises:
        Invalid: the number of replicas is negative.
    """

    def transform(present: Object | None) -> Object:
        if present is None:
            raise LookupError(call.attributes.name)
        scale = change(scale_of(call, present))
        replicas = (scale.get("spec") or {}).get("replicas") or 0
        if not isinstance(replicas, int) or replicas < 0:
            name = call.attributes.name
            raise Invalid(
                f'Scale.autoscaling "{name}" is invalid: spec.replicas: Invalid value: {replicas}:'
                " must be greater than or equal to 0"
            )
        version = meta(scale).get("resourceVersion")
        if version:
            meta(present)["resourceVersion"] = version
        if uid_of(scale):
            meta(present)["uid"] = uid_of(scale)
        path = crds.scale_paths(call.served.custom)[0] if call.served.custom else "spec.replicas"
        _put(present, path, replicas)
        return present

    return transform


def _selector_text(call: Call, selector: Object | None) -> str:
    if selector is None:
        return ""
    if call.served.resource.kind == "ReplicationController":
        return str(selectors.from_labels(selector))
    return str(selectors.from_object(selector))


def _at(obj: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        obj = obj.get(name) if isinstance(obj, dict) else None
    return obj if path else None


def _put(obj: Object, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        child = obj.get(name)
        if not isinstance(child, dict):
            child = obj[name] = {}
        obj = child
    obj[last] = value


# -- binding -------------------------------------------------------------------------------


def _topology(store: Store, node: str) -> dict[str, str]:
    row = store.get(Key("nodes", "", node))
    labels = labels_of(row.decode()) if row else {}
    return {name: labels[name] for name in _TOPOLOGY if name in labels}


def bound(store: Store, binding: Object, now: str) -> Transform:
    """A Binding as a change of the pod it puts on a node.

    The pod takes over where in the topology its node is (PodTopologyLabels).

    Raises:
        Conflict: the pod has a node already, or is being deleted.
        BadRequest: the binding names no node.
    """
    target = binding.get("target") or {}
    if target.get("kind", "Node") not in ("Node", "") or not target.get("name"):
        raise BadRequest("the binding must name a Node as its target")

    def transform(pod: Object | None) -> Object:
        if pod is None:
            raise LookupError(name_of(binding))
        name = name_of(pod)
        problem = f'Operation cannot be fulfilled on pods/binding "{name}": '
        if uid_of(binding) and uid_of(binding) != uid_of(pod):
            raise Conflict(f"{problem}Precondition failed: UID in precondition: {uid_of(binding)}")
        if deleting(pod):
            raise Conflict(f"{problem}pod {name} is being deleted, cannot be assigned to a host")
        if pod["spec"].get("nodeName"):
            raise Conflict(
                f'{problem}pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"'
            )
        if pod["spec"].get("schedulingGates"):
            raise Conflict(f"{problem}pod {name} has non-empty .spec.schedulingGates")
        pod["spec"]["nodeName"] = target["name"]
        if annotations := meta(binding).get("annotations"):
            meta(pod).setdefault("annotations", {}).update(annotations)
        if topology := _topology(store, target["name"]):
            meta(pod).setdefault("labels", {}).update(topology)
        conditions = pod.setdefault("status", {}).setdefault("conditions", [])
        conditions[:] = [c for c in conditions if c.get("type") != "PodScheduled"]
        conditions.append(
            {
                "type": "PodScheduled",
                "status": "True",
                "lastProbeTime": None,
                "lastTransitionTime": now,
            }
        )
        return pod

    return transform


# -- token ---------------------------------------------------------------------------------


def issue_token(
    store: Store, authenticator: Authenticator, clock: Clock, account: Object, review: Object
) -> Object:
    """A TokenRequest, answered.

    Raises:
        Invalid: the life asked for is too short.
        NotFound: the object it is to be bound to is not there.
        Conflict: that object is another one.
    """
    spec = dict(review.get("spec") or {})
    life_s = spec.get("expirationSeconds") or _TOKEN_LIFE_S
    if life_s < _MIN_TOKEN_LIFE_S:
        raise Invalid(
            'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid'
            f" value: {life_s}: may not specify a duration less than 10 minutes"
        )
    bound_to = _bound_object(store, namespace_of(account), spec.get("boundObjectRef"))
    granted_s = 365 * 24 * 3600 if bound_to and life_s == _PROJECTED_LIFE_S else life_s
    audiences = list(spec.get("audiences") or AUDIENCES[:1])
    token, expires = authenticator.issue(account, audiences, granted_s, bound_to)
    shown = expires if granted_s == life_s else clock.now().timestamp() + life_s
    spec["audiences"], spec["expirationSeconds"] = audiences, life_s
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": name_of(account),
            "namespace": namespace_of(account),
            "creationTimestamp": rfc3339(clock.now()),
        },
        "spec": spec,
        "status": {
            "token": token,
            "expirationTimestamp": rfc3339(datetime.fromtimestamp(shown, UTC)),
        },
    }


def _bound_object(store: Store, namespace: str, reference: Object | None) -> Object | None:
    if not reference:
        return None
    kinds = {"Node": "nodes", "Pod": "pods", "Secret": "secrets"}
    resource = kinds.get(reference.get("kind", ""))
    if resource is None:
        raise BadRequest(
            f"cannot bind token to object of type {reference.get('apiVersion', '')},"
            f" Kind={reference.get('kind', '')}"
        )
    name = reference.get("name", "")
    row = store.get(Key(resource, "" if resource == "nodes" else namespace, name))
    if row is None:
        raise NotFound(f'{resource} "{name}" not found', details={"name": name, "kind": resource})
    if reference.get("uid") and reference["uid"] != row.uid:
        raise Conflict(
            f"the UID in the bound object reference ({reference['uid']}) does not match the UID in"
            f" record ({row.uid})"
        )
    return row.decode()
