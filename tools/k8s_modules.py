"""The Go modules that hold Kubernetes' type definitions, for the generators beside this file."""

import json
import subprocess
import tempfile
from pathlib import Path

MODULES = (
    "k8s.io/api",
    "k8s.io/apimachinery",
    "k8s.io/apiextensions-apiserver",
    "k8s.io/kube-aggregator",
)


def fetch(version: str) -> dict[str, Path]:
    """Module path -> its directory in Go's module cache, downloaded when missing."""
    found: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as outside_any_module:
        for module in MODULES:
            out = subprocess.run(
                ["go", "mod", "download", "-json", f"{module}@{version}"],
                cwd=outside_any_module,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            found[module] = Path(json.loads(out)["Dir"])
    return found


def proto_files(version: str) -> list[Path]:
    """Every generated.proto of the modules, in a stable order."""
    return sorted(
        path for folder in fetch(version).values() for path in folder.rglob("generated.proto")
    )
