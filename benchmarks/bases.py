"""Base images from locked packages, beside mmdebstrap."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks import measure
from benchmarks.measure import Sample

if TYPE_CHECKING:
    from benchmarks.cases import Bench

LEFT_OUT = ("man", "locale", "doc", "groff", "info", "lintian", "linda")


def case(bench: Bench) -> dict[str, Any]:
    """Assemble a locked base anew, packages present; the peer makes the same Debian."""
    peer: list[Sample] = []
    ours: dict[str, list[Sample]] = {"debian#slim": [], "minimal": []}
    sizes: dict[str, list[int]] = {"debian#slim": [], "minimal": [], "mmdebstrap": []}
    for name in ours:
        lock = str(bench.scratch / f"{name}.lock.json")
        bench.underway("base", "lock", name, "--lock", lock)
        bench.underway("base", "build", name, "--lock", lock)
    mmdebstrap = _mmdebstrap(bench)
    for _ in range(min(bench.runs, 3)):
        for name, samples in ours.items():
            target = bench.scratch / "base.tar"
            lock = str(bench.scratch / f"{name}.lock.json")
            samples.append(bench.underway(
                "base", "build", name, "--lock", lock, "--no-cache",
                "--output", f"type=oci,dest={target}",
            ))  # fmt: skip
            sizes[name].append(target.stat().st_size)
        target = bench.scratch / "peer.tar.gz"
        target.unlink(missing_ok=True)
        peer.append(measure.command([*mmdebstrap, "bookworm", str(target), _sources(bench)]))
        sizes["mmdebstrap"].append(target.stat().st_size)
    rows = [{"base": "base", "time": "time", "cpu": "CPU", "size": "compressed", "goal": "goal"}]
    for title, samples, size, goal in (
        ("ours, minimal (no apt)", ours["minimal"], sizes["minimal"], "≤ 5 s, ≤ 30 MB"),
        ("ours, debian-slim", ours["debian#slim"], sizes["debian#slim"], ""),
        ("mmdebstrap, minbase, as slim", peer, sizes["mmdebstrap"], ""),
    ):
        rows.append({
            "base": title,
            "time": f"{measure.median(samples):.1f} s",
            "cpu": f"{measure.cpu(samples):.1f} s",
            "size": f"{statistics.median(size) / 1e6:.1f} MB",
            "goal": goal,
        })  # fmt: skip
    return {
        "title": "A Debian base",
        "how": "`underway base build --no-cache` of a lock, its packages present, as an OCI "
        "archive, beside Debian's mmdebstrap with the same files left out, as a gzipped tar; "
        "it fetches packages from a mirror on the same network each time, and runs their scripts.",
        "rows": rows,
        "samples": {"mmdebstrap": peer, **{f"ours {name}": s for name, s in ours.items()}},
    }


def _sources(bench: Bench) -> str:
    from underway.capabilities.build.backend.debian import archives

    file = bench.scratch / "sources.list"
    file.write_text("".join(
        f"deb [signed-by={each.keyring}] {each.uri} {each.suite} {each.components}\n"
        for each in archives.of_machine("bookworm")
    ))  # fmt: skip
    return str(file)


def _mmdebstrap(bench: Bench) -> list[str]:
    from underway.capabilities.build.backend import machine

    settings = machine.apt_configuration().splitlines()
    return [
        "mmdebstrap", "--mode=root", "--variant=minbase", "--include=tzdata",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        *(f"--aptopt={line.rstrip(';')}" for line in settings if "CAInfo" not in line),
    ]  # fmt: skip
