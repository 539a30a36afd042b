"""What a Job makes of single failures and of part of the work: its policies.

Source: Kubernetes docs, "Handling retriable and non-retriable pod failures with Pod failure
policy", "Jobs" (success policy, backoff limit per index, pod replacement policy).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from underway.api.objects import Object, annotations_of, name_of, namespace_of
from underway.capabilities.workloads.model import phase, spec_of, status_of

FAILURES = "batch.kubernetes.io/job-index-failure-count"

FAIL_JOB, FAIL_INDEX, IGNORE, COUNT = "FailJob", "FailIndex", "Ignore", "Count"


@dataclass(frozen=True)
class IndexFailures:
    """What the failed pods of an Indexed Job say of its indexes.

    ``counts`` is how often each has failed so far, ``failed`` which may not be tried again.
    """

    counts: Mapping[int, int] = field(default_factory=dict)
    failed: frozenset[int] = frozenset()


def per_index(job: Object) -> int | None:
    """``spec.backoffLimitPerIndex``."""
    limit = spec_of(job).get("backoffLimitPerIndex")
    return None if limit is None else int(limit)


def waits_for_end(job: Object) -> bool:
    """Whether a pod is replaced only when it has ended, not when it begins to."""
    spec = spec_of(job)
    return bool(spec.get("podFailurePolicy")) or spec.get("podReplacementPolicy") == "Failed"


def action_on(job: Object, pod: Object) -> tuple[str, str]:
    """What the first matching rule says of a failed pod, and in which words.

    Without one it counts, as failures do.
    """
    if phase(pod) == "Failed":
        rules = (spec_of(job).get("podFailurePolicy") or {}).get("rules") or ()
        for number, rule in enumerate(rules):
            what = _by_exit_code(rule, pod) or _by_condition(rule, pod)
            if what:
                end = f"matching {rule['action']} rule at index {number}"
                return str(rule["action"]), f"{what} {end}"
    return COUNT, ""


def _by_exit_code(rule: Object, pod: Object) -> str:
    wanted = rule.get("onExitCodes")
    if not wanted:
        return ""
    status = status_of(pod)
    for each in (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ):
        ended = (each.get("state") or {}).get("terminated")
        code = (ended or {}).get("exitCode") or 0
        if not code or wanted.get("containerName") not in (None, "", each["name"]):
            continue
        listed = code in (wanted.get("values") or ())
        if listed == (wanted.get("operator") == "In"):
            where = f"{namespace_of(pod)}/{name_of(pod)}"
            return f"Container {each['name']} for pod {where} failed with exit code {code}"
    return ""


def _by_condition(rule: Object, pod: Object) -> str:
    there = status_of(pod).get("conditions") or ()
    for wanted in rule.get("onPodConditions") or ():
        for each in there:
            status = wanted.get("status") or "True"
            if (each.get("type"), each.get("status")) == (wanted["type"], status):
                return f"Pod {namespace_of(pod)}/{name_of(pod)} has condition {wanted['type']}"
    return ""


def index_failures(
    job: Object, failed: Iterable[tuple[int, Object]], known: Iterable[int]
) -> IndexFailures:
    """How often indexes have failed.

    Args:
        job: the Job.
        failed: index and pod of each failed pod that is still there.
        known: indexes that were found to have failed before.
    """
    limit = per_index(job)
    if limit is None:
        return IndexFailures()
    counts: dict[int, int] = {}
    gone = set(known)
    for index, pod in failed:
        action, _ = action_on(job, pod)
        before = annotations_of(pod).get(FAILURES, "0")
        count = (int(before) if before.isdecimal() else 0) + (action != IGNORE)
        counts[index] = max(counts.get(index, 0), count)
        if action == FAIL_INDEX or count > limit:
            gone.add(index)
    return IndexFailures(counts, frozenset(gone))


def success(job: Object, done: frozenset[int]) -> str:
    """The rule of the success policy that is met, in words; empty if none is."""
    from_rules = (spec_of(job).get("successPolicy") or {}).get("rules") or ()
    for number, rule in enumerate(from_rules):
        text = rule.get("succeededIndexes")
        wanted = None if text is None else _indexes(text)
        matched = done if wanted is None else done & wanted
        least = rule.get("succeededCount")
        enough = len(wanted or ()) if least is None else int(least)
        if len(matched) >= enough and (least is not None or wanted is not None):
            return f"Matched rules at index {number}"
    return ""


def _indexes(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
