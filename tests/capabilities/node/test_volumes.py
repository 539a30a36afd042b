"""Volumes on disk: whose they become, and where links in them lead."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from underway.base.errors import BadRequest, NotFound
from underway.base.home import Home
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.backend.volumes import Volumes, give_to_group

pytestmark = pytest.mark.privileged


def pod(volume: dict, **security) -> dict:
    spec = {"volumes": [{"name": "data", **volume}], "securityContext": security}
    return {"metadata": {"uid": "u1", "name": "p", "namespace": "default"}, "spec": spec}


def persistent(path: Path, **spec) -> dict:
    return {"spec": {"local": {"path": str(path)}, **spec}}


def prepare(tmp_path: Path, volume: dict, claims: dict, **security) -> dict[str, Path]:
    volumes = Volumes(Layout(Home(tmp_path / "home")))
    return volumes.prepare(pod(volume, **security), {}, claims)


def test_a_volume_is_given_to_a_group_without_following_links(tmp_path):
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    (volume / "inner").mkdir(parents=True)
    (volume / "inner" / "file").write_text("x")
    (volume / "inner" / "file").chmod(0o600)
    outside.mkdir()
    (outside / "precious").write_text("x")
    (volume / "inner" / "out").symlink_to(outside)
    (volume / "file-out").symlink_to(outside / "precious")
    give_to_group(volume, 2000, whole=True)
    file = (volume / "inner" / "file").stat()
    assert (file.st_gid, stat.S_IMODE(file.st_mode)) == (2000, 0o660)
    for directory in (volume, volume / "inner"):
        found = directory.stat()
        assert found.st_gid == 2000
        assert found.st_mode & stat.S_ISGID
    assert outside.stat().st_gid == (outside / "precious").stat().st_gid == os.getgid()


def test_on_root_mismatch_a_volume_that_is_the_groups_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path, -1, 2000)
    tmp_path.chmod(0o2770)
    give_to_group(tmp_path, 2000, whole=False)
    assert (tmp_path / "file").stat().st_gid != 2000
    give_to_group(tmp_path, 2000, whole=True)
    assert (tmp_path / "file").stat().st_gid == 2000


def test_the_claim_of_an_ephemeral_volume_is_named_after_its_pod(tmp_path):
    (tmp_path / "disk").mkdir()
    source = {"ephemeral": {"volumeClaimTemplate": {"spec": {}}}}
    found = prepare(tmp_path, source, {"p-data": persistent(tmp_path / "disk")})
    assert found == {"data": tmp_path / "disk"}


def test_a_volume_only_read_keeps_its_owner(tmp_path):
    (tmp_path / "disk").mkdir()
    source = {"persistentVolumeClaim": {"claimName": "c", "readOnly": True}}
    prepare(tmp_path, source, {"c": persistent(tmp_path / "disk")}, fsGroup=2000)
    assert (tmp_path / "disk").stat().st_gid != 2000


def test_what_cannot_be_mounted_is_told(tmp_path):
    source = {"persistentVolumeClaim": {"claimName": "c"}}
    with pytest.raises(NotFound, match="not found or not bound"):
        prepare(tmp_path, source, {})
    with pytest.raises(BadRequest, match="raw block"):
        prepare(tmp_path, source, {"c": persistent(tmp_path, volumeMode="Block")})
    with pytest.raises(NotFound, match="does not exist"):
        prepare(tmp_path, source, {"c": persistent(tmp_path / "gone")})
