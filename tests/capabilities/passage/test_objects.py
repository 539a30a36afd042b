from __future__ import annotations

import pytest

from underway.api.resources import DEPLOYMENTS
from underway.base.errors import BadRequest
from underway.capabilities.passage.model import (
    APPLICATION_LABEL,
    PASSAGE_ANNOTATION,
    Applied,
    Reference,
)
from underway.capabilities.passage.rules import objects

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


@pytest.mark.parametrize(("directory", "name"), [
    ("Guest Book", "guest-book"), ("x" * 60, "x" * 40), ("---", "app"), ("My_App.v2", "my-app-v2"),
])  # fmt: skip
def test_a_directory_gives_a_valid_name(directory: str, name: str) -> None:
    assert objects.application_name("", directory) == name


@pytest.mark.parametrize("name", ["Upper", "-x", "x" * 41, "a_b", "é"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="--name"):
        objects.application_name(name, "dir")


def test_rendering_puts_image_and_passage_in_place() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
               "spec": {"selector": {"app": "web"}}}  # fmt: skip
    rendered = objects.render(
        [DEPLOYMENT, service], image="r/web@sha256:1", passage="web-1", application="web"
    )
    template = rendered[0]["spec"]["template"]
    assert template["spec"]["containers"][0]["image"] == "r/web@sha256:1"
    assert template["metadata"]["annotations"] == {PASSAGE_ANNOTATION: "web-1"}
    assert [obj["metadata"]["labels"][APPLICATION_LABEL] for obj in rendered] == ["web", "web"]
    assert objects.front_service(rendered, "web-1") is rendered[1]
    assert "annotations" not in DEPLOYMENT["metadata"]


def test_manifests_without_the_image_are_refused() -> None:
    with pytest.raises(BadRequest, match="no manifest has the image"):
        objects.render([{"kind": "Service"}], image="i", passage="p", application="a")


def applied(name: str, before: str | None, after: str) -> Applied:
    def version(text: str) -> dict:
        return {"metadata": {"name": name, "resourceVersion": text}}

    return Applied(DEPLOYMENTS, None if before is None else version(before), version(after))


def test_undoing_deletes_what_is_new_and_restores_what_changed() -> None:
    new, changed, same = applied("a", None, "1"), applied("b", "1", "2"), applied("c", "1", "1")
    assert [each.verb for each in (new, changed, same)] == ["created", "configured", "unchanged"]
    assert objects.undo([new, changed, same]) == ([new], [changed])


@pytest.mark.parametrize(("spec", "address"), [
    ({"clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 30001}]}, ("host", 30001)),
    ({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}, ("10.96.0.9", 80)),
    ({"clusterIP": "None", "ports": [{"port": 80}]}, None),
    ({"clusterIP": "10.96.0.9", "ports": [{"port": 53, "protocol": "UDP"}]}, None),
])  # fmt: skip
def test_where_a_service_is_reached(spec: dict, address: object) -> None:
    assert objects.service_address({"spec": spec}, "host") == address


def test_definitions_go_before_what_needs_them() -> None:
    kinds = ["Widget", "Deployment", "ConfigMap", "CustomResourceDefinition", "Namespace"]
    documents = [{**DEPLOYMENT, "kind": kind} for kind in kinds]
    rendered = objects.render(documents, image="i", passage="p", application="a")
    assert [obj["kind"] for obj in rendered] == [
        "Namespace", "CustomResourceDefinition", "ConfigMap", "Widget", "Deployment",
    ]  # fmt: skip


def test_a_cron_jobs_template_is_marked_where_it_stands() -> None:
    cron = {
        "kind": "CronJob",
        "metadata": {"name": "nightly"},
        "spec": {"jobTemplate": {"spec": {"template": DEPLOYMENT["spec"]["template"]}}},
    }
    (obj,) = objects.render([cron], image="i", passage="p", application="a")
    template = obj["spec"]["jobTemplate"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {PASSAGE_ANNOTATION: "p"}


def reference(kind: str, name: str) -> Reference:
    return Reference("v1", kind, "n", name)


def passage(application: str, *references: Reference) -> dict:
    inventory = [each.as_dict() for each in references]
    return {"spec": {"application": application}, "status": {"inventory": inventory}}


def test_what_a_version_no_longer_has_is_left_behind_but_never_its_data() -> None:
    old, still = reference("Service", "old"), reference("Service", "still")
    data, foreign = reference("PersistentVolumeClaim", "data"), reference("Service", "foreign")
    passages = [passage("web", old, still, data), passage("other", foreign), passage("web")]
    assert objects.left_behind(passages, "web", [still]) == [old]
