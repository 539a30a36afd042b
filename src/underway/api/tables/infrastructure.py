"""Rows of the kinds that describe the cluster: certificates, drivers, flow control, policies.

Source: Kubernetes ``pkg/printers/internalversion/printers.go``, kube-aggregator's ``Table``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from underway.api.objects import Object, find_condition
from underway.api.tables.columns import (
    AGE,
    NAME,
    NONE,
    UNSET,
    Column,
    Layout,
    age,
    joined,
    labels_text,
    name_of,
    spec_of,
    status_of,
)
from underway.api.tables.durations import human_duration


def _request(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    life_s = spec.get("expirationSeconds")
    return [
        name_of(obj),
        age(obj, now),
        spec.get("signerName") or NONE,
        spec.get("username") or "",
        human_duration(timedelta(seconds=life_s)) if isinstance(life_s, int) else NONE,
        _decision(status),
    ]


def _decision(status: Object) -> str:
    conditions = status.get("conditions")
    found = [
        kind for kind in ("Approved", "Denied", "Failed") if find_condition(conditions, kind)
    ] or ["Pending"]
    if status.get("certificate"):
        found.append("Issued")
    return ",".join(found)


def _api_service(obj: Object, now: datetime) -> list[Any]:
    service = spec_of(obj).get("service")
    place = f"{service.get('namespace')}/{service.get('name')}" if service else "Local"
    available = find_condition(status_of(obj).get("conditions"), "Available") or {}
    state = str(available.get("status") or "Unknown")
    if state == "False" and available.get("reason"):
        state = f"False ({available['reason']})"
    return [name_of(obj), place, state, age(obj, now)]


def _webhooks(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), len(obj.get("webhooks") or ()), age(obj, now)]


def _policy(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    count = len(spec.get("validations") or spec.get("mutations") or ())
    return [name_of(obj), count, _param_kind(spec), age(obj, now)]


def _param_kind(spec: Object) -> str:
    kind = spec.get("paramKind") or {}
    return f"{kind.get('apiVersion')}/{kind.get('kind')}" if kind else UNSET


def _policy_binding(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    reference = spec.get("paramRef") or {}
    named = reference.get("name") or ("*" if reference.get("selector") else "")
    if named and reference.get("namespace"):
        named = f"{reference['namespace']}/{named}"
    return [name_of(obj), spec.get("policyName") or "", named or UNSET, age(obj, now)]


def _flow_schema(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    dangling = find_condition(status_of(obj).get("conditions"), "Dangling")
    return [
        name_of(obj),
        (spec.get("priorityLevelConfiguration") or {}).get("name") or "",
        spec.get("matchingPrecedence") or 0,
        (spec.get("distinguisherMethod") or {}).get("type") or NONE,
        age(obj, now),
        str(dangling.get("status")) if dangling else "?",
    ]


def _priority_level(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    limited = spec.get("limited") or spec.get("exempt") or {}
    queuing = (limited.get("limitResponse") or {}).get("queuing") or {}
    return [
        name_of(obj),
        spec.get("type") or "",
        str(limited.get("nominalConcurrencyShares", NONE)),
        str(queuing.get("queues", NONE)),
        str(queuing.get("handSize", NONE)),
        str(queuing.get("queueLengthLimit", NONE)),
        age(obj, now),
    ]


def _address(obj: Object, now: datetime) -> list[Any]:
    parent = spec_of(obj).get("parentRef") or {}
    resource = ".".join(word for word in (parent.get("resource"), parent.get("group")) if word)
    path = "/".join(w for w in (resource, parent.get("namespace"), parent.get("name")) if w)
    return [name_of(obj), path, age(obj, now)]


def _service_cidr(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), joined(spec_of(obj).get("cidrs") or ()), age(obj, now)]


def _driver(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    audiences = [each.get("audience") or "" for each in spec.get("tokenRequests") or ()]
    return [
        name_of(obj),
        bool(spec.get("attachRequired", True)),
        bool(spec.get("podInfoOnMount")),
        bool(spec.get("storageCapacity")),
        joined(audiences, UNSET),
        bool(spec.get("requiresRepublish")),
        joined(spec.get("volumeLifecycleModes") or (), NONE),
        age(obj, now),
    ]


def _driver_node(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), len(spec_of(obj).get("drivers") or ()), age(obj, now)]


def _attachment(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    return [
        name_of(obj),
        spec.get("attacher") or "",
        (spec.get("source") or {}).get("persistentVolumeName") or "",
        spec.get("nodeName") or "",
        bool(status_of(obj).get("attached")),
        age(obj, now),
    ]


def _attributes_class(obj: Object, now: datetime) -> list[Any]:
    return [name_of(obj), obj.get("driverName") or "", age(obj, now)]


def _claim(obj: Object, now: datetime) -> list[Any]:
    status = status_of(obj)
    states = ["pending"]
    if status.get("allocation"):
        states = ["allocated", *(["reserved"] if status.get("reservedFor") else [])]
    if (obj.get("metadata") or {}).get("deletionTimestamp"):
        states.insert(0, "deleted")
    return [name_of(obj), ",".join(states), age(obj, now)]


def _slice(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    pool = (spec.get("pool") or {}).get("name") or ""
    return [name_of(obj), spec.get("nodeName") or "", spec.get("driver") or "", pool, age(obj, now)]


def _pod_template(obj: Object, now: datetime) -> list[Any]:
    template = obj.get("template") or {}
    containers = (template.get("spec") or {}).get("containers") or ()
    return [
        name_of(obj),
        joined((each.get("name", "") for each in containers), ""),
        joined((each.get("image", "") for each in containers), ""),
        labels_text((template.get("metadata") or {}).get("labels")),
        age(obj, now),
    ]


def _text(name: str, description: str) -> Column:
    return Column(name, description=description)


def _number(name: str, description: str) -> Column:
    return Column(name, "integer", description)


def _flag(name: str, description: str) -> Column:
    return Column(name, "boolean", description)


_ADMISSION = "admissionregistration.k8s.io"
_FLOW = "flowcontrol.apiserver.k8s.io"
_WEBHOOKS = Layout((NAME, _number("Webhooks", "How many it names"), AGE), _webhooks)
_BINDING = Layout(
    (
        NAME,
        _text("PolicyName", "The policy it puts to work"),
        _text("ParamRef", "The parameters it works with"),
        AGE,
    ),
    _policy_binding,
)


def _policies(counted: str) -> Layout:
    columns = (NAME, _number(counted, "How many it has"), _text("ParamKind", "Its parameters"), AGE)
    return Layout(columns, _policy)


LAYOUTS = {
    ("", "PodTemplate"): Layout(
        (
            NAME,
            _text("Containers", "Names of the template's containers"),
            _text("Images", "Images of the template's containers"),
            _text("Pod Labels", "Labels of the template's pods"),
            AGE,
        ),
        _pod_template,
    ),
    (_ADMISSION, "MutatingWebhookConfiguration"): _WEBHOOKS,
    (_ADMISSION, "ValidatingWebhookConfiguration"): _WEBHOOKS,
    (_ADMISSION, "ValidatingAdmissionPolicy"): _policies("Validations"),
    (_ADMISSION, "MutatingAdmissionPolicy"): _policies("Mutations"),
    (_ADMISSION, "ValidatingAdmissionPolicyBinding"): _BINDING,
    (_ADMISSION, "MutatingAdmissionPolicyBinding"): _BINDING,
    ("apiregistration.k8s.io", "APIService"): Layout(
        (
            NAME,
            _text("Service", "What serves it"),
            _text("Available", "Whether it can be reached"),
            AGE,
        ),
        _api_service,
    ),
    ("certificates.k8s.io", "CertificateSigningRequest"): Layout(
        (
            NAME,
            AGE,
            _text("SignerName", "Who is to sign"),
            _text("Requestor", "Who asks"),
            _text("RequestedDuration", "For how long"),
            _text("Condition", "What became of it"),
        ),
        _request,
    ),
    (_FLOW, "FlowSchema"): Layout(
        (
            NAME,
            _text("PriorityLevel", "The level its requests get"),
            _number("MatchingPrecedence", "Lower numbers are asked first"),
            _text("DistinguisherMethod", "What tells flows apart"),
            AGE,
            _text("MissingPL", "Whether its level is missing"),
        ),
        _flow_schema,
    ),
    (_FLOW, "PriorityLevelConfiguration"): Layout(
        (
            NAME,
            _text("Type", "Limited or Exempt"),
            _text("NominalConcurrencyShares", "Its share of requests at a time"),
            _text("Queues", "How many queues"),
            _text("HandSize", "How many a flow is dealt"),
            _text("QueueLengthLimit", "How many wait in one"),
            AGE,
        ),
        _priority_level,
    ),
    ("networking.k8s.io", "IPAddress"): Layout(
        (NAME, _text("ParentRef", "What holds it"), AGE), _address
    ),
    ("networking.k8s.io", "ServiceCIDR"): Layout(
        (NAME, _text("CIDRs", "The ranges"), AGE), _service_cidr
    ),
    ("resource.k8s.io", "ResourceClaim"): Layout(
        (NAME, _text("State", "Whether it is allocated"), AGE), _claim
    ),
    ("resource.k8s.io", "ResourceSlice"): Layout(
        (
            NAME,
            _text("Node", "Where the devices are"),
            _text("Driver", "Who drives them"),
            _text("Pool", "The pool they belong to"),
            AGE,
        ),
        _slice,
    ),
    ("storage.k8s.io", "CSIDriver"): Layout(
        (
            NAME,
            _flag("AttachRequired", "Whether volumes are attached before they are mounted"),
            _flag("PodInfoOnMount", "Whether it is told of the pod"),
            _flag("StorageCapacity", "Whether it tells its capacity"),
            _text("TokenRequests", "Audiences of the tokens it wants"),
            _flag("RequiresRepublish", "Whether it is called again and again"),
            _text("Modes", "Kinds of volumes"),
            AGE,
        ),
        _driver,
    ),
    ("storage.k8s.io", "CSINode"): Layout(
        (NAME, _number("Drivers", "How many drivers it has"), AGE), _driver_node
    ),
    ("storage.k8s.io", "VolumeAttachment"): Layout(
        (
            NAME,
            _text("Attacher", "Who attaches"),
            _text("PV", "The volume"),
            _text("Node", "Where to"),
            _flag("Attached", "Whether it is"),
            AGE,
        ),
        _attachment,
    ),
    ("storage.k8s.io", "VolumeAttributesClass"): Layout(
        (NAME, _text("DriverName", "Whose volumes"), AGE), _attributes_class
    ),
}
