"""The same Dockerfiles built by buildah and by us; our layouts read by skopeo."""

import json
import os
import shutil
import stat
import subprocess

import pytest

from underway.capabilities.build.backend import layout
from underway.capabilities.build.backend.bases import base_images
from underway.capabilities.build.backend.shelf import Shelf

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.peer,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root"),
    pytest.mark.skipif(not shutil.which("buildah"), reason="buildah is not installed"),
]

DOCKERFILES = {
    "runs": (
        "ARG BASE\nFROM $BASE\nENV A=1 B=\"two words\"\nRUN mkdir -p /d/e && echo $A $B > /d/e/f\n"
        "RUN rm /bin/yes && ln -s /bin/ls /link && chmod 4755 /d/e/f && ln /d/e/f /d/hard\n"
        "WORKDIR /w/deep\nRUN pwd > here\nUSER 12:34\nRUN id > /tmp/id\nCMD [\"a\", \"b\"]\n"
    ),
    "copies": (
        "ARG BASE\nFROM $BASE AS one\nCOPY . /all/\nRUN rm -r /all/sub\n"
        "FROM $BASE\nCOPY --from=one /all /from\nCOPY --chown=5:6 --chmod=640 a /owned\n"
        "COPY sub /existing/\nCOPY a.txt sub/b.txt /two/\nADD t.tar /tar/\nENTRYPOINT [\"x\"]\n"
    ),
    "config": (
        "ARG BASE\nFROM $BASE\nARG V=9\nLABEL one=1 two=\"$V\"\nEXPOSE 80 53/udp\nVOLUME /v\n"
        "STOPSIGNAL SIGQUIT\nENV P=$V:${Q:-q}\nENTRYPOINT run $P\nUSER nobody\n"
    ),
}  # fmt: skip
COMPARED = (
    "Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels", "StopSignal", "User", "Volumes",
    "WorkingDir",
)  # fmt: skip


def tree_of(root):
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        found[str(path.relative_to(root))] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            path.read_bytes() if kind == stat.S_IFREG else b"",
            str(path.readlink()) if path.is_symlink() else "",
        )
    # Both leave these to the container's runtime.
    for name in ("dev", "proc", "sys", "run", "etc/hosts", "etc/resolv.conf", "etc/hostname"):
        found.pop(name, None)
    return {name: each for name, each in found.items() if not name.startswith("run/")}


@pytest.fixture
def buildah(tmp_path):
    run = [
        "buildah", "--root", str(tmp_path / "storage"), "--runroot", str(tmp_path / "runroot"),
        "--storage-driver", "vfs",
    ]  # fmt: skip

    def call(*args):
        environment = {**os.environ, "TMPDIR": str(tmp_path), "BUILDAH_FORMAT": "oci"}
        done = subprocess.run(
            [*run, *args], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield call
    call("rmi", "--all", "--force")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_buildah_makes_the_same_files_and_config(yard, tmp_path, buildah, name):
    base = tmp_path / "base"
    base_images(yard.home).provide("docker.io/library/busybox:latest", base, lambda line: None)
    yard.write(a="a", **{"a.txt": "1", ".dockerignore": "*.skip\n", "x.skip": "1"})
    yard.put("sub/b.txt", "2", 0o750)
    subprocess.run(["tar", "-C", yard.context, "-cf", yard.context / "t.tar", "sub"], check=True)
    text = DOCKERFILES[name]
    yard.build(text, build_args={"BASE": "busybox"})
    file = tmp_path / "Dockerfile"
    buildah(
        "bud", "--isolation", "chroot", "--build-arg", f"BASE=oci:{base}", "-f", str(file),
        "-t", "peer", str(yard.context),
    )  # fmt: skip
    theirs = tmp_path / "theirs"
    buildah("push", "peer", f"oci:{theirs}")
    shelf = Shelf(yard.home)
    _image, documents = layout.read(theirs, shelf)
    shelf.images.add("docker.io/peer/theirs:1", documents.manifest, documents.config)
    mine, peers = yard.look(tree_of), yard.look(tree_of, "docker.io/peer/theirs:1")
    different = {n for n in mine.keys() | peers.keys() if mine.get(n) != peers.get(n)}
    assert {n: (mine.get(n), peers.get(n)) for n in different} == {}
    ours = {k: v for k, v in yard.config().items() if k in COMPARED}
    config = json.loads(documents.config)["config"]
    (config.get("Labels") or {}).pop("io.buildah.version", None)
    assert ours == {k: v for k, v in config.items() if k in COMPARED and v}


def test_skopeo_reads_our_layout_and_finds_nothing_wrong(yard, tmp_path):
    out = tmp_path / "layout"
    result = yard.build("FROM busybox\nRUN echo 1 > /x\nLABEL a=b\n", layout=out)
    shown = subprocess.run(
        ["skopeo", "inspect", f"oci:{out}:1"], capture_output=True, text=True, check=True
    )
    inspected = json.loads(shown.stdout)
    assert inspected["Digest"] == result.digest
    assert inspected["Labels"] == {"a": "b"}
    copied = tmp_path / "copied"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{out}:1", f"dir:{copied}"], check=True
    )
    assert (copied / "manifest.json").exists()
