"""Admission on a real cluster, over real TLS; signatures are real, only the registry is a table."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from tests.capabilities.provenance.keys import Key

from underway.base.errors import Forbidden, NotFound, ServiceUnavailable, UnderwayError
from underway.base.home import Home
from underway.capabilities.provenance import crds
from underway.capabilities.provenance.backend.evidence import EvidenceSource, signed_by
from underway.capabilities.provenance.controller.policies import NAME, install
from underway.capabilities.provenance.model import (
    BREAK_GLASS,
    VIOLATION_LABEL,
    Evidence,
    Policy,
)
from underway.client import kubeconfig
from underway.kit.ports import ScanSummary, Vulnerability
from underway.reconcile import Manager
from underway.testing import Cluster
from underway.wire.http import Request


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


class Registry(EvidenceSource):
    """Tags, signatures and findings in tables."""

    def __init__(self) -> None:
        self.tags = {"shop:1": digest(1), "bad:1": digest(2), "unsigned:1": digest(3)}
        self.key = Key()
        self.signed = {digest(1), digest(2)}
        self.failure: UnderwayError | None = None
        self.gathered = 0

    def resolve(self, image: str) -> str:
        if self.failure:
            raise self.failure
        if image not in self.tags:
            raise NotFound(f"there is no image {image}")
        return self.tags[image]

    def gather(self, image: str, digest_: str, policies: Iterable[Policy]) -> Evidence:
        self.gathered += 1
        layers = [self.key.signature(digest_)] if digest_ in self.signed else []

        class Attached:
            def layers(self, suffix: str) -> list:
                return layers if suffix == "sig" else []

            def envelopes(self) -> list:
                return []

        bad = (Vulnerability("CVE-7", "Critical", "zlib", "1.2", "1.3"),)
        found = bad if digest_ == digest(2) else ()
        scan = ScanSummary(digest_, "complete", 1, {}, 0, "", found=found)
        vouched = tuple(signed_by(Attached(), digest_, [self.key.pem]))
        return Evidence(digest_, scan, "", vouched)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry()


@pytest.fixture(scope="module")
def cluster(registry: Registry) -> Iterator[Cluster]:
    def controllers(manager: Manager, home: Home) -> None:
        install(manager, registry, "127.0.0.1")

    definitions = Path(crds.__file__).parent / "policies.yaml"
    with Cluster(
        capabilities=("workloads", "scheduler"), controllers=[controllers], crds=[definitions]
    ) as cluster:
        yield cluster


def policy(name: str, **spec: object) -> dict:
    return {"apiVersion": "images.underway.dev/v1alpha1", "kind": "ImagePolicy",
            "metadata": {"name": name}, "spec": spec}  # fmt: skip


def pod(name: str, image: str, **annotations: str) -> dict:
    return {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"containers": [{"name": "main", "image": image}]}}  # fmt: skip


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def demand(cluster: Cluster, registry: Registry) -> Iterator:
    """Make a policy and wait until it counts; all are gone afterwards."""
    made: list[dict] = []

    def make(obj: dict) -> dict:
        (found,) = cluster.client.create(obj)
        made.append(found)
        kind = "validatingwebhookconfiguration"
        cluster.client.wait_for(
            kind, NAME, lambda o: o["webhooks"][0]["clientConfig"].get("caBundle")
        )
        cluster.client.wait_for(
            "mutatingwebhookconfiguration",
            NAME,
            lambda o: o["webhooks"][0]["clientConfig"].get("caBundle"),
        )
        return cluster.client.wait_for(
            found["kind"],
            found["metadata"]["name"],
            lambda o: (o.get("status") or {}).get("conditions"),
        )

    yield make
    for each in made:
        cluster.client.delete(each["kind"], each["metadata"]["name"])
    cluster.client.wait_gone("validatingwebhookconfiguration", NAME)
    for each in cluster.client.list("Pod", "default"):
        cluster.client.delete("Pod", each["metadata"]["name"])
    registry.failure = None


def test_pods_are_pinned_and_what_is_bad_is_refused_with_policy_rule_and_remedy(
    cluster: Cluster, registry: Registry, demand
) -> None:
    demand(policy("strict", vulnerabilities={"maximumSeverity": "High"},
                  authorities=[{"name": "release", "keys": [registry.key.pem]}]))  # fmt: skip
    (made,) = cluster.client.create(pod("good", "shop:1"))
    assert made["spec"]["containers"][0]["image"] == f"shop:1@{digest(1)}"
    gathered = registry.gathered
    cluster.client.create(pod("again", "shop:1"))
    assert registry.gathered == gathered  # remembered by digest and policies
    with pytest.raises(Forbidden) as refused:
        cluster.client.create(pod("bad", "bad:1"))
    for part in (
        "ImagePolicy strict",
        "rule vulnerabilities",
        "CVE-7 Critical",
        "update to zlib 1.3",
    ):
        assert part in refused.value.message
    with pytest.raises(Forbidden, match="rule release: no signature by the policy's keys"):
        cluster.client.create(pod("unsigned", "unsigned:1"))
    template = pod("bad", "bad:1")
    labels = {"labels": {"app": "bad"}}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bad"},
                  "spec": {"selector": {"matchLabels": {"app": "bad"}},
                           "template": {"metadata": labels, "spec": template["spec"]}}}  # fmt: skip
    with pytest.raises(Forbidden, match="CVE-7"):
        cluster.client.create(deployment)


def test_a_tag_that_is_moved_after_the_check_changes_nothing(
    cluster: Cluster, registry: Registry, demand
) -> None:
    demand(policy("strict", vulnerabilities={"maximumSeverity": "High"}))
    registry.tags["moving:1"] = digest(1)
    cluster.client.create(pod("moving", "moving:1"))
    registry.tags["moving:1"] = digest(2)
    image = cluster.client.get("Pod", "moving")["spec"]["containers"][0]["image"]
    assert image == f"moving:1@{digest(1)}"
    with pytest.raises(Forbidden, match="CVE-7"):
        cluster.client.create(pod("moved", "moving:1"))


def test_what_cannot_be_checked_is_refused(cluster: Cluster, registry: Registry, demand) -> None:
    demand(policy("strict", vulnerabilities={"maximumSeverity": "Critical"}))
    with pytest.raises(Forbidden, match="there is no image"):
        cluster.client.create(pod("none", "none:1"))
    registry.failure = ServiceUnavailable("the registry is away")
    with pytest.raises(Forbidden, match="the registry is away"):
        cluster.client.create(pod("away", "shop:1"))


def test_a_malformed_selector_refuses_everything(cluster: Cluster, demand) -> None:
    made = demand(policy("typo", namespaceSelector={"matchLables": {"a": "b"}}))
    assert made["status"]["conditions"][0]["status"] == "False"
    with pytest.raises(Forbidden, match="namespaceSelector has no matchLables"):
        cluster.client.create(pod("any", "shop:1"))


def test_other_namespaces_and_images_are_left_alone(cluster: Cluster, demand) -> None:
    demand(policy("elsewhere", namespaceSelector={"matchLabels": {"env": "prod"}},
                  vulnerabilities={"maximumSeverity": "None"}))  # fmt: skip
    demand(
        policy("others", images=["docker.io/acme/**"], vulnerabilities={"maximumSeverity": "None"})
    )
    (made,) = cluster.client.create(pod("free", "bad:1"))
    assert made["spec"]["containers"][0]["image"] == "bad:1"


def test_the_glass_is_broken_by_those_who_may_and_it_is_told(cluster: Cluster, demand) -> None:
    demand(policy("strict", vulnerabilities={"maximumSeverity": "High"}))
    cluster.client.create(pod("urgent", "bad:1", **{BREAK_GLASS: "outage 17"}))
    events = lambda: [each for each in cluster.client.list("Event", "default")  # noqa: E731
                      if each["reason"] == "BreakGlass"]  # fmt: skip
    until(events)
    assert "outage 17" in events()[0]["message"]
    with pytest.raises(Forbidden, match="CVE-7"):
        cluster.client.create(pod("careless", "bad:1", **{BREAK_GLASS: " "}))


def as_joe(cluster: Cluster, method: str, path: str, body: dict) -> int:
    """A call of someone who may write pods and deployments, and no more; gives the status."""

    async def run() -> int:
        transport = kubeconfig.transport(cluster.kubeconfig)
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"impersonate-user": "joe", "content-type": kind}
        try:
            data = json.dumps(body).encode()
            answer = await transport(Request(method, path, "", headers, data))
            await answer.read()
            return answer.status
        finally:
            await transport.aclose()

    return asyncio.run(run())


def test_the_glass_is_not_broken_by_those_who_may_not(cluster: Cluster, demand) -> None:
    cluster.client.apply("""
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: writer},
 rules: [{apiGroups: ["", apps], resources: [pods, deployments], verbs: [create, patch, get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: writer},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: writer},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: joe}]}
""")  # fmt: skip
    template = {"metadata": {"labels": {"app": "older"}}, "spec": pod("x", "bad:1")["spec"]}
    older = {"apiVersion": "apps/v1", "kind": "Deployment",
             "metadata": {"name": "older", "namespace": "default"},
             "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "older"}},
                      "template": template}}  # fmt: skip
    cluster.client.create(older)
    demand(policy("strict", vulnerabilities={"maximumSeverity": "High"}))
    pods, glass = "/api/v1/namespaces/default/pods", {BREAK_GLASS: "me"}
    assert as_joe(cluster, "POST", pods, pod("fine", "shop:1")) == 201
    assert as_joe(cluster, "POST", pods, pod("sly", "bad:1", **glass)) == 403
    # What was there before the policy may be scaled, but the glass is not broken for its pods.
    one = "/apis/apps/v1/namespaces/default/deployments/older"
    assert as_joe(cluster, "PATCH", one, {"spec": {"paused": True}}) == 200
    slyly = {"spec": {"template": {"metadata": {"annotations": glass}}}}
    assert as_joe(cluster, "PATCH", one, slyly) == 403
    cluster.client.delete("Deployment", "older")


def test_what_runs_already_is_judged_again_and_stays(cluster: Cluster, demand) -> None:
    cluster.client.create(pod("old", f"bad@{digest(2)}"))
    cluster.client.wait_for(
        "Pod", "old", lambda o: (o.get("status") or {}).get("phase") == "Running"
    )
    demand(policy("late", vulnerabilities={"maximumSeverity": "High"}))
    found = cluster.client.wait_for(
        "Pod", "old", lambda o: VIOLATION_LABEL in (o["metadata"].get("labels") or {})
    )
    assert found["status"]["phase"] == "Running"
    told = cluster.client.wait_for(
        "ImagePolicy", "late", lambda o: (o.get("status") or {}).get("violationCount")
    )
    assert told["status"]["violations"][0]["pod"] == "default/old"


def test_warnings_only(cluster: Cluster, demand) -> None:
    demand(policy("soft", mode="Warn", vulnerabilities={"maximumSeverity": "High"}))
    cluster.client.create(pod("warned", "bad:1"))


@pytest.mark.parametrize("obj", [
    {"apiVersion": "kritis.grafeas.io/v1beta1", "kind": "ImageSecurityPolicy",
     "metadata": {"name": "theirs"},
     "spec": {"packageVulnerabilityRequirements": {"maximumSeverity": "HIGH"}}},
    {"apiVersion": "policy.sigstore.dev/v1beta1", "kind": "ClusterImagePolicy",
     "metadata": {"name": "theirs"},
     "spec": {"images": [{"glob": "bad*"}], "authorities": [{"static": {"action": "fail"}}]}},
])  # fmt: skip
def test_policies_of_kritis_and_sigstore_count(cluster: Cluster, demand, obj: dict) -> None:
    demand(obj)
    with pytest.raises(Forbidden, match=f"{obj['kind']} .*theirs"):
        cluster.client.create(pod("bad", "bad:1"))
