"""The capability as the platform runs it: with its own user and no more rights than its Role."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from underway.base.errors import Forbidden
from underway.capabilities.provenance.controller.policies import NAME
from underway.capabilities.provenance.model import VIOLATION_LABEL
from underway.testing import Cluster

DIGEST = f"sha256:{'1' * 64}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(capabilities=("workloads", "scheduler", "provenance")) as cluster:
        yield cluster


def pod(name: str, image: str) -> dict:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "main", "image": image}]}}  # fmt: skip


def test_its_role_suffices_to_register_refuse_label_and_tell(cluster: Cluster) -> None:
    client = cluster.client
    client.create(pod("old", f"shop@{DIGEST}"))
    client.wait_for("Pod", "old", lambda o: (o.get("status") or {}).get("phase") == "Running")
    # No registry answers in this cluster: nothing can be proved, so nothing passes.
    client.create({"apiVersion": "images.underway.dev/v1alpha1", "kind": "ImagePolicy",
                   "metadata": {"name": "signed"},
                   "spec": {"authorities": [{"name": "platform"}]}})  # fmt: skip
    told = client.wait_for("ImagePolicy", "signed", "Ready")
    assert told["status"]["violationCount"] == 1
    client.wait_for("Pod", "old", lambda o: VIOLATION_LABEL in (o["metadata"].get("labels") or {}))
    with pytest.raises(Forbidden, match="ImagePolicy signed"):
        client.create(pod("new", f"shop@{DIGEST}"))
    client.delete("ImagePolicy", "signed")
    client.wait_gone("ValidatingWebhookConfiguration", NAME)
    client.wait_gone("MutatingWebhookConfiguration", NAME)
    client.wait_for("Pod", "old", lambda o: VIOLATION_LABEL not in o["metadata"].get("labels", {}))
