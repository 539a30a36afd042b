"""What claims mean for where pods can run, by the rules alone."""

from typing import Any

import pytest

from underway.api import placement
from underway.capabilities.scheduler.rules import volumes as rules
from underway.capabilities.scheduler.rules.volumes import Storage

HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
DELAYED = {"volumeBindingMode": "WaitForFirstConsumer", "provisioner": "made.example"}
STATIC = {**DELAYED, "provisioner": "kubernetes.io/no-provisioner"}


def at(node: str) -> Any:
    term = {"matchExpressions": [{"key": HOST, "operator": "In", "values": [node]}]}
    return {"required": {"nodeSelectorTerms": [term]}}


def node(name: str, **labels: str) -> Any:
    return {"metadata": {"name": name, "labels": {HOST: name, **labels}}}


def claim(name: str = "c", size: str = "1Gi", klass: str = "k", **changes: Any) -> Any:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": klass,
        "resources": {"requests": {"storage": size}},
        **changes.pop("spec", {}),
    }
    return {
        "metadata": {"namespace": "default", "name": name, "uid": name, **changes},
        "spec": spec,
    }


def volume(name: str, size: str = "1Gi", labels: Any = None, **spec: Any) -> Any:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "k",
        "capacity": {"storage": size},
        **spec,
    }
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec}


def bound(to: str) -> Any:
    notes = {"pv.kubernetes.io/bind-completed": "yes"}
    return claim(annotations=notes, spec={"volumeName": to})


def needs(found: Any, *free: Any, klass: Any = DELAYED, volumes: Any = None, **users: Any) -> Any:
    storage = Storage({"default/c": found}, volumes or {}, {"k": klass}, free, users)
    return rules.needs("default", ["c"], "pod", storage)


def reaches(of: rules.Needs, where: Any) -> bool:
    return all(
        any(placement.matches_term(term, where) for term in each["nodeSelectorTerms"])
        for each in of.affinities
    )


def test_a_bound_volume_ties_the_pod_to_its_node_and_zone():
    there = volume("v", labels={ZONE: "a__b"}, nodeAffinity=at("n1"))
    found = needs(bound("v"), volumes={"v": there})
    assert reaches(found, node("n1", **{ZONE: "b"}))
    assert not reaches(found, node("n1", **{ZONE: "c"}))
    assert not reaches(found, node("n2", **{ZONE: "a"}))


def test_an_unbound_claim_that_does_not_wait_stops_the_pod():
    immediate = {"provisioner": "made.example", "volumeBindingMode": "Immediate"}
    assert needs(claim(), klass=immediate).problem == rules.UNBOUND
    assert needs(claim(), klass=STATIC).problem == rules.NONE_AVAILABLE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, "is being deleted"),
        (
            {
                "ownerReferences": [
                    {"kind": "Pod", "name": "x", "uid": "x", "controller": True, "apiVersion": "v1"}
                ]
            },
            "belongs to another pod",
        ),
    ],
)
def test_a_claim_that_must_not_be_used_stops_the_pod(changes, words):
    assert words in needs(claim(**changes)).problem


def test_a_claim_for_one_pod_is_not_shared():
    alone = {"spec": {"accessModes": ["ReadWriteOncePod"]}}
    storage = Storage({"default/c": claim(**alone)}, {}, {"k": DELAYED}, (), {"default/c": ["x"]})
    assert rules.needs("default", ["c"], "pod", storage).problem == rules.TAKEN
    assert not rules.needs("default", ["c"], "x", storage).problem


def test_a_delayed_claim_goes_where_one_of_its_volumes_is():
    found = needs(
        claim(),
        volume("v1", nodeAffinity=at("n1")),
        volume("v2", nodeAffinity=at("n2")),
        volume("small", "1Mi", nodeAffinity=at("n3")),
        klass=STATIC,
    )
    assert [reaches(found, node(f"n{n}")) for n in (1, 2, 3)] == [True, True, False]
    assigned = rules.assign(found.delayed, node("n2"))
    assert assigned is not None
    assert assigned["default/c"]["metadata"]["name"] == "v2"


def test_two_claims_never_get_one_volume():
    free = (volume("v", "5Gi"),)
    delayed = [rules.Delayed(claim(name), free) for name in ("a", "b")]
    assert rules.assign(delayed, node("n")) is None
    made = [rules.Delayed(claim(name), free, provisioned=True) for name in ("a", "b")]
    assigned = rules.assign(made, node("n"))
    assert assigned is not None
    assert sorted(v is None for v in assigned.values()) == [False, True]


def test_a_provisioned_volume_goes_where_its_class_allows_and_stays_where_it_was_begun():
    allowed = {"matchLabelExpressions": [{"key": ZONE, "values": ["a"]}]}
    found = needs(claim(), klass={**DELAYED, "allowedTopologies": [allowed]})
    assert reaches(found, node("n", **{ZONE: "a"}))
    assert not reaches(found, node("n", **{ZONE: "b"}))
    begun = claim(annotations={rules.SELECTED_NODE: "n1"})
    found = needs(begun, volume("v2", nodeAffinity=at("n2")))
    assert reaches(found, node("n1"))
    assert not reaches(found, node("n2"))
