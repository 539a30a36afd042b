"""What a shipment proves of its image, with whoever can, and that this never stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from underway.base.clock import SystemClock
from underway.base.errors import ServiceUnavailable
from underway.base.home import Settings
from underway.capabilities.passage import controller, crds
from underway.capabilities.passage.controller import Order, Shipment, Tools
from underway.capabilities.passage.rules import proofs
from underway.client import kubeconfig
from underway.kit.ports import (
    BuildRequest,
    BuildResult,
    FittedSource,
    ScanSummary,
    ShippedImage,
    Signed,
)
from underway.testing import Cluster

SETTINGS = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {a: $(IMAGE)}}"
DIGEST = f"sha256:{'0' * 64}"


class Fitter:
    def fit(self, root: Path, name: str, port: int | None) -> FittedSource:
        return FittedSource(root, "static", root / "Dockerfile", (root / "app.yaml",), 80)


class Builder:
    def build(self, request: BuildRequest, progress: object) -> BuildResult:
        return BuildResult(f"{request.tag}@{DIGEST}", DIGEST, "sha256:1")


class Quiet:
    def begin(self, step: str) -> None: ...

    def line(self, text: str) -> None: ...

    def end(self, step: str, message: str, seconds: float, *, failed: bool = False) -> None: ...


class Prover:
    """Scanner, signer and recorder in one; remembers what it was asked."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.shipped: list[tuple[ShippedImage, ScanSummary | None]] = []
        self._failure = failure

    def scan(self, reference: str, progress: object) -> ScanSummary:
        self.asked.append(f"scan {reference}")
        if self._failure:
            raise self._failure
        return ScanSummary(DIGEST, "stale", 3, {"High": 2}, 1, "2020-01-01T00:00:00Z", "sha256:2")

    def sign(self, reference: str) -> Signed:
        self.asked.append(f"sign {reference}")
        return Signed("sha256:3", "key")

    def attest(self, reference: str, kind: str, predicate: Mapping[str, object]) -> Signed:
        raise AssertionError("the recorder does this")

    def verify(self, reference: str) -> tuple[Signed, ...]:
        return ()

    def attestations(self, reference: str) -> tuple:
        return ()

    def record(self, image: ShippedImage, scan: ScanSummary | None) -> tuple[Signed, ...]:
        self.shipped.append((image, scan))
        return (Signed("sha256:4", "key", "me", "https://issuer"),)

    def deployed(self, reference: str, place: str) -> None:
        self.asked.append(f"deployed {place}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    definition = Path(crds.__file__).parent / "passages.yaml"
    with Cluster(nodes=0, capabilities=(), crds=[definition]) as cluster:
        yield cluster


def ship(cluster: Cluster, root: Path, prover: Prover) -> dict:
    (root / "app.yaml").write_text(SETTINGS)

    async def run() -> dict:
        client = kubeconfig.load(cluster.kubeconfig)
        tools = Tools(
            client, Settings(), Fitter(), Builder(), SystemClock(), prover, prover, prover
        )
        try:
            return await Shipment(Order(root, root.name, timeout_s=20), tools, Quiet()).ship()
        finally:
            await client.aclose()

    return asyncio.run(run())


def test_a_passage_shows_scan_signature_and_attestations(cluster: Cluster, tmp_path: Path) -> None:
    root = tmp_path / "proved"
    root.mkdir()
    prover = Prover()
    image = ship(cluster, root, prover)["status"]["image"]
    assert image["scan"]["status"] == "stale"
    assert image["scan"]["severities"] == {"High": 2}
    assert image["signatures"] == [{"digest": "sha256:3", "keyID": "key"}]
    assert image["attestations"] == [{"digest": "sha256:4", "keyID": "key", "identity": "me"}]
    assert prover.asked[-1] == "deployed default/proved"
    ((shipped, scan),) = prover.shipped
    assert shipped.digest == DIGEST
    assert scan is not None
    assert any("proves nothing" in line or "2 high" in line for line in proofs.lines(image))
    again = Prover()
    assert ship(cluster, root, again)["status"]["image"] == image
    assert again.asked == []


@pytest.mark.parametrize("failure", [ServiceUnavailable("no advisories"), ValueError("a bug")])
def test_a_scan_that_fails_stops_nothing(
    cluster: Cluster, tmp_path: Path, failure: Exception
) -> None:
    root = tmp_path / type(failure).__name__.lower()
    root.mkdir()
    prover = Prover(failure)
    status = ship(cluster, root, prover)["status"]
    assert status["phase"] == "Succeeded"
    scan = next(step for step in status["steps"] if step["name"] == "scan")
    assert scan["state"] == "Failed"
    assert str(failure) in scan["message"]
    assert "scan" not in status["image"]
    assert prover.shipped[0][1] is None


def test_a_scan_that_hangs_stops_nothing(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    root, freed = tmp_path / "hanging", threading.Event()
    root.mkdir()
    monkeypatch.setattr(controller, "_PROOF_S", 0.2)

    class Hanging(Prover):
        def scan(self, reference: str, progress: object) -> ScanSummary:
            freed.wait(60)
            raise ServiceUnavailable("too late")

    try:
        status = ship(cluster, root, Hanging())["status"]
    finally:
        freed.set()
    assert status["phase"] == "Succeeded"
    assert "not done after" in next(s for s in status["steps"] if s["name"] == "scan")["message"]


def test_only_a_complete_scan_says_that_nothing_is_known() -> None:
    clean = {"status": "complete", "packages": 1, "severities": {}}
    assert proofs.described(clean) == "1 packages: nothing known"
    assert "proves nothing" in proofs.described({**clean, "status": "unsupported"})
