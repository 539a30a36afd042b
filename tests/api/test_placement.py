"""Which nodes a pod may run on."""

import pytest

from underway.api import placement


def node(name: str = "n1", labels: dict[str, str] | None = None, **spec: object) -> dict:
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec}


def required(*terms: dict) -> dict:
    rule = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": rule}}


def expression(key: str, operator: str, *values: str) -> dict:
    return {"key": key, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ({}, True),
        ({"nodeSelector": {"disk": "ssd"}}, True),
        ({"nodeSelector": {"disk": "hdd"}}, False),
        (required({"matchExpressions": [expression("cpus", "Gt", "7")]}), True),
        (required({"matchExpressions": [expression("cpus", "Lt", "7")]}), False),
        (required({"matchExpressions": [expression("gpu", "DoesNotExist")]}), True),
        (required({"matchFields": [expression("metadata.name", "In", "n1")]}), True),
        (required({"matchFields": [expression("metadata.name", "In", "n2")]}), False),
        (required({}), False),
        (
            required(
                {"matchExpressions": [expression("disk", "In", "hdd")]},
                {"matchExpressions": [expression("disk", "NotIn", "hdd")]},
            ),
            True,
        ),
    ],
)
def test_selectors_and_affinity_choose_nodes(spec, fits):
    assert placement.matches_node(spec, node(labels={"disk": "ssd", "cpus": "8"})) is fits


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "a", "value": "x", "effect": "NoSchedule"}, True),
        ({"key": "a", "value": "y"}, False),
        ({"key": "a", "operator": "Exists"}, True),
        ({"key": "b", "operator": "Exists"}, False),
        ({"operator": "Exists"}, True),
        ({"operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_tolerations_match_by_key_value_and_effect(toleration, tolerated):
    tainted = node(taints=[{"key": "a", "value": "x", "effect": "NoSchedule"}])
    assert (placement.untolerated({"tolerations": [toleration]}, tainted) == []) is tolerated


def test_a_cordoned_node_counts_as_tainted():
    found = placement.untolerated({}, node(unschedulable=True))
    assert [each["key"] for each in found] == [placement.UNSCHEDULABLE]


def test_soft_taints_keep_nobody_out_but_can_be_asked_for():
    soft = node(taints=[{"key": "a", "effect": placement.PREFER_NO_SCHEDULE}])
    assert placement.untolerated({}, soft) == []
    assert len(placement.untolerated({}, soft, (placement.PREFER_NO_SCHEDULE,))) == 1
