"""Rules of pod specs, in pods and in templates.

Source: Kubernetes ``pkg/apis/core/validation/validation.go`` (ValidatePodSpec, ValidatePodUpdate).
"""

from __future__ import annotations

from typing import Any

from underway.api import names
from underway.api.kinds.causes import (
    bad,
    check_address,
    duplicate,
    forbidden,
    one_of,
    required,
    unsupported,
)
from underway.api.kinds.containers import Context, check_containers
from underway.api.kinds.metadata import check_labels
from underway.api.kinds.volumes import check_volumes
from underway.api.objects import Object
from underway.api.shape import boolean, items, mapping, sequence, text, texts
from underway.base.errors import Cause

RESTART_POLICIES = ("Always", "OnFailure", "Never")
_DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_SPREADS = ("DoNotSchedule", "ScheduleAnyway")
_OPERATORS = ("Equal", "Exists")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_UPDATE_MESSAGE = (
    "pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` "
    "(only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
    "(allow it to be set to 1 if it was previously negative)"
)


def check_pod(pod: Object) -> list[Cause]:
    """What is wrong with a new pod."""
    spec = mapping(pod, "spec")
    found = check_pod_spec(spec, "spec")
    if items(spec, "ephemeralContainers"):
        detail = "cannot be set on create"
        found.append(forbidden("spec.ephemeralContainers", detail))
    return found


def check_pod_spec(spec: Object, field: str, claimed: frozenset[str] = frozenset()) -> list[Cause]:
    """What is wrong with a pod spec that has its defaults.

    ``claimed`` names volumes that its pods will have besides, made from claim templates.
    """
    found, volumes = check_volumes(items(spec, "volumes"), f"{field}.volumes")
    context = Context(volumes=volumes | claimed, host_network=boolean(spec, "hostNetwork"))
    if not items(spec, "containers"):
        found.append(required(f"{field}.containers"))
    found += check_containers(spec, field, context)
    found += one_of(f"{field}.restartPolicy", spec.get("restartPolicy"), RESTART_POLICIES)
    found += one_of(f"{field}.dnsPolicy", spec.get("dnsPolicy"), _DNS_POLICIES)
    found += _in_range(spec, "activeDeadlineSeconds", field, 1)
    security = mapping(spec, "securityContext")
    for name in ("runAsUser", "runAsGroup", "fsGroup"):
        found += _in_range(security, name, f"{field}.securityContext", 0)
    if spec.get("dnsPolicy") == "None" and not mapping(spec, "dnsConfig").get("nameservers"):
        message = "must provide `dnsConfig` when `dnsPolicy` is None"
        if spec.get("dnsConfig") is not None:
            message = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        found.append(required(f"{field}.dnsConfig", message))
    for name, rule in (
        ("nodeName", names.dns_subdomain),
        ("serviceAccountName", names.dns_subdomain),
        ("hostname", names.dns_label),
        ("subdomain", names.dns_label),
    ):
        value = text(spec, name)
        if value:
            found += [bad(f"{field}.{name}", value, message) for message in rule(value)]
    found += check_labels(texts(spec, "nodeSelector"), f"{field}.nodeSelector")
    for number, alias in enumerate(items(spec, "hostAliases")):
        at = f"{field}.hostAliases[{number}]"
        found += check_address(alias.get("ip") or "", f"{at}.ip")
        for index, host in enumerate(sequence(alias, "hostnames")):
            messages = names.dns_subdomain(str(host))
            found += [bad(f"{at}.hostnames[{index}]", host, message) for message in messages]
    found += _check_tolerations(items(spec, "tolerations"), f"{field}.tolerations")
    return found + _check_spread(spec, field)


def _in_range(parent: Object, name: str, field: str, low: int) -> list[Cause]:
    value = parent.get(name)
    if value is None or (isinstance(value, int) and low <= value < 2**31):
        return []
    message = f"must be between {low} and 2147483647, inclusive"
    return [bad(f"{field}.{name}", value, message)]


def _check_tolerations(tolerations: list[Object], field: str) -> list[Cause]:
    found: list[Cause] = []
    for number, toleration in enumerate(tolerations):
        at = f"{field}[{number}]"
        key, operator = text(toleration, "key"), text(toleration, "operator")
        if key:
            found += [bad(f"{at}.key", key, each) for each in names.qualified_name(key)]
        elif operator != "Exists":
            message = (
                "operator must be Exists when `key` is empty, which means "
                '"match all values and all keys"'
            )
            found.append(bad(f"{at}.operator", operator, message))
        if operator:
            found += one_of(f"{at}.operator", operator, _OPERATORS)
        if operator == "Exists" and text(toleration, "value"):
            message = "value must be empty when `operator` is 'Exists'"
            found.append(bad(f"{at}.operator", toleration["value"], message))
        effect = text(toleration, "effect")
        if effect:
            found += one_of(f"{at}.effect", effect, _EFFECTS)
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            message = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            found.append(bad(f"{at}.effect", effect, message))
    return found


def _check_spread(spec: Object, field: str) -> list[Cause]:
    found: list[Cause] = []
    seen: set[tuple[str, str]] = set()
    for number, constraint in enumerate(items(spec, "topologySpreadConstraints")):
        at = f"{field}.topologySpreadConstraints[{number}]"
        skew = constraint.get("maxSkew") or 0
        if not isinstance(skew, int) or skew <= 0:
            found.append(bad(f"{at}.maxSkew", skew, "must be greater than zero"))
        if not text(constraint, "topologyKey"):
            found.append(required(f"{at}.topologyKey", "can not be empty"))
        when = text(constraint, "whenUnsatisfiable")
        if when not in _SPREADS:
            found.append(unsupported(f"{at}.whenUnsatisfiable", when, _SPREADS))
        pair = (text(constraint, "topologyKey"), when)
        if pair in seen:
            shown = f"{{{pair[0]}, {pair[1]}}}"
            found.append(duplicate(f"{at}.{{topologyKey, whenUnsatisfiable}}", shown))
        seen.add(pair)
    return found


def check_pod_update(new: Object, old: Object) -> list[Cause]:
    """What a changed pod may not have changed: nearly all of its spec."""
    ours, theirs = mapping(new, "spec"), mapping(old, "spec")
    found: list[Cause] = []
    for field in ("containers", "initContainers"):
        if len(items(ours, field)) != len(items(theirs, field)):
            return [forbidden(f"spec.{field}", "pod updates may not add or remove containers")]
        for number, container in enumerate(items(ours, field)):
            if not text(container, "image"):
                found.append(required(f"spec.{field}[{number}].image"))
    if ours.get("activeDeadlineSeconds") != theirs.get("activeDeadlineSeconds"):
        found += _check_deadline(ours, theirs)
    kept = [each for each in items(theirs, "tolerations") if each not in items(ours, "tolerations")]
    if kept and not _only_seconds_differ(kept, items(ours, "tolerations")):
        detail = "existing toleration can not be modified except its tolerationSeconds"
        found.append(forbidden("spec.tolerations", detail))
    found += _check_gates(ours, theirs)
    if not found and _comparable(ours, theirs) != theirs:
        found.append(forbidden("spec", _UPDATE_MESSAGE))
    return found


def _check_gates(ours: Object, theirs: Object) -> list[Cause]:
    before = {gate.get("name") for gate in items(theirs, "schedulingGates")}
    added = [each for each in items(ours, "schedulingGates") if each.get("name") not in before]
    detail = "only deletion is allowed, but found new scheduling gate '{}'"
    return [forbidden("spec.schedulingGates", detail.format(each.get("name"))) for each in added]


def _check_deadline(ours: Object, theirs: Object) -> list[Cause]:
    field = "spec.activeDeadlineSeconds"
    new, old = ours.get("activeDeadlineSeconds"), theirs.get("activeDeadlineSeconds")
    if new is None:
        return [bad(field, new, "must not update from a positive integer to nil value")]
    if not isinstance(new, int) or not 1 <= new < 2**31:
        return [bad(field, new, "must be between 1 and 2147483647, inclusive")]
    if old is not None and new > old:
        return [bad(field, new, "must be less than or equal to previous value")]
    return []


def _only_seconds_differ(missing: list[Object], present: list[Object]) -> bool:
    def plain(toleration: Object) -> dict[str, Any]:
        return {name: each for name, each in toleration.items() if name != "tolerationSeconds"}

    shapes = [plain(each) for each in present]
    return all(plain(each) in shapes for each in missing)


def _narrows(ours: Object, theirs: Object) -> bool:
    """Whether the node selector only gained labels, as it may while the pod is gated."""
    return mapping(theirs, "nodeSelector").items() <= mapping(ours, "nodeSelector").items()


def _comparable(ours: Object, theirs: Object) -> Object:
    """``ours`` with all that may change put back to what it was."""
    spec = dict(ours)
    for field in ("containers", "initContainers"):
        if field in spec:
            spec[field] = [dict(container) for container in items(ours, field)]
    for field in ("containers", "initContainers"):
        pairs = zip(items(spec, field), items(theirs, field), strict=True)
        for container, before in pairs:
            container["image"] = before.get("image")
            # Server-side changes of a resize go through their own subresource.
    changeable = ["activeDeadlineSeconds", "tolerations", "schedulingGates"]
    if items(theirs, "schedulingGates") and _narrows(ours, theirs):
        changeable.append("nodeSelector")
    for name in changeable:
        if name in theirs:
            spec[name] = theirs[name]
        else:
            spec.pop(name, None)
    before_s = theirs.get("terminationGracePeriodSeconds")
    if isinstance(before_s, int) and before_s < 0 and spec["terminationGracePeriodSeconds"] == 1:
        spec["terminationGracePeriodSeconds"] = before_s
    return spec
