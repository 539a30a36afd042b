"""Defaults of the kinds that describe the cluster: drivers, devices, flow control, policies.

Source: Kubernetes ``pkg/apis/{storage,resource,flowcontrol,admissionregistration}/v1/defaults.go``,
kube-aggregator ``pkg/apis/apiregistration/v1/defaults.go``.
"""

from __future__ import annotations

from collections.abc import Callable

from underway.api.defaults.setting import default
from underway.api.objects import Object
from underway.api.shape import items, made, mapping


def _csi_driver(obj: Object) -> None:
    default(
        made(obj, "spec"),
        attachRequired=True,
        podInfoOnMount=False,
        storageCapacity=False,
        fsGroupPolicy="ReadWriteOnceWithFSType",
        requiresRepublish=False,
        seLinuxMount=False,
    )
    if not obj["spec"].get("volumeLifecycleModes"):
        obj["spec"]["volumeLifecycleModes"] = ["Persistent"]


def _api_service(obj: Object) -> None:
    service = mapping(mapping(obj, "spec"), "service")
    if service:
        default(service, port=443)


def _flow_schema(obj: Object) -> None:
    default(made(obj, "spec"), matchingPrecedence=1000)


def _priority_level(obj: Object) -> None:
    spec = made(obj, "spec")
    if spec.get("type") == "Exempt":
        default(made(spec, "exempt"), nominalConcurrencyShares=0, lendablePercent=0)
    elif spec.get("type") == "Limited":
        limited = made(spec, "limited")
        default(limited, nominalConcurrencyShares=30, lendablePercent=0)
        response = made(limited, "limitResponse")
        if response.get("type") == "Queue":
            queuing = made(response, "queuing")
            default(queuing, queues=64, handSize=8, queueLengthLimit=50)


def _admission_policy(obj: Object) -> None:
    spec = made(obj, "spec")
    default(spec, failurePolicy="Fail")
    if spec.get("matchConstraints") is not None:
        _match(spec["matchConstraints"])


def _admission_binding(obj: Object) -> None:
    spec = made(obj, "spec")
    if spec.get("matchResources") is not None:
        _match(spec["matchResources"])


def _match(constraints: Object) -> None:
    default(constraints, matchPolicy="Equivalent")
    made(constraints, "namespaceSelector")
    made(constraints, "objectSelector")
    for field in ("resourceRules", "excludeResourceRules"):
        for rule in items(constraints, field):
            default(rule, scope="*")


def _claim(obj: Object) -> None:
    _requests(made(obj, "spec"))


def _claim_template(obj: Object) -> None:
    _requests(made(made(obj, "spec"), "spec"))


def _requests(spec: Object) -> None:
    for request in items(mapping(spec, "devices"), "requests"):
        exact = mapping(request, "exactly")
        for wanted in ([exact] if exact else []) + items(request, "firstAvailable"):
            default(wanted, allocationMode="ExactCount")
            if wanted["allocationMode"] == "ExactCount":
                default(wanted, count=1)
            for toleration in items(wanted, "tolerations"):
                default(toleration, operator="Equal")


_ADMISSION = "admissionregistration.k8s.io"
_FLOW = "flowcontrol.apiserver.k8s.io"
INFRASTRUCTURE: dict[tuple[str, str], Callable[[Object], None]] = {
    ("apiregistration.k8s.io", "APIService"): _api_service,
    ("resource.k8s.io", "ResourceClaim"): _claim,
    ("resource.k8s.io", "ResourceClaimTemplate"): _claim_template,
    ("storage.k8s.io", "CSIDriver"): _csi_driver,
    (_ADMISSION, "MutatingAdmissionPolicy"): _admission_policy,
    (_ADMISSION, "MutatingAdmissionPolicyBinding"): _admission_binding,
    (_ADMISSION, "ValidatingAdmissionPolicy"): _admission_policy,
    (_ADMISSION, "ValidatingAdmissionPolicyBinding"): _admission_binding,
    (_FLOW, "FlowSchema"): _flow_schema,
    (_FLOW, "PriorityLevelConfiguration"): _priority_level,
}
