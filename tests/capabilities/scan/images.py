"""Small images as OCI layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

DEBIAN = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n'


def layer(files: dict[str, str | bytes], *, executable: frozenset[str] = frozenset()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if name in executable else 0o644
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def status(**packages: str) -> str:
    entries = (
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n"
        for name, version in packages.items()
    )
    return "\n".join(entries)


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layout(root: Path, *layers: bytes) -> str:
    """Write an image of these layers; gives its manifest's digest."""
    blobs = root / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes) -> dict[str, object]:
        (blobs / digest(data).partition(":")[2]).write_bytes(data)
        return {"digest": digest(data), "size": len(data)}

    packed = [gzip.compress(each, 1, mtime=0) for each in layers]
    config = {"rootfs": {"type": "layers", "diff_ids": [digest(each) for each in layers]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            **put(json.dumps(config).encode()),
        },
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **put(each)}
            for each in packed
        ],
    }
    described = put(json.dumps(manifest).encode())
    index = {"schemaVersion": 2, "manifests": [{"mediaType": manifest["mediaType"], **described}]}
    (root / "index.json").write_text(json.dumps(index))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return str(described["digest"])
