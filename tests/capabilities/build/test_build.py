"""Dockerfiles built for real, on BusyBox: what lands in the image, and what never does."""

import gzip
import http.server
import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from underway.base.errors import BadRequest, NotFound, UnderwayError
from underway.capabilities.build.backend import rooms
from underway.capabilities.build.backend.builder import Builder
from underway.capabilities.build.backend.running import StepFailed
from underway.capabilities.build.cli import build
from underway.kit.ports import BuildRequest
from underway.linux.cgroups import Cgroups

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root"),
]


def status_of(path):
    status = path.lstat()
    return oct(stat.S_IMODE(status.st_mode)), status.st_uid, status.st_gid


def test_a_first_build_runs_and_a_second_takes_everything_from_the_cache(yard):
    yard.write(a="1")
    text = (
        "FROM busybox\nRUN echo hi > /x\nCOPY a /a\nWORKDIR /w\nRUN echo $((1+1)) > y\nCMD cat y\n"
    )
    first = yard.build(text)
    assert (first.steps_total, first.steps_cached) == (5, 0)
    assert first.bases[0].origin == "stand-in"
    assert yard.read("/w/y") == "2\n"
    assert yard.config()["Cmd"] == ["/bin/sh", "-c", "cat y"]
    before = sorted(p.name for p in (yard.home.layers / "sha256").iterdir())
    second = yard.build(text)
    assert second.steps_cached == 4
    assert (second.digest, second.inputs_digest) == (first.digest, first.inputs_digest)
    assert sorted(p.name for p in (yard.home.layers / "sha256").iterdir()) == before
    assert "[2/5] COPY a /a (cached)" in yard.told


def test_the_same_source_gives_the_same_digest_on_a_cold_cache_and_another_day(yard):
    yard.write(a="1", b="2")
    text = "FROM busybox\nCOPY . /src/\nRUN cp -r /src /dst && ln /dst/a /dst/c && rm /src/b\n"
    first = yard.build(text)
    for path in yard.context.iterdir():
        os.utime(path, (1, 1))
    again = yard.build(text, no_cache=True)
    assert again.steps_cached == 0
    assert again.digest == first.digest


def test_changes_that_matter_change_the_result_and_others_do_not(yard):
    yard.write(a="1", other="x")
    text = "FROM busybox\nARG V=1\nCOPY a /a\nRUN echo $V > /v\n"
    first = yard.build(text)
    yard.put("other", "y")
    assert yard.build(text).steps_cached == 2
    changed = yard.build(text, build_args={"V": "2"})
    assert changed.steps_cached == 1
    assert changed.digest != first.digest
    assert changed.inputs_digest != first.inputs_digest
    (yard.context / "a").chmod(0o755)
    assert yard.build(text).steps_cached == 0
    assert yard.build(text, build_args={"http_proxy": "http://none"}).steps_cached == 2


def test_nothing_that_was_lent_stays_in_the_image(yard):
    yard.build(
        "FROM scratch\nCOPY --from=busybox /bin/busybox /bin/sh\n"
        "RUN read line < /etc/resolv.conf && echo ok > /done\n"
        'RUN test -n "$SSL_CERT_FILE" && test -s $SSL_CERT_FILE\n'
    )
    names = yard.look(lambda root: sorted(str(p.relative_to(root)) for p in root.rglob("*")))
    assert names == ["bin", "bin/sh", "done"]
    assert len(yard.image().diff_ids) == 2
    assert yard.config()["Env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ]


def test_a_run_cannot_change_the_machine(yard):
    before = Path("/etc/hosts").read_bytes()
    yard.build(
        "FROM busybox\nRUN echo 1.2.3.4 x >> /etc/hosts; ! echo x > /proc/sys/kernel/hostname\n"
    )
    assert Path("/etc/hosts").read_bytes() == before
    with pytest.raises(StepFailed):
        yard.build("FROM busybox\nRUN mount -t tmpfs x /mnt\n")


def test_a_failing_run_names_line_command_code_and_last_lines(yard):
    with pytest.raises(StepFailed) as caught:
        yard.build("FROM busybox\n\nRUN seq 1 30; \\\n  echo bad >&2; exit 3\n")
    message = caught.value.message
    assert "Dockerfile:3: RUN seq 1 30;" in message
    assert "exit code 3" in message
    assert "\n  30\n  bad" in message
    assert "\n  10\n" not in message
    assert "  30" in yard.told
    with pytest.raises(StepFailed, match="exit code 127") as caught:
        yard.build("FROM busybox\nRUN nonsense\n")
    assert "not found" in caught.value.hint
    with pytest.raises(StepFailed, match=r"Dockerfile:2: .*cannot run it"):
        yard.build('FROM busybox\nRUN ["/no/such"]\n')
    assert not list((yard.home.layers / "scratch").iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM busybox\nRUNN x\n", "Dockerfile:2: unknown instruction: RUNN (did you mean RUN?)"),
        ("FROM busybox\nCOPY none /x\n", "Dockerfile:2: none is not in the build context"),
        ("FROM busybox\nCOPY ../x /x\n", "Dockerfile:2: ../x leads out of the build context"),
        ("FROM busybox\nCOPY hidden /x\n", "Dockerfile:2: hidden is not in the build context"),
        (
            "FROM busybox\nCOPY --from=0 none /x\n",
            "Dockerfile:2: there is no stage 0 before this one",
        ),
        ("FROM busybox\nUSER none\nRUN id\n", "Dockerfile:3: the image has no user none"),
        ("FROM busybox\nCOPY --chown=none a /x\n", "Dockerfile:2: the image has no user none"),
        (
            "FROM busybox\nCOPY a /own/\nCOPY sub /own/a\n",
            "Dockerfile:3: /own/a is not a directory",
        ),
        ("FROM busybox\nEXPOSE web\n", "Dockerfile:2: EXPOSE: 'web' is no port"),
        ("ARG X\nFROM $X\n", "Dockerfile:2: FROM $X comes to nothing"),
        (
            "FROM --platform=linux/s390x busybox\n",
            "Dockerfile:1: nobody has docker.io/library/busybox:latest for linux/s390x",
        ),
        ("FROM python:3.12\n", "Dockerfile:1: no registry is configured for docker.io/library/py"),
        ("FROM nosuch/image\n", "Dockerfile:1: no registry is configured for docker.io/nosuch"),
        ('FROM busybox\nENV A="${B:?give B}"\n', "Dockerfile:2: B: give B"),
    ],
)
def test_errors_name_file_and_line(yard, text, message):
    yard.write(a="1", hidden="2", **{".dockerignore": "hidden\n"})
    yard.put("sub/x", "1")
    with pytest.raises(UnderwayError) as caught:
        yard.build(text)
    assert caught.value.message.startswith(f"{yard.context.parent}/{message}")


def test_what_can_be_had_is_said_for_a_tag_that_cannot(yard):
    with pytest.raises(NotFound) as caught:
        yard.build("FROM python:3.12-slim\n")
    assert "python:3.11" in caught.value.hint


def test_stages_that_the_target_does_not_need_are_not_built(yard):
    text = (
        "FROM busybox AS base\nRUN echo base > /b\n"
        "FROM base AS broken\nRUN false\n"
        "FROM base AS made\nRUN echo made > /m\n"
        "FROM scratch AS final\nCOPY --from=made /m /b /out/\nCOPY --from=0 /b /zero\n"
    )
    yard.build(text)
    assert (yard.read("/out/m"), yard.read("/zero")) == ("made\n", "base\n")
    assert yard.build(text, target="made").steps_cached == 2
    with pytest.raises(StepFailed):
        yard.build(text, target="broken")
    with pytest.raises(BadRequest, match="no stage 'x'"):
        yard.build(text, target="x")


def test_copy_places_files_as_docker_does(yard):
    yard.write(a="a", b="b", link="")
    (yard.context / "link").unlink()
    (yard.context / "link").symlink_to("a")
    (yard.context / "sub").mkdir()
    (yard.context / "sub/inner").symlink_to("../a")
    yard.put("sub/run.sh", "x", 0o755)
    yard.put("skip/me", "x")
    yard.put(".dockerignore", "skip\n**/*.log\n!keep.log\n")
    yard.write(**{"x.log": "1", "keep.log": "2"})
    yard.build(
        "FROM busybox\nRUN echo app:x:1234:1234::/:/bin/sh >> /etc/passwd && mkdir /there && chmod 700 /there\n"
        "COPY a /file\nCOPY a /dir/\nCOPY a b /both/\nCOPY sub /sub\nCOPY sub /there\n"
        'COPY ["*", "/glob/"]\nCOPY link /followed\nWORKDIR /w\nCOPY a .\nCOPY b ./b2\n'
        "COPY --chown=app --chmod=u=rw,go= a /owned/deep/a\nCOPY --chown=7:8 sub /numbers\n"
        "COPY --exclude=*.sh sub /less\nCOPY --parents sub/run.sh a /parents/\n"
    )

    def see(root):
        assert (root / "file").read_text() == "a"
        assert (root / "dir/a").read_text() == "a"
        assert sorted(p.name for p in (root / "both").iterdir()) == ["a", "b"]
        assert (root / "sub/inner").readlink() == Path("../a")
        assert status_of(root / "sub/run.sh") == ("0o755", 0, 0)
        assert status_of(root / "there") == ("0o700", 0, 0)
        assert (root / "there/run.sh").exists()
        globbed = {p.name for p in (root / "glob").iterdir()}
        assert globbed == {".dockerignore", "a", "b", "link", "keep.log", "inner", "run.sh"}
        assert (root / "followed").read_text() == "a"
        assert not (root / "followed").is_symlink()
        assert (root / "w/a").exists()
        assert (root / "w/b2").exists()
        assert status_of(root / "owned/deep/a") == ("0o600", 1234, 1234)
        assert status_of(root / "owned/deep") == ("0o755", 1234, 1234)
        assert status_of(root / "numbers/run.sh") == ("0o755", 7, 8)
        assert [p.name for p in (root / "less").iterdir()] == ["inner"]
        assert (root / "parents/sub/run.sh").exists()
        assert (root / "parents/a").exists()

    yard.look(see)


def test_copy_follows_links_inside_the_image_only(yard, tmp_path):
    yard.write(a="mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    yard.build(
        f"FROM busybox\nRUN ln -s {outside} /away && ln -s /real /near && mkdir /real\n"
        "COPY a /away/a\nCOPY a /near/\n"
    )
    assert not list(outside.iterdir())
    assert yard.read("/real/a") == "mine"
    assert yard.look(lambda root: (root / str(outside)[1:] / "a").read_text()) == "mine"
    (yard.context / "leak").symlink_to("/etc/hostname")
    with pytest.raises(NotFound):
        yard.build("FROM busybox\nCOPY leak /leak\n")


def test_copy_from_a_stage_keeps_owners_modes_times_and_links(yard):
    yard.build(
        "FROM busybox AS made\nRUN mkdir /d && echo x > /d/a && ln /d/a /d/b && chown 5:6 /d/a"
        " && chmod 4755 /d/a && touch -t 201001010000 /d/a && ln -s a /d/c && mkfifo /d/p\n"
        "FROM scratch\nCOPY --from=made /d /d\nCOPY --from=made --chown=9 /d/c /c\n"
    )

    def see(root):
        assert status_of(root / "d/a") == ("0o4755", 5, 6)
        assert (root / "d/a").stat().st_nlink == 2
        assert (root / "d/a").stat().st_mtime == 1262304000
        assert (root / "d/c").readlink() == Path("a")
        assert (root / "d/p").is_fifo()
        assert status_of(root / "c")[1:] == (9, 9)

    yard.look(see)


def test_add_unpacks_archives_and_fetches_urls(yard):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        info = tarfile.TarInfo("in/side")
        info.size, info.uid, info.mode, info.mtime = 1, 42, 0o640, 1000
        archive.addfile(info, io.BytesIO(b"x"))
    yard.put("t.tar.gz", gzip.compress(plain.getvalue()))
    yard.put("no.tar.gz", "not an archive")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if "missing" not in self.path else 404)
            self.end_headers()
            self.wfile.write(b"fetched")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        yard.build(
            "FROM busybox\nRUN mkdir /have && chmod 711 /have\nADD t.tar.gz /have\n"
            f"ADD no.tar.gz /x/\nADD {url}/f.txt /dl/\nADD {url}/f.txt /named\n"
            "COPY t.tar.gz /kept/\n"
        )

        def see(root):
            assert (root / "have/in/side").read_text() == "x"
            assert status_of(root / "have/in/side") == ("0o640", 42, 0)
            assert (root / "have/in/side").stat().st_mtime == 1000
            assert status_of(root / "have")[0] == "0o711"
            assert (root / "x/no.tar.gz").read_text() == "not an archive"
            assert (root / "dl/f.txt").read_text() == "fetched"
            assert status_of(root / "named")[0] == "0o600"
            assert (root / "kept/t.tar.gz").is_file()

        yard.look(see)
        with pytest.raises(UnderwayError, match=r"Dockerfile:2: ADD .*HTTP 404"):
            yard.build(f"FROM busybox\nADD {url}/missing /x\n")
        with pytest.raises(BadRequest, match="checksum"):
            yard.build(f"FROM busybox\nADD --checksum=sha256:00 {url}/f /x\n")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_variables_have_dockers_scopes(yard):
    yard.build(
        "ARG OUTER=o\nARG UNSEEN=u\nFROM busybox\nARG OUTER\nARG A=1\nENV B=$A-2 C=${B:-none}\n"
        "ENV A=env\nRUN echo \"$OUTER|$UNSEEN|$A|$B|$C|$TARGETARCH\" > /v\nARG TARGETARCH\n"
        "LABEL l=\"$B x\"\nEXPOSE 80 ${PORT:-81}/udp 90-91\nUSER 7:8\nVOLUME /data\n"
        "RUN id -u > /tmp/id; echo $TARGETARCH >> /tmp/id\n"
        "STOPSIGNAL SIGINT\nHEALTHCHECK --retries=2 CMD true\nSHELL [\"/bin/ash\", \"-ec\"]\n"
        "ENTRYPOINT run\nCMD [\"x\"]\nONBUILD RUN echo triggered > /tmp/t\nMAINTAINER me\n",
        build_args={"UNDECLARED": "1"},
        labels={"given": "1"},
    )  # fmt: skip
    assert yard.read("/v") == "o||env|1-2|none|\n"
    assert yard.read("/tmp/id") == "7\namd64\n"
    config = yard.config()
    assert config["Env"][1:] == ["B=1-2", "C=none", "A=env"]
    assert config["Labels"] == {"l": "1-2 x", "given": "1"}
    assert sorted(config["ExposedPorts"]) == ["80/tcp", "81/udp", "90/tcp", "91/tcp"]
    assert (config["User"], config["StopSignal"]) == ("7:8", "SIGINT")
    assert config["Volumes"] == {"/data": {}}
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Retries": 2}
    assert config["Entrypoint"] == ["/bin/ash", "-ec", "run"]
    assert config["Cmd"] == ["x"]
    assert config["Shell"] == ["/bin/ash", "-ec"]
    assert config["OnBuild"] == ["RUN echo triggered > /tmp/t"]
    assert any("UNDECLARED" in line for line in yard.told)
    yard.build('FROM test/image:1\nENTRYPOINT ["y"]\n', tag="test/child:1")
    child = yard.config("docker.io/test/child:1")
    assert "OnBuild" not in child
    assert "Cmd" not in child
    assert yard.read("/tmp/t", "docker.io/test/child:1") == "triggered\n"


def test_a_failing_trigger_names_the_image_it_comes_from(yard):
    yard.build("FROM busybox\nONBUILD RUN false\n")
    with pytest.raises(StepFailed, match="Dockerfile:1: ONBUILD of test/image:1: RUN false"):
        yard.build("FROM test/image:1\n", tag="test/other:1")


def test_heredocs_reach_shells_scripts_and_files(yard):
    yard.build(
        "FROM busybox\nARG X=arg\nRUN <<EOF\necho one > /a\necho $X >> /a\nEOF\n"
        "RUN cat > /b <<'E1' && cat > /c <<E2\n$X\nE1\n$X\nE2\n"
        'RUN <<EOF\n#!/bin/awk -f\nBEGIN { print "awk" > "/d" }\nEOF\n'
        "COPY <<F1 <<'F2' /e/\n$X 'q'\nF1\n$X\nF2\n"
    )
    assert yard.read("/a") == "one\narg\n"
    assert (yard.read("/b"), yard.read("/c")) == ("$X\n", "arg\n")
    assert yard.read("/d") == "awk\n"
    assert (yard.read("/e/F1"), yard.read("/e/F2")) == ("arg 'q'\n", "$X\n")


def test_run_mounts_are_seen_by_their_step_only(yard, tmp_path):
    yard.write(a="from context", hidden="h", **{".dockerignore": "hidden"})
    secret = tmp_path / "secret"
    secret.write_text("hush")
    text = (
        "FROM busybox AS other\nRUN echo from stage > /s\nFROM busybox\n"
        "RUN --mount=type=bind,target=/ctx --mount=type=bind,from=other,source=/s,target=/s"
        " --mount=type=secret,id=key --mount=type=tmpfs,target=/t --mount=type=cache,target=/c/d"
        " cat /ctx/a /s /run/secrets/key > /out; ls /ctx >> /out; echo x > /t/x;"
        " echo x >> /c/d/n; wc -l < /c/d/n >> /out\n"
    )
    yard.build(text, secrets={"key": secret})
    assert yard.read("/out") == "from contextfrom stage\nhusha\n1\n"
    names = yard.look(lambda root: {p.name for p in root.iterdir()})
    assert not names & {"ctx", "s", "t", "c"}
    assert not yard.look(lambda root: (root / "run/secrets").exists())
    assert yard.build(text, secrets={"key": secret}).steps_cached == 2
    yard.put("a", "changed")
    yard.build(text, secrets={"key": secret})
    assert yard.read("/out") == "changedfrom stage\nhusha\n2\n"
    with pytest.raises(BadRequest, match="secret key is required"):
        yard.build("FROM busybox\nRUN --mount=type=secret,id=key,required=true id\n")


def test_source_date_epoch_is_the_time_of_everything(yard):
    yard.write(a="1")
    yard.build("FROM busybox\nCOPY a /a\nRUN touch /b\n", build_args={"SOURCE_DATE_EPOCH": "86400"})
    assert yard.look(lambda r: [(r / n).stat().st_mtime for n in "ab"]) == [86400, 86400]
    assert yard.image().config["created"] == "1970-01-02T00:00:00Z"


def test_writes_below_a_volume_are_kept(yard):
    yard.build("FROM busybox\nVOLUME /data\nRUN mkdir -p /data && echo kept > /data/x\n")
    assert yard.read("/data/x") == "kept\n"


def test_builds_at_once_do_not_disturb_each_other(yard):
    yard.build("FROM busybox\nRUN true\n")
    for name in ("Dockerfile.0", "Dockerfile.1"):
        yard.put(name, "FROM busybox\nRUN seq 1 9 > /n\n")
    digests, failures = set(), []

    def work(index):
        request = BuildRequest(
            context=yard.context,
            dockerfile=yard.context / f"Dockerfile.{index % 2}",
            tag=f"test/at-once:{index}",
            push=False,
        )
        try:
            digests.add(Builder(yard.home).build(request, lambda line: None).digest)
        except BaseException as error:  # noqa: BLE001  # shown below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(digests) == 1


def test_the_command_prints_the_digest_and_writes_what_it_is_asked_to(yard, tmp_path):
    yard.put("Dockerfile", "FROM busybox\nARG A\nRUN echo $A > /a\n")
    out, iid = tmp_path / "out", tmp_path / "iid"
    environment = {"UNDERWAY_HOME": str(yard.home.root), "A": "passed on"}
    arguments = [str(yard.context), "-q", "--build-arg", "A", "-t", "cli:1", "--no-push"]
    done = CliRunner().invoke(
        build,
        [*arguments, "-o", f"type=oci,tar=false,dest={out}", "--iidfile", str(iid)],
        env=environment,
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == iid.read_text()
    assert (out / "index.json").exists()
    assert yard.read("/a", "docker.io/library/cli:1") == "passed on\n"


def test_a_killed_build_leaves_nothing_that_the_next_does_not_clear(yard):
    yard.put("Dockerfile", "FROM busybox\nRUN echo started && sleep 1000\n")
    yard.build("FROM busybox\nRUN true\n")
    script = "from underway.capabilities.build.cli import build; build()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(yard.context), "--no-push"],
        env={**os.environ, "UNDERWAY_HOME": str(yard.home.root)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any("  started" in line for line in process.stderr)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    group = rooms.cgroup_of(yard.home)
    assert Cgroups().processes(group)
    assert list((yard.home.builds / "run").iterdir())
    yard.build("FROM busybox\nRUN true\n")
    assert not Cgroups().processes(group)
    assert not list((yard.home.builds / "run").iterdir())
    assert str(yard.home.root) not in Path("/proc/self/mounts").read_text()
    assert not Path("/sys/fs/cgroup/pids", group[1:]).exists()
