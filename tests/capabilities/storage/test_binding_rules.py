"""Which claim gets which volume, by the rules alone."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from tests.capabilities.storage.objects import claim, pod, storage_class, volume

from underway.capabilities.storage.rules import binding, local, protection
from underway.capabilities.storage.rules.binding import Bind, Lost, Offer, Provision, Wait


def known(obj: Any, uid: str = "u1", **notes: str) -> Any:
    obj["metadata"] |= {"uid": uid, "resourceVersion": "1"}
    if notes:
        obj["metadata"]["annotations"] = {k.replace("__", "/"): v for k, v in notes.items()}
    return obj


def test_the_smallest_volume_that_fits_is_taken():
    free = [volume("big", "10Gi"), volume("fits", "2Gi"), volume("small", "1Gi")]
    decided = binding.decide(known(claim("c", "1500Mi", "")), Offer(free=free))
    assert isinstance(decided, Bind)
    assert decided.volume["metadata"]["name"] == "fits"


@pytest.mark.parametrize(
    "other",
    [
        volume("v", "1Gi", accessModes=["ReadOnlyMany"]),
        volume("v", "1023Mi"),
        volume("v", "1Gi", volumeMode="Block"),
        volume("v", "1Gi", "fast"),
        volume("v", "1Gi", labels={"disk": "slow"}),
        volume("v", "1Gi", claimRef={"namespace": "default", "name": "other"}),
    ],
)
def test_a_volume_that_does_not_fit_is_left_alone(other):
    wanted = known(claim("c", "1Gi", "", selector={"matchLabels": {"disk": "ssd"}}))
    other["metadata"]["labels"] = other["metadata"]["labels"] or {"disk": "ssd"}
    assert isinstance(binding.decide(wanted, Offer(free=[other])), Wait)


def test_a_volume_kept_for_a_claim_by_name_is_preferred_and_refused_to_others():
    kept = volume("kept", "5Gi", claimRef={"namespace": "default", "name": "c"})
    decided = binding.decide(
        known(claim("c", "1Gi", "")), Offer(reserved=[kept], free=[volume("free")])
    )
    assert isinstance(decided, Bind)
    assert decided.volume is kept
    kept["spec"]["claimRef"]["uid"] = "somebody else's"
    decided = binding.decide(known(claim("c", "1Gi", "")), Offer(reserved=[kept]))
    assert isinstance(decided, Wait)


def test_a_claim_that_names_its_volume_gets_no_other():
    wanted = known(claim("c", "1Gi", "", volumeName="v"))
    assert binding.decide(wanted, Offer(free=[volume("w")])) == Wait()
    decided = binding.decide(wanted, Offer(named=volume("v", "1Mi")))
    assert isinstance(decided, Wait)
    assert "too small" in decided.message


def test_a_class_that_waits_keeps_the_claim_until_a_node_is_chosen():
    waits = storage_class("w", local.NAME, volumeBindingMode="WaitForFirstConsumer")
    offer = Offer(storage_class=waits, free=[volume("v", klass="w")])
    decided = binding.decide(known(claim("c", klass="w")), offer)
    assert isinstance(decided, Wait)
    assert decided.reason == "WaitForFirstConsumer"
    chosen = known(claim("c", klass="w"), **{"volume.kubernetes.io__selected-node": "n"})
    assert binding.decide(chosen, offer) == Provision(local.NAME)


def test_a_bound_claim_without_its_volume_is_lost():
    bound = known(claim("c", volumeName="v"), **{"pv.kubernetes.io__bind-completed": "yes"})
    assert isinstance(binding.decide(bound, Offer()), Lost)
    other = volume("v", claimRef={"namespace": "default", "name": "x", "uid": "u2"})
    decided = binding.decide(bound, Offer(named=other))
    assert isinstance(decided, Lost)
    assert decided.reason == "ClaimMisbound"


def test_the_newest_of_several_default_classes_counts():
    def default(name: str, created: str) -> Any:
        made = storage_class(name)
        made["metadata"] |= {
            "creationTimestamp": created,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        }
        return made

    old, new = default("old", "2024-01-01T00:00:00Z"), default("new", "2025-01-01T00:00:00Z")
    assert binding.default_class([old, new, storage_class("none")]) == "new"
    assert binding.default_class([storage_class("none")]) is None


def test_where_a_volume_stands():
    def stands(policy: str, of: Any = None, **notes: str) -> binding.Standing:
        reference = {"namespace": "default", "name": "c", "uid": "u1"}
        found = known(
            volume("v", claimRef=reference, persistentVolumeReclaimPolicy=policy), "uv", **notes
        )
        return binding.standing(found, of)

    assert binding.standing(volume("v"), None).phase == "Available"
    assert stands("Retain", known(claim("c", volumeName="v"))).phase == "Bound"
    assert stands("Retain").phase == "Released"
    assert stands("Delete").phase == "Failed"
    assert stands("Delete", **{"pv.kubernetes.io__provisioned-by": "x"}).phase == "Released"
    namesake = known(claim("c", volumeName="v"), "u2")
    assert stands("Retain", namesake).phase == "Released"
    elsewhere = known(claim("c", volumeName="w"))
    assert stands("Retain", elsewhere, **{"pv.kubernetes.io__bound-by-controller": "yes"}).free


def test_no_volume_is_given_twice_and_none_too_small_whatever_the_order():
    random.seed(7)
    for _ in range(200):
        free = [volume(f"v{n}", f"{random.randint(1, 9)}Gi") for n in range(6)]
        wanted = [known(claim(f"c{n}", f"{random.randint(1, 9)}Gi", ""), f"u{n}") for n in range(6)]
        given: dict[str, str] = {}
        for each in random.sample(wanted, 6):
            decided = binding.decide(each, Offer(free=free))
            if isinstance(decided, Bind):
                name = decided.volume["metadata"]["name"]
                assert name not in given
                given[name] = each["metadata"]["name"]
                assert not binding.misfit(decided.volume, each)
                decided.volume["spec"]["claimRef"] = {
                    "namespace": "default",
                    "name": each["metadata"]["name"],
                }
        left = [v for v in free if v["metadata"]["name"] not in given]
        unserved = [c for c in wanted if c["metadata"]["name"] not in given.values()]
        assert all(binding.misfit(v, c) for v, c in itertools.product(left, unserved))


def test_only_a_directory_made_for_the_volume_is_ever_removed():
    base = Path("/base")
    wanted = known(claim("data"), "0a1b2c3d-0000-4000-8000-000000000001")
    node = {"metadata": {"name": "n", "labels": {}}}
    made = local.volume(
        wanted, storage_class("local-path", local.NAME), base / local.directory(wanted), node
    )
    assert local.own_directory(made, base) == local.directory(wanted)
    for path in (
        "/etc",
        "/base",
        "/base/..",
        f"/base/../{local.directory(wanted)}",
        f"/base/{local.directory(wanted)}/inner",
        "/base/pvc-0a1b2c3d-0000-4000-8000-000000000002_default_data",
        "",
    ):
        made["spec"]["local"]["path"] = path
        assert local.own_directory(made, base) is None, path


def test_pods_hold_claims_only_while_they_may_run():
    assert not protection.claim_in_use([pod("p", "c")])
    assert protection.claim_in_use([pod("p", "c", nodeName="n")])
    ended = pod("p", "c", nodeName="n")
    ended["status"] = {"phase": "Succeeded"}
    assert not protection.claim_in_use([ended])
