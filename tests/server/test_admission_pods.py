"""What new pods are given: priority and service accounts."""

from __future__ import annotations

import copy

import pytest
from tests.server.running import pod, serve

from underway.api.resources import PODS, PRIORITYCLASSES, SERVICEACCOUNTS
from underway.base.errors import Forbidden, Invalid

SPACE = "default"


def placed(name, **spec):
    made = pod(name, **spec)
    made["metadata"]["namespace"] = SPACE
    return made


def priority(name, value, **more):
    return {"metadata": {"name": name}, "value": value, **more}


def test_a_pod_gets_the_priority_and_the_policy_of_its_class(tmp_path):
    async def scenario(_server, admin):
        await admin.create(PRIORITYCLASSES, priority("calm", 7, preemptionPolicy="Never"))
        spec = (await admin.create(PODS, placed("a", priorityClassName="calm")))["spec"]
        assert (spec["priority"], spec["preemptionPolicy"]) == (7, "Never")
        spec = (await admin.create(PODS, placed("b")))["spec"]
        assert (spec["priority"], spec["preemptionPolicy"]) == (0, "PreemptLowerPriority")
        spec = (await admin.create(PODS, placed("c", priorityClassName="system-node-critical")))[
            "spec"
        ]
        assert spec["priority"] == 2_000_001_000

    serve(tmp_path, scenario)


def test_the_one_default_class_is_that_of_pods_that_name_none(tmp_path):
    async def scenario(_server, admin):
        await admin.create(PRIORITYCLASSES, priority("usual", 5, globalDefault=True))
        spec = (await admin.create(PODS, placed("a")))["spec"]
        assert (spec["priorityClassName"], spec["priority"]) == ("usual", 5)
        with pytest.raises(Forbidden) as caught:
            await admin.create(PRIORITYCLASSES, priority("second", 6, globalDefault=True))
        assert caught.value.message == (
            'priorityclasses.scheduling.k8s.io "second" is forbidden: PriorityClass usual is'
            " already marked as default. Only one default can exist"
        )

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"priorityClassName": "none"}, "no PriorityClass with name none was found"),
        ({"priority": 9}, "priority admission controller computed 0 from the given"),
        (
            {"preemptionPolicy": "Never"},
            "priority admission controller computed PreemptLowerPriority from the given",
        ),
        ({"serviceAccountName": "none"}, 'serviceaccount "none" not found'),
    ],
)
def test_a_pod_that_asks_for_what_is_not_there_is_refused(tmp_path, spec, why):
    async def scenario(_server, admin):
        with pytest.raises(Forbidden, match=why):
            await admin.create(PODS, placed("p", **spec))

    serve(tmp_path, scenario)


def mounts(made):
    return [m["mountPath"] for m in made["spec"]["containers"][0].get("volumeMounts") or ()]


def test_the_account_says_whether_its_token_is_mounted_and_the_pod_has_the_last_word(tmp_path):
    token = "/var/run/secrets/kubernetes.io/serviceaccount"  # a path

    async def scenario(_server, admin):
        shy = {
            "metadata": {"name": "shy", "namespace": SPACE},
            "automountServiceAccountToken": False,
            "imagePullSecrets": [{"name": "pull"}],
        }
        await admin.create(SERVICEACCOUNTS, shy)
        made = await admin.create(PODS, placed("a", serviceAccountName="shy"))
        assert mounts(made) == []
        assert made["spec"]["imagePullSecrets"] == [{"name": "pull"}]
        eager = placed("b", serviceAccountName="shy", automountServiceAccountToken=True)
        assert mounts(await admin.create(PODS, eager)) == [token]
        own = placed("c", serviceAccountName="shy", imagePullSecrets=[{"name": "own"}])
        assert (await admin.create(PODS, own))["spec"]["imagePullSecrets"] == [{"name": "own"}]
        assert mounts(await admin.create(PODS, placed("d"))) == [token]
        assert (
            mounts(await admin.create(PODS, placed("e", automountServiceAccountToken=False))) == []
        )

    serve(tmp_path, scenario)


def test_a_pod_is_replaced_without_what_priority_and_tolerations_add(tmp_path):
    async def scenario(_server, admin):
        await admin.create(PRIORITYCLASSES, priority("usual", 5, globalDefault=True))
        made = await admin.create(PODS, placed("a", priorityClassName="usual"))
        sent = copy.deepcopy(made)
        for name in ("priority", "preemptionPolicy", "tolerations"):
            del sent["spec"][name]
        sent["metadata"]["labels"] = {"new": "one"}
        written = await admin.replace(PODS, sent)
        assert written["spec"] == made["spec"]
        assert written["metadata"]["labels"] == {"new": "one"}
        # Another value of the priority than the pod has is a change like any other.
        with pytest.raises(Invalid, match="pod updates may not change fields"):
            await admin.replace(PODS, {**written, "spec": {**written["spec"], "priority": 7}})

    serve(tmp_path, scenario)


def test_tolerations_that_are_left_out_on_update_are_those_of_the_cluster(tmp_path):
    async def scenario(_server, admin):
        mine = {"key": "mine", "operator": "Exists", "effect": "NoSchedule"}
        made = await admin.create(PODS, placed("a", tolerations=[mine]))
        sent = copy.deepcopy(made)
        del sent["metadata"]["resourceVersion"]
        sent["spec"]["tolerations"] = [mine]
        assert (await admin.replace(PODS, sent))["spec"] == made["spec"]
        del sent["spec"]["tolerations"]
        with pytest.raises(Invalid, match="existing toleration can not be modified"):
            await admin.replace(PODS, sent)

    serve(tmp_path, scenario)
