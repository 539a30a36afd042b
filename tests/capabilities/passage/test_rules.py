from __future__ import annotations

import pytest

from underway.api.resources import DEPLOYMENTS
from underway.base.errors import BadRequest
from underway.capabilities.passage import rules
from underway.capabilities.passage.model import PASSAGE_ANNOTATION, Applied

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "generation": 2},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "$(IMAGE)"}]},
        },
    },
}


def status(**fields: object) -> dict:
    return {**DEPLOYMENT, "status": {"observedGeneration": 2, **fields}}


@pytest.mark.parametrize(("directory", "name"), [
    ("Guest Book", "guest-book"), ("x" * 60, "x" * 40), ("---", "app"), ("My_App.v2", "my-app-v2"),
])  # fmt: skip
def test_a_directory_gives_a_valid_name(directory: str, name: str) -> None:
    assert rules.application_name("", directory) == name


@pytest.mark.parametrize("name", ["Upper", "-x", "x" * 41, "a_b", "é"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="--name"):
        rules.application_name(name, "dir")


def test_rendering_puts_image_and_passage_in_place() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
               "spec": {"selector": {"app": "web"}}}  # fmt: skip
    objects = rules.render(
        [DEPLOYMENT, service], image="r/web@sha256:1", passage="web-1", namespace="shop"
    )
    template = objects[0]["spec"]["template"]
    assert template["spec"]["containers"][0]["image"] == "r/web@sha256:1"
    assert template["metadata"]["annotations"] == {PASSAGE_ANNOTATION: "web-1"}
    assert [obj["metadata"]["namespace"] for obj in objects] == ["shop", "shop"]
    assert rules.front_service(objects, "web-1") is objects[1]
    assert "annotations" not in DEPLOYMENT["metadata"]


def test_manifests_without_the_image_are_refused() -> None:
    with pytest.raises(BadRequest, match="no manifest has the image"):
        rules.render([{"kind": "Service"}], image="i", passage="p", namespace="n")


@pytest.mark.parametrize(("fields", "complete"), [
    ({"observedGeneration": 1}, False),
    ({"updatedReplicas": 1, "replicas": 1}, False),
    ({"updatedReplicas": 2, "replicas": 3, "availableReplicas": 2}, False),
    ({"updatedReplicas": 2, "replicas": 2, "availableReplicas": 1}, False),
    ({"updatedReplicas": 2, "replicas": 2, "availableReplicas": 2}, True),
])  # fmt: skip
def test_when_a_rollout_is_complete(fields: dict, complete: bool) -> None:
    assert rules.rollout(status(**fields), []).complete is complete


def pod(passage: str, state: dict, last: dict | None = None) -> dict:
    container = {"name": "web", "state": state, "lastState": last or {}}
    return {
        "metadata": {"name": "web-1", "annotations": {PASSAGE_ANNOTATION: passage}},
        "status": {"containerStatuses": [container]},
    }


def shipped(passage: str) -> dict:
    (obj,) = rules.render([DEPLOYMENT], image="i", passage=passage, namespace="n")
    return {**obj, "status": {"observedGeneration": 2}}


def test_a_crashing_container_fails_the_rollout_with_its_exit_code() -> None:
    crashed = pod("p", {"waiting": {"reason": "CrashLoopBackOff"}}, {"terminated": {"exitCode": 3}})
    found = rules.rollout(shipped("p"), [crashed])
    assert "exit code 3" in found.failure
    assert (found.failing_pod, found.failing_container, found.restarted) == ("web-1", "web", True)


def test_pods_of_another_passage_do_not_fail_this_rollout() -> None:
    crashed = pod("old", {"waiting": {"reason": "CrashLoopBackOff"}})
    assert not rules.rollout(shipped("new"), [crashed]).failure


def applied(name: str, before: str | None, after: str) -> Applied:
    def version(text: str) -> dict:
        return {"metadata": {"name": name, "resourceVersion": text}}

    return Applied(DEPLOYMENTS, None if before is None else version(before), version(after))


def test_undoing_deletes_what_is_new_and_restores_what_changed() -> None:
    new, changed, same = applied("a", None, "1"), applied("b", "1", "2"), applied("c", "1", "1")
    assert [each.verb for each in (new, changed, same)] == ["created", "configured", "unchanged"]
    assert rules.undo([new, changed, same]) == ([new], [changed])


@pytest.mark.parametrize(("spec", "address"), [
    ({"clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 30001}]}, ("host", 30001)),
    ({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}, ("10.96.0.9", 80)),
    ({"clusterIP": "None", "ports": [{"port": 80}]}, None),
    ({"clusterIP": "10.96.0.9", "ports": [{"port": 53, "protocol": "UDP"}]}, None),
])  # fmt: skip
def test_where_a_service_is_reached(spec: dict, address: object) -> None:
    assert rules.service_address({"spec": spec}, "host") == address
