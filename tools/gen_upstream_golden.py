"""Write tests/api/golden/upstream.json: what Kubernetes' own libraries make of random writes.

    python tools/gen_upstream_golden.py [SEED]

Needs Go and its module proxy. The cases keep away from two habits of upstream's libraries that its
typed API server hides: nulls where a map became empty, and directives left over in new values.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from underway.api import openapi
from underway.api.resources import DEPLOYMENTS

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "tests/api/golden/upstream.json"
PATCHES, SEQUENCES = 110, 45


class Cases:
    """Random deployments and patches of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def maybe(self, share: float = 0.5) -> bool:
        return self.random.random() < share

    def some(self, members: str) -> list[str]:
        return self.random.sample(members, self.random.randint(1, len(members)))

    def labels(self) -> dict[str, str]:
        return {name: self.random.choice("12") for name in self.some("kl")}

    def env(self) -> list[dict[str, str]]:
        return [{"name": name, "value": self.random.choice("12")} for name in self.some("EFG")]

    def container(self, name: str, known: set[str]) -> dict[str, Any]:
        found: dict[str, Any] = {"name": name}
        if self.maybe():
            found["image"] = self.random.choice(["i1", "i2"])
        if self.maybe(0.4):
            found["env"] = self.env()
        if self.maybe(0.3):
            ports = self.random.sample([80, 81, 82], 2)
            found["ports"] = [{"containerPort": port} for port in ports]
        if self.maybe(0.3):
            found["args"] = self.some("ab")
        if name in known and self.maybe(0.15):
            return {"$patch": "delete", "name": name}
        return found

    def containers(self, known: set[str]) -> dict[str, Any]:
        items = [self.container(name, known) for name in self.some("abc")]
        found: dict[str, Any] = {"containers": items}
        if known and self.maybe():
            kept = [c["name"] for c in items if "$patch" not in c]
            order = kept + [n for n in sorted(known) if n not in kept and self.maybe()]
            self.random.shuffle(order)
            items.sort(key=lambda c: order.index(c["name"]) if c["name"] in order else 9)
            found["$setElementOrder/containers"] = [{"name": name} for name in order]
            if not order:
                del found["$setElementOrder/containers"]
        return found

    def deployment(self, patched: dict[str, Any] | None = None) -> dict[str, Any]:
        metadata: dict[str, Any] = {"name": "w"}
        if self.maybe():
            metadata["labels"] = self.labels()
        if self.maybe(0.3):
            metadata["finalizers"] = self.some("fgh")
        elif patched and "finalizers" in patched["metadata"] and self.maybe():
            metadata["$deleteFromPrimitiveList/finalizers"] = self.some("fgh")
        spec: dict[str, Any] = {"replicas": self.random.randint(1, 2)}
        if self.maybe(0.3):
            spec["paused"] = True
        if self.maybe(0.3):
            spec["selector"] = {"matchLabels": self.labels()}
        if self.maybe(0.3):
            spec["strategy"] = {"type": "Recreate"}
            if patched and "strategy" in patched["spec"]:
                spec["strategy"]["$retainKeys"] = ["type"]
        if self.maybe(0.9):
            old = (patched or {}).get("spec", {}).get("template", {}).get("spec", {})
            below = self.containers({c["name"] for c in old.get("containers", ())})
            if self.maybe(0.4):
                below["nodeSelector"] = self.labels()
            if self.maybe(0.3):
                below["tolerations"] = [{"key": key} for key in self.some("ab")]
            if patched and "nodeSelector" in old and self.maybe(0.3):
                below["nodeSelector"] = None
            spec["template"] = {"spec": below}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}

    def patch(self) -> dict[str, Any]:
        original = self.deployment()
        return {"original": original, "patch": self.deployment(original)}

    def sequence(self) -> dict[str, Any]:
        return {
            "steps": [
                {
                    "op": self.random.choice(["apply", "apply", "update"]),
                    "manager": self.random.choice(["one", "two", "three"]),
                    "force": self.maybe(),
                    "obj": self.deployment(),
                }
                for _ in range(self.random.randint(2, 6))
            ]
        }


def main() -> None:
    cases = Cases(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    requests = [cases.patch() for _ in range(PATCHES)]
    requests += [cases.sequence() for _ in range(SEQUENCES)]
    with tempfile.TemporaryDirectory() as scratch:
        document = Path(scratch) / "apps.json"
        document.write_bytes(openapi.document("apps", "v1", [DEPLOYMENTS], {}))
        answers = subprocess.run(
            ["go", "run", ".", document],
            cwd=HERE / "upstream_golden",
            input="\n".join(map(json.dumps, requests)),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    lines = [
        json.dumps({**request, "upstream": json.loads(answer)}, separators=(",", ":"))
        for request, answer in zip(requests, answers, strict=True)
    ]
    OUTPUT.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{len(lines)} cases, {OUTPUT.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
