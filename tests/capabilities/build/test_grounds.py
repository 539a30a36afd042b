"""Root with overlay mounts, a user namespace, and in place: one Dockerfile, one digest."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import underway
from underway.base.errors import BadRequest, Forbidden
from underway.base.home import Home
from underway.capabilities.build.backend import in_place as place
from underway.capabilities.build.backend.bases import base_images
from underway.capabilities.build.backend.builder import Builder, Extras
from underway.capabilities.build.backend.in_place import InPlace
from underway.kit.ports import BuildRequest
from underway.linux.layers import LayerStore

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root"),
]

TEXT = """FROM busybox AS a
RUN echo a > /a; mkdir -p /d/e; chmod 700 /d; chmod 4755 /a; mkdir /gone; touch /gone/x
RUN rm -r /gone && echo more >> /d/e/more
FROM busybox AS b
COPY sub /opq
RUN rm -r /opq && mkdir /opq && echo c > /opq/c && ln /opq/c /opq/h && ln -s c /opq/l
FROM busybox
COPY --from=a /a /d /
COPY --from=b /opq /opq
WORKDIR /w/x
RUN chmod 777 . && echo $HOME > home
RUN --mount=type=secret,id=s cat /run/secrets/s > /dev/null; echo y > y; rm -f /a
"""
OWNERS = "RUN chown 5:6 /w/x/y\nUSER 12:13\nRUN id > id\n"
ENTER = """
import ctypes, os, sys
first, count = int(sys.argv[1]), int(sys.argv[2])
ready, go = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    os.setresgid(first, first, first); os.setgroups([]); os.setresuid(first, first, first)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(4, 1, 0, 0, 0)
    assert libc.unshare(0x10000000) == 0
    os.write(ready[1], b"1"); os.read(go[0], 1)
    os.setresgid(0, 0, 0); os.setresuid(0, 0, 0)
    os.execvp(sys.argv[3], sys.argv[3:])
os.read(ready[0], 1)
for name in ("uid_map", "gid_map"):
    open(f"/proc/{pid}/{name}", "w").write(f"0 {first} {count}")
os.write(go[1], b"1")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.fixture
def prepared(yard, tmp_path):
    """A yard with a context, and BusyBox as a layout that everybody may read."""
    yard.put("sub/f", "text")
    yard.put("sub/deep/g", "text")
    base = tmp_path / "busybox"
    base_images(yard.home).provide("docker.io/library/busybox:latest", base, lambda _line: None)
    subprocess.run(["chmod", "-R", "a+rX", str(tmp_path)], check=True)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and "pytest" in parent.name:
            parent.chmod(0o755)
    return yard, f"oci-layout://{base}"


def by_overlay(yard, base, text):
    file = yard.context.parent / "Dockerfile"
    file.write_text(text)
    request = BuildRequest(context=yard.context, dockerfile=file, tag="t:1", push=False)
    extras = Extras(contexts={"busybox": base}, secrets={"s": b"hush"})
    return Builder(yard.home).build(request, lambda _line: None, extras).digest


def by_user(yard, base, text, home, prefix):
    file = yard.context.parent / "Dockerfile"
    file.write_text(text)
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "underway.dist.main", "build", str(yard.context),
         "-f", str(file), "-t", "t:1", "--no-push", "--build-context", f"busybox={base}",
         "--secret", "id=s,env=SECRET", "-q"],
        env={**os.environ, "UNDERWAY_HOME": str(home), "SECRET": "hush", "HOME": str(home)},
        cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_user_namespace_with_ranges_of_ids_gives_the_same_digest(prepared, tmp_path):
    yard, base = prepared
    home = tmp_path / "pod"
    home.mkdir()
    os.chown(home, 100000, 100000)
    prefix = [sys.executable, "-c", ENTER, "100000", "65536"]
    made = by_user(yard, base, TEXT + OWNERS, home, prefix)
    assert made == by_overlay(yard, base, TEXT + OWNERS)


def test_a_plain_user_with_one_id_gives_the_same_digest_where_root_owns_all(prepared, tmp_path):
    yard, base = prepared
    home = tmp_path / "user"
    home.mkdir()
    os.chown(home, 65534, 65534)
    prefix = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    assert by_user(yard, base, TEXT, home, prefix) == by_overlay(yard, base, TEXT)


def in_place(root, home, yard, base, text):
    file = yard.context.parent / "Dockerfile"
    file.write_text(text)
    grounds = InPlace(LayerStore(home.layers), root, ["kept"])
    request = BuildRequest(context=yard.context, dockerfile=file, tag="t:1", push=False)
    extras = Extras(contexts={"busybox": base}, secrets={"s": b"hush"}, grounds=grounds)
    try:
        return Builder(home).build(request, lambda _line: None, extras).digest
    finally:
        grounds.clear()


def test_in_place_gives_the_same_digest_and_leaves_what_was_there(prepared, tmp_path):
    yard, base = prepared
    root = tmp_path / "root"
    for name in ("dev", "kept", "etc"):
        (root / name).mkdir(parents=True)
    (root / "dev/null").touch()
    (root / "kept/file").write_text("mine")
    (root / "etc/own").write_text("mine")
    home = Home(tmp_path / "place")
    before = sorted(root.rglob("*"))
    made = in_place(root, home, yard, base, TEXT + OWNERS)
    assert made == by_overlay(yard, base, TEXT + OWNERS)
    assert sorted(root.rglob("*")) == before
    assert (root / "etc/own").read_text() == "mine"
    with pytest.raises(Exception, match="exit code 3"):
        in_place(root, home, yard, base, "FROM busybox\nRUN touch /half && exit 3\n")
    assert sorted(root.rglob("*")) == before
    with pytest.raises(BadRequest, match="network=none"):
        in_place(root, home, yard, base, "FROM busybox\nRUN --network=none id\n")


CONTAINER = """set -e
cd "$ROOT"
mkdir proc dev etc tmp workspace kaniko kaniko/usr kaniko/src kaniko/site kaniko/base kaniko/home
mount --bind /usr kaniko/usr; mount --bind "$SRC" kaniko/src; mount --bind "$SITE" kaniko/site
mount --bind "$BASE" kaniko/base; mount --bind "$CONTEXT" workspace
mount -t proc proc proc; mount --rbind /dev dev; mount -t tmpfs tmp tmp
exec env -i PYTHONHOME=/kaniko/usr PYTHONPATH=/kaniko/src:/kaniko/site UNDERWAY_HOME=/kaniko/home \\
  PATH=/usr/bin:/bin "$CHROOT" . "/kaniko$LOADER" --library-path "/kaniko$(dirname $LOADER)" \\
  "/kaniko$PYTHON" -m underway.dist.main kaniko --in-place --no-push -d x:1 \\
  --digest-file /kaniko/home/digest
"""


def test_kaniko_builds_in_a_containers_own_root(prepared, tmp_path):
    """A root directory of its own holds nothing but the program, below /kaniko."""
    loader = Path("/lib64/ld-linux-x86-64.so.2").resolve()
    if not str(loader).startswith("/usr/"):
        pytest.skip("the loader is not below /usr")
    yard, base = prepared
    text = (
        "FROM oci-layout:///kaniko/base AS base\nFROM base AS a\n"
        "RUN echo a > /a && rm -f /usr/bin/yes && mkdir /d && chmod 700 /d\n"
        "FROM base\nCOPY --from=a /a /d /\nCOPY sub /sub\nWORKDIR /w\nRUN cat /a > b && id -u > c\n"
    )
    yard.put("Dockerfile", text)
    root = tmp_path / "root"
    root.mkdir()
    environment = {
        **os.environ, "ROOT": str(root), "SRC": str(Path(underway.__file__).parents[1]),
        "SITE": sysconfig.get_paths()["purelib"], "BASE": base.removeprefix("oci-layout://"),
        "CONTEXT": str(yard.context), "LOADER": str(loader), "CHROOT": shutil.which("chroot"),
        "PYTHON": str(Path(sys.executable).resolve()),
    }  # fmt: skip
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", CONTAINER],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = (root / "kaniko/home/digest").read_text()
    assert made == by_overlay(yard, base, text.replace("oci-layout:///kaniko/base", base))
    left = {"proc", "dev", "etc", "tmp", "workspace", "kaniko"}
    assert {path.name for path in root.iterdir()} == left
    assert not list((root / "etc").iterdir())


def test_in_place_refuses_where_this_is_no_container(yard, monkeypatch):
    for name in ("container", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(place, "_MARKS", ("/no/such/mark",))
    with (
        pytest.raises(Forbidden, match="does not look like a container"),
        InPlace.here(yard.home, forced=False, ignored=()),
    ):
        pass
