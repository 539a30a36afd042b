"""Measures the platform beside its peers and renders docs/benchmarks.md.

    benchmarks/run.py [--only NAME,NAME] [--runs N]

Peer and ours take turns within one run. Raw samples are kept in benchmarks/results/<name>.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform as machine
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import cases

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Made by `make bench`, which rewrites this page. Peer and ours take turns in one run on one machine;
medians, and the 99th percentile (of few runs: the slowest). Trust ratios more than absolute times.
Raw samples: `benchmarks/results/`.
"""


def encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(type(value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(cases.CASES))
    parser.add_argument("--runs", type=int, default=7)
    chosen = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="underway-bench-") as scratch:
        bench = cases.Bench(Path(scratch), chosen.runs)
        try:
            for name in chosen.only.split(","):
                print(f"measuring {name}", flush=True)
                result = cases.CASES[name](bench)
                result |= {
                    "date": datetime.now(UTC).strftime("%Y-%m-%d"),  # noqa: TID251
                    "machine": f"{os.cpu_count()} cores, Linux {machine.release()}",
                }
                text = json.dumps(result, default=encode, indent=1)
                (RESULTS / f"{name}.json").write_text(text + "\n")
        finally:
            bench.close()
    render()


def render() -> None:
    parts = [HEAD]
    for name in cases.CASES:
        file = RESULTS / f"{name}.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        parts.append(f"## {result['title']}\n")
        parts.append(f"{result['date']}, {result['machine']}. {result['how']}\n")
        rows = result["rows"]
        parts.append("| " + " | ".join(rows[0].values()) + " |")
        parts.append("|" + "---|" * len(rows[0]))
        parts += ["| " + " | ".join(row.values()) + " |" for row in rows[1:]]
        parts.append("")
    PAGE.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
