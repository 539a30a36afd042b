"""Builds beside Debian's buildah: two stages of 3,000 files, ten RUN steps, one large layer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks import measure
from benchmarks.measure import Sample
from underway.base.home import Home
from underway.capabilities.build.backend.bases import base_images

STORES = {"tmpfs": Path("/dev/shm"), "disk": Path("/var/tmp")}
LARGE_MIB = 1024
STAGES = """FROM {base} AS build
WORKDIR /work
COPY src ./src
RUN mkdir out && for i in $(seq 2000); do echo "object $i" > out/$i.o; done && cat src/*/* > out/all

FROM {base}
COPY --from=build /work/out /app/out
COPY src /app/src
CMD ["cat", "/app/out/all"]
"""
STEPS = "FROM {base}\nCOPY src/d00 /files\n" + "".join(
    f"RUN echo step {number} > /out-{number}\n" for number in range(10)
)


class Platform(Protocol):
    """What of ``cases.Bench`` this needs."""

    runs: int
    environment: dict[str, str]


def case(bench: Platform) -> dict[str, Any]:
    """Cold, unchanged and edited builds on tmpfs and on disk, taking turns with buildah."""
    samples: dict[str, list[Sample]] = {}
    rows = [{"store": "store", "build": "build", "ours": "ours", "p99": "p99",
             "buildah": "buildah", "ratio": "ratio", "cpu": "CPU ours / buildah"}]  # fmt: skip
    for store, folder in STORES.items():
        with tempfile.TemporaryDirectory(prefix="underway-bench-build-", dir=folder) as made:
            found = _Pair(bench, Path(made)).measured()
        for name, (ours, peer) in found.items():
            rows.append(_row(store, name, ours, peer))
            samples |= {f"{store} {name} ours": ours, f"{store} {name} buildah": peer}
    peak_mb = _peak(bench)
    rows.append({"store": "tmpfs", "build": f"peak memory, a layer of {LARGE_MIB} MiB",
                 "ours": f"{peak_mb} MB", "p99": "", "buildah": "", "ratio": "",
                 "cpu": ""})  # fmt: skip
    return {
        "title": "Building in stages",
        "how": "Two Debian-based stages of 1,000 source and 2,000 generated files, and ten RUN "
        "steps on BusyBox; bases present, nothing pushed. Ours: `underway build` from the "
        "command's start, Python's own included. Peer: `buildah bud --isolation chroot --layers`, "
        "overlay storage in the same directory. Goals: cold 1.5 s, unchanged 0.15 s, edited 0.7 s, "
        "ten steps 0.8 s, 200 MB.",
        "rows": rows,
        "samples": samples | {"peak_mb": peak_mb},
    }


class _Pair:
    """The same builds by both."""

    def __init__(self, bench: Platform, folder: Path) -> None:
        self._runs, self._folder = bench.runs, folder
        self._environment = {**bench.environment, "UNDERWAY_HOME": str(folder / "home")}
        self._context = folder / "context"
        for number in range(1000):
            place = self._context / "src" / f"d{number % 20:02}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"f{number:04}.txt").write_text(f"line {number}\n" * 60)
        self._edits = 0

    def measured(self) -> dict[str, tuple[list[Sample], list[Sample]]]:
        try:
            return self._measured()
        finally:
            command = ["buildah", *self._stores(), "rmi", "--all", "--force"]
            subprocess.run(command, capture_output=True, check=False)

    def _measured(self) -> dict[str, tuple[list[Sample], list[Sample]]]:
        stages = self._builders("debian", STAGES)
        steps = self._builders("busybox", STEPS)
        found: dict[str, tuple[list[Sample], list[Sample]]] = {}

        def turn(name: str, builders: tuple[Callable[[bool], Sample], ...], cold: bool) -> None:
            for place, build in enumerate(builders):
                found.setdefault(name, ([], []))[place].append(build(cold))

        for build in (*stages, *steps):
            build(False)
        for _ in range(self._runs):
            turn("two stages, cold", stages, True)
            for build in stages:
                build(False)
            turn("two stages, unchanged", stages, False)
            self._edit()
            turn("two stages, one file edited", stages, False)
            turn("ten RUN steps, cold", steps, True)
        return found

    def _edit(self) -> None:
        self._edits += 1
        (self._context / "src/d00/f0000.txt").write_text(f"edit {self._edits}\n")

    def _builders(self, base: str, text: str) -> tuple[Callable[[bool], Sample], ...]:
        ours, peers = self._folder / f"{base}.ours", self._folder / f"{base}.buildah"
        ours.write_text(text.format(base=base))
        peers.write_text(text.format(base=self._imported(base)))
        command = [sys.executable, "-m", "underway.dist.main", "build", str(self._context), "-q",
                   "-f", str(ours), "-t", f"bench/{base}", "--no-push"]  # fmt: skip
        peer = ["buildah", *self._stores(), "bud", "-q", "--isolation", "chroot",
                "--pull-never", "--layers", "-f", str(peers), "-t", f"bench-{base}"]  # fmt: skip

        def build(cold: bool) -> Sample:
            fresh = ["--no-cache"] if cold else []
            return measure.command([*command, *fresh], self._environment)

        def build_peer(cold: bool) -> Sample:
            fresh = ["--no-cache"] if cold else []
            return measure.command([*peer, *fresh, str(self._context)], self._environment)

        return build, build_peer

    def _imported(self, base: str) -> str:
        layout = self._folder / f"{base}.layout"
        home = Home(self._folder / "home")
        os.environ.setdefault("UNDERWAY_BASE_CACHE", self._environment["UNDERWAY_BASE_CACHE"])
        base_images(home).provide(f"docker.io/library/{base}:latest", layout, lambda _line: None)
        done = subprocess.run(
            ["buildah", *self._stores(), "pull", "-q", f"oci:{layout}:latest"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def _stores(self) -> list[str]:
        place = self._folder
        return ["--root", str(place / "storage"), "--runroot", str(place / "runroot")]


def _peak(bench: Platform) -> int:
    """The most memory a build took at once, in MB, that made one large layer."""
    with tempfile.TemporaryDirectory(prefix="underway-bench-large-", dir="/dev/shm") as made:
        context = Path(made) / "context"
        context.mkdir()
        (context / "Dockerfile").write_text(
            f"FROM busybox\nRUN dd if=/dev/urandom of=/large bs=1M count={LARGE_MIB}\n"
        )
        environment = {**bench.environment, "UNDERWAY_HOME": f"{made}/home"}
        script = (
            "import resource, subprocess, sys\n"
            "subprocess.run(sys.argv[1:], check=True, capture_output=True)\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, sys.executable, "-m", "underway.dist.main", "build",
             str(context), "-t", "bench/large", "--no-push", "-q"],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        shutil.rmtree(Path(made) / "home", ignore_errors=True)
    return int(done.stdout) * 1024 // 1_000_000


def _row(store: str, name: str, ours: list[Sample], peer: list[Sample]) -> dict[str, str]:
    return {
        "store": store,
        "build": name,
        "ours": f"{measure.median(ours):.2f} s",
        "p99": f"{measure.p99(ours):.2f} s",
        "buildah": f"{measure.median(peer):.2f} s",
        "ratio": f"{measure.median(ours) / measure.median(peer):.2f}",
        "cpu": f"{measure.cpu(ours):.2f} s / {measure.cpu(peer):.2f} s",
    }
