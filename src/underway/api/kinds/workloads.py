"""Rules of Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs and CronJobs.

Source: Kubernetes ``pkg/apis/apps/validation``, ``pkg/apis/batch/validation``.
"""

from __future__ import annotations

import re
from typing import Any

from underway.api import names, selectors
from underway.api.kinds.causes import (
    bad,
    bad_labels,
    forbidden,
    not_negative,
    one_of,
    required,
    unchanged,
    unsupported,
)
from underway.api.kinds.metadata import check_annotations, check_labels
from underway.api.kinds.pods import check_pod_spec
from underway.api.objects import Object
from underway.api.shape import items, mapping, text, texts
from underway.base.errors import BadRequest, Cause

_SELECTOR_MISMATCH = "`selector` does not match template `labels`"
_SET_UPDATE_MESSAGE = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
    "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
    "'minReadySeconds' are forbidden"
)
_SET_MUTABLE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)
_NAME_LIMIT = 52  # a CronJob's jobs append eleven characters to its name, and 63 is the limit


def _check_template(
    spec: Object,
    field: str,
    policies: tuple[str, ...] = ("Always",),
    *,
    selector: bool = True,
    owner: str = "",
) -> list[Cause]:
    """What is wrong with a template and the selector that must fit it.

    ``owner`` is the kind whose selector may not be empty.
    """
    template = mapping(spec, "template")
    metadata = mapping(template, "metadata")
    labels = texts(metadata, "labels")
    found: list[Cause] = []
    if selector:
        found += check_selector(spec.get("selector"), f"{field}.selector", owner)
        if spec.get("selector") is None:
            found.append(required(f"{field}.selector"))
        if _selects_not(spec.get("selector"), labels):
            at = f"{field}.template.metadata.labels"
            found.append(bad_labels(at, labels, _SELECTOR_MISMATCH))
    found += check_labels(labels, f"{field}.template.labels")
    found += check_annotations(texts(metadata, "annotations"), f"{field}.template.annotations")
    pod_spec = mapping(template, "spec")
    claims = items(spec, "volumeClaimTemplates")
    claimed = frozenset(text(mapping(claim, "metadata"), "name") for claim in claims)
    found += check_pod_spec(pod_spec, f"{field}.template.spec", claimed)
    policy = pod_spec.get("restartPolicy")
    if policy not in policies:
        found.append(unsupported(f"{field}.template.spec.restartPolicy", policy, policies))
    return found


def _selects_not(selector: Any, labels: dict[str, str]) -> bool:
    try:
        return not selectors.from_object(selector).matches(labels)
    except BadRequest:
        return False  # a selector that cannot be read was reported already


def check_selector(selector: Any, field: str, owner: str = "") -> list[Cause]:
    """What is wrong with a label selector; an empty one is wrong for the kind ``owner``."""
    if selector is None:
        return []
    if not isinstance(selector, dict):
        return [bad(field, selector, "must be a label selector")]
    found: list[Cause] = []
    if owner and not selector.get("matchLabels") and not selector.get("matchExpressions"):
        found.append(bad(field, selector, f"empty selector is invalid for {owner}"))
    found += check_labels(texts(selector, "matchLabels"), f"{field}.matchLabels")
    for number, expression in enumerate(selector.get("matchExpressions") or ()):
        at = f"{field}.matchExpressions[{number}]"
        operator, values = expression.get("operator") or "", expression.get("values")
        key = str(expression.get("key") or "")
        found += [bad(f"{at}.key", key, message) for message in names.qualified_name(key)]
        if operator in ("In", "NotIn"):
            if not values:
                message = "must be specified when `operator` is 'In' or 'NotIn'"
                found.append(required(f"{at}.values", message))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                message = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                found.append(forbidden(f"{at}.values", message))
        else:
            found.append(bad(f"{at}.operator", operator, "not a valid selector operator"))
    return found


def _check_amount(field: str, value: Any) -> list[Cause]:
    """A count or a percentage."""
    if isinstance(value, str):
        if re.fullmatch(r"[0-9]+%", value):
            return []
        message = (
            "a valid percent string must be a numeric string followed by an ending '%' "
            "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
        )
        return [bad(field, value, message)]
    return not_negative(field, value)


def _is_zero(value: Any) -> bool:
    return value == 0 or (isinstance(value, str) and value.rstrip("%").strip("0") == "")


def check_deployment(obj: Object) -> list[Cause]:
    """What is wrong with a Deployment."""
    spec = mapping(obj, "spec")
    found: list[Cause] = []
    for name in ("replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"):
        found += not_negative(f"spec.{name}", spec.get(name))
    found += _check_template(spec, "spec", owner="deployment")
    strategy = mapping(spec, "strategy")
    kind = strategy.get("type")
    found += one_of("spec.strategy.type", kind, ("Recreate", "RollingUpdate"))
    if kind == "Recreate" and strategy.get("rollingUpdate") is not None:
        message = "may not be specified when strategy `type` is 'Recreate'"
        found.append(forbidden("spec.strategy.rollingUpdate", message))
    elif kind == "RollingUpdate":
        rolling = mapping(strategy, "rollingUpdate")
        at = "spec.strategy.rollingUpdate"
        for name in ("maxUnavailable", "maxSurge"):
            found += _check_amount(f"{at}.{name}", rolling.get(name))
        if _is_zero(rolling.get("maxUnavailable")) and _is_zero(rolling.get("maxSurge")):
            message = "may not be 0 when `maxSurge` is 0"
            found.append(bad(f"{at}.maxUnavailable", rolling["maxUnavailable"], message))
    deadline, ready = spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds") or 0
    if isinstance(deadline, int) and isinstance(ready, int) and deadline <= ready:
        message = "must be greater than minReadySeconds"
        found.append(bad("spec.progressDeadlineSeconds", deadline, message))
    return found


def check_replica_set(obj: Object) -> list[Cause]:
    """What is wrong with a ReplicaSet."""
    spec = mapping(obj, "spec")
    found: list[Cause] = []
    for name in ("replicas", "minReadySeconds"):
        found += not_negative(f"spec.{name}", spec.get(name))
    return found + _check_template(spec, "spec", owner="deployment")


def check_replication_controller(obj: Object) -> list[Cause]:
    """What is wrong with a ReplicationController, whose selector is a map of labels."""
    spec = mapping(obj, "spec")
    found = not_negative("spec.replicas", spec.get("replicas"))
    if not spec.get("selector"):
        found.append(required("spec.selector"))
    else:
        labels = texts(mapping(mapping(spec, "template"), "metadata"), "labels")
        if not texts(spec, "selector").items() <= labels.items():
            at = "spec.template.metadata.labels"
            found.append(bad_labels(at, labels, _SELECTOR_MISMATCH))
    return found + _check_template(spec, "spec", selector=False)


def check_stateful_set(obj: Object) -> list[Cause]:
    """What is wrong with a StatefulSet."""
    spec = mapping(obj, "spec")
    found = one_of(
        "spec.podManagementPolicy", spec.get("podManagementPolicy"), ("OrderedReady", "Parallel")
    )
    strategy = mapping(spec, "updateStrategy")
    found += one_of("spec.updateStrategy.type", strategy.get("type"), ("RollingUpdate", "OnDelete"))
    partition = mapping(strategy, "rollingUpdate").get("partition")
    found += not_negative("spec.updateStrategy.rollingUpdate.partition", partition)
    for name in ("replicas", "minReadySeconds"):
        found += not_negative(f"spec.{name}", spec.get(name))
    retention = mapping(spec, "persistentVolumeClaimRetentionPolicy")
    for name in ("whenDeleted", "whenScaled"):
        if retention.get(name) is not None:
            at = f"spec.persistentVolumeClaimRetentionPolicy.{name}"
            found += one_of(at, retention[name], ("Retain", "Delete"))
    for at, name in (
        ("metadata.name", text(mapping(obj, "metadata"), "name")),
        ("spec.serviceName", text(spec, "serviceName")),
    ):
        # Both become parts of the pods' host names.
        if len(name) > names.LABEL_LIMIT or (name and at == "spec.serviceName"):
            found += [bad(at, name, message) for message in names.dns_label(name)]
    return found + _check_template(spec, "spec", owner="statefulset")


def check_daemon_set(obj: Object) -> list[Cause]:
    """What is wrong with a DaemonSet."""
    spec = mapping(obj, "spec")
    found = not_negative("spec.minReadySeconds", spec.get("minReadySeconds"))
    strategy = mapping(spec, "updateStrategy")
    found += one_of("spec.updateStrategy.type", strategy.get("type"), ("RollingUpdate", "OnDelete"))
    rolling = mapping(strategy, "rollingUpdate")
    for name in ("maxUnavailable", "maxSurge"):
        found += _check_amount(f"spec.updateStrategy.rollingUpdate.{name}", rolling.get(name))
    surge, gone = rolling.get("maxSurge"), rolling.get("maxUnavailable")
    if rolling and not _is_zero(surge or 0) and not _is_zero(gone or 0):
        at = "spec.updateStrategy.rollingUpdate.maxSurge"
        found.append(bad(at, surge, "may not be set when maxUnavailable is non-zero"))
    return found + _check_template(spec, "spec", owner="daemonset")


def check_job_spec(spec: Object, field: str, *, selector: bool = True) -> list[Cause]:
    """What is wrong with a Job's spec."""
    found: list[Cause] = []
    for name in (
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "backoffLimitPerIndex",
        "ttlSecondsAfterFinished",
    ):
        found += not_negative(f"{field}.{name}", spec.get(name))
    mode = spec.get("completionMode")
    if mode is not None:
        found += one_of(f"{field}.completionMode", mode, ("NonIndexed", "Indexed"))
    if mode == "Indexed" and spec.get("completions") is None:
        message = "when completion mode is Indexed, completions is required"
        found.append(required(f"{field}.completions", message))
    replacement = spec.get("podReplacementPolicy")
    if replacement is not None:
        modes = ("Failed", "TerminatingOrFailed")
        found += one_of(f"{field}.podReplacementPolicy", replacement, modes)
    policies: tuple[str, ...] = ("OnFailure", "Never")
    if mapping(mapping(spec, "template"), "spec").get("restartPolicy") == "Always":
        message = 'valid values: "OnFailure", "Never"'
        found.append(required(f"{field}.template.spec.restartPolicy", message))
        policies = ("Always",)  # said once is enough
    return found + _check_template(spec, field, policies, selector=selector)


def check_job(obj: Object) -> list[Cause]:
    """What is wrong with a Job."""
    return check_job_spec(mapping(obj, "spec"), "spec")


def check_cron_job(obj: Object) -> list[Cause]:
    """What is wrong with a CronJob."""
    spec = mapping(obj, "spec")
    found: list[Cause] = []
    schedule = text(spec, "schedule")
    if not schedule:
        found.append(required("spec.schedule"))
    elif not schedule.startswith("@") and len(schedule.split()) != 5:
        parts = schedule.split()
        message = f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]"
        found.append(bad("spec.schedule", schedule, message))
    policy = spec.get("concurrencyPolicy")
    found += one_of("spec.concurrencyPolicy", policy, ("Allow", "Forbid", "Replace"))
    for name in (
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ):
        found += not_negative(f"spec.{name}", spec.get(name))
    if len(text(mapping(obj, "metadata"), "name")) > _NAME_LIMIT:
        message = f"must be no more than {_NAME_LIMIT} characters"
        found.append(bad("metadata.name", obj["metadata"]["name"], message))
    job = mapping(mapping(spec, "jobTemplate"), "spec")
    return found + check_job_spec(job, "spec.jobTemplate.spec", selector=False)


def keep_selector(new: Object, old: Object) -> list[Cause]:
    """The selector may not change."""
    ours, theirs = mapping(new, "spec"), mapping(old, "spec")
    return unchanged("spec.selector", ours.get("selector"), theirs.get("selector"))


def keep_stateful_set(new: Object, old: Object) -> list[Cause]:
    """Of a StatefulSet only some fields may change."""
    ours = {name: value for name, value in mapping(new, "spec").items() if name not in _SET_MUTABLE}
    theirs = {
        name: value for name, value in mapping(old, "spec").items() if name not in _SET_MUTABLE
    }
    return [] if ours == theirs else [forbidden("spec", _SET_UPDATE_MESSAGE)]


def keep_job(new: Object, old: Object) -> list[Cause]:
    """Of a Job's work hardly anything may change; a suspended one may be rescheduled."""
    ours, theirs = mapping(new, "spec"), mapping(old, "spec")
    found: list[Cause] = []
    for name in ("selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"):
        found += unchanged(f"spec.{name}", ours.get(name), theirs.get(name))
    if ours.get("completionMode") != "Indexed":
        found += unchanged("spec.completions", ours.get("completions"), theirs.get("completions"))
    if theirs.get("suspend") and not mapping(old, "status").get("startTime"):
        return found
    return found + unchanged("spec.template", ours.get("template"), theirs.get("template"))
