"""What registries before the database kept in files is there afterwards."""

import json

from tests.capabilities.registry.conftest import Direct, descriptor, image

from underway.base.home import Home
from underway.wire import oci


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_files_become_rows_and_pull_as_before(tmp_path):
    root = tmp_path / "registry"
    layer, config = b"layer" * 9000, b"{}"
    manifest = json.dumps(image(descriptor("x", config), [descriptor("x", layer)])).encode()
    repository = root / "repositories" / "team" / "deep" / "app"
    for data in (layer, config, manifest):
        value = oci.digest_of(data)[7:]
        put(root / "blobs" / "sha256" / value[:2] / value, data)
        if data is not manifest:
            put(repository / "_blobs" / f"sha256-{value}", b"")
    put(repository / "_manifests" / f"sha256-{oci.digest_of(manifest)[7:]}", oci.MANIFEST.encode())
    put(repository / "_tags" / "v1", oci.digest_of(manifest).encode())
    put(root / "projects" / "team.json", b'{"name": "team", "public": true, "robots": []}')
    for _ in range(2):  # the second time there is a database
        direct = Direct(Home(tmp_path))
        assert direct.call("GET", "/v2/team/deep/app/manifests/v1").body == manifest
        blob = f"/v2/team/deep/app/blobs/{oci.digest_of(layer)}"
        assert direct.call("GET", blob, authorization="").body == layer
        assert direct.hub.projects.find("team").public
