"""Contexts, archives and steps that mean harm; builds that are killed at any moment."""

import gzip
import io
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from underway.base.errors import BadRequest, NotFound, UnderwayError
from underway.capabilities.build.backend import delivery, running
from underway.capabilities.build.backend.running import StepFailed

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root"),
]


def packed(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name, kind=tarfile.REGTYPE, link="", data=b""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, data


@pytest.mark.parametrize(
    "members",
    [
        [member("../../escaped", data=b"x")],
        [member("/../escaped", data=b"x")],
        [member("way", tarfile.SYMTYPE, "/tmp"), member("way/escaped", data=b"x")],
        [member("way", tarfile.SYMTYPE, "../../.."), member("way/escaped", data=b"x")],
        [member("hard", tarfile.LNKTYPE, "/etc/passwd")],
        [member("hard", tarfile.LNKTYPE, "../../../etc/passwd")],
    ],
)
def test_archives_never_write_or_link_outside(yard, members, tmp_path):
    yard.put("a.tar", packed(*members))
    with pytest.raises(BadRequest):
        yard.build("FROM scratch\nADD a.tar /a/\n")
    assert not list(tmp_path.rglob("escaped"))
    assert not Path("/tmp/escaped").exists()
    assert not Path("/escaped").exists()


def test_links_in_a_context_lead_nowhere_outside_it(yard):
    (yard.context / "passwd").symlink_to("/etc/passwd")
    (yard.context / "root").symlink_to("/")
    (yard.context / "up").symlink_to("../../..")
    for source in ("passwd", "root/etc/passwd", "up/etc/passwd"):
        with pytest.raises(NotFound):
            yard.build(f"FROM scratch\nCOPY {source} /x\n")
    (yard.context / "round").symlink_to("round")
    with pytest.raises(BadRequest, match="symbolic links"):
        yard.build("FROM scratch\nCOPY round /x\n")
    with pytest.raises(BadRequest, match="leads out"):
        yard.build("FROM scratch\nCOPY a/../../x /x\n")


def test_links_in_an_image_lead_nowhere_outside_it(yard, tmp_path):
    yard.put("f", "text")
    yard.build(
        "FROM busybox\nRUN ln -s ../../../../../.. /up && ln -s /tmp /out\nCOPY f /up/way/\n"
    )
    assert yard.read("/way/f") == "text"
    assert not Path("/way").exists()


def test_devices_are_part_of_the_key(yard):
    text = "FROM scratch\nCOPY d /\n"
    (yard.context / "d").mkdir()
    os.mknod(yard.context / "d/dev", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    first = yard.build(text)
    (yard.context / "d/dev").unlink()
    os.mknod(yard.context / "d/dev", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    second = yard.build(text)
    assert (second.steps_cached, second.digest == first.digest) == (0, False)


def test_what_fills_the_disk_is_ended(yard, monkeypatch):
    for module in (delivery, running):
        monkeypatch.setattr(module, "DISK_BYTES_MIN", 1 << 60)
    monkeypatch.setattr(delivery, "GLANCE_BYTES", 1 << 20)
    with pytest.raises(StepFailed, match="on the disk"):
        yard.build("FROM busybox\nRUN sleep 300\n")
    bomb = io.BytesIO()
    with gzip.open(bomb, "wb") as out:
        out.write(packed(member("zeros", data=bytes(8 << 20))))
    yard.put("bomb.tar.gz", bomb.getvalue())
    with pytest.raises(BadRequest, match="of disk"):
        yard.build("FROM scratch\nADD bomb.tar.gz /\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a AS a\n", "no registry is configured"),
        (
            "FROM scratch AS a\nCOPY --from=b / /\nFROM scratch AS b\nCOPY --from=a / /\n",
            "no registry",
        ),
        ("FROM scratch\nCOPY --from=0 / /\n", "no stage 0"),
        ("FROM scratch\nCOPY --from=7 / /\n", "no stage 7"),
        ("FROM scratch\nRUN --nonsense id\n", "no flag --nonsense"),
        ("FROM scratch\nCOPY --from=x --gone a b\n", "no flag --gone"),
    ],
)
def test_stages_that_are_missing_or_go_round_are_errors_with_a_line(yard, text, message):
    with pytest.raises(UnderwayError, match=message) as caught:
        yard.build(text)
    assert "Dockerfile:" in caught.value.message


def test_a_context_of_very_many_files_is_built(yard):
    for number in range(5000):
        (yard.context / f"{number:05}").touch()
    first = yard.build("FROM scratch\nCOPY . /all/\n")
    assert yard.build("FROM scratch\nCOPY . /all/\n").digest == first.digest
    assert yard.look(lambda root: len(list((root / "all").iterdir()))) == 5000


def _build(yard):
    script = "from underway.capabilities.build.cli import build; build()"
    argv = [sys.executable, "-c", script, str(yard.context), "-t", "k:1", "--no-push", "--no-cache"]
    environment = {**os.environ, "UNDERWAY_HOME": str(yard.home.root)}
    return subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def test_a_build_killed_at_any_moment_leaves_nothing_that_the_next_does_not_clear(yard):
    yard.put("f", "text")
    yard.put(
        "Dockerfile",
        "FROM busybox AS a\nRUN sleep .2; echo a > /a\nFROM busybox AS b\nCOPY f /f\nRUN sleep .2\n"
        "FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /f /\nRUN sleep .2; cat /a /f > /all\n",
    )
    whole = _build(yard)
    digest = whole.communicate()[0]
    chance = random.Random(7)
    for _ in range(6):
        process = _build(yard)
        time.sleep(chance.uniform(0.1, 1.3))
        process.kill()
        process.communicate()
    assert _build(yard).communicate()[0] == digest
    assert not list((yard.home.builds / "run").iterdir())
    assert not list((yard.home.layers / "scratch").iterdir())
    assert str(yard.home.root) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_told_to_end_ends_its_steps_first(yard, number):
    yard.put("Dockerfile", "FROM busybox\nRUN touch /begun; sleep 7531\n")
    process = _build(yard)

    def sleeping():
        lines = [
            p for p in Path("/proc").glob("[0-9]*/cmdline") if _read(p) == b"sleep\x007531\x00"
        ]
        return bool(lines)

    end = time.monotonic() + 30
    while not sleeping() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not sleeping()
    assert not list((yard.home.builds / "run").iterdir())


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""
