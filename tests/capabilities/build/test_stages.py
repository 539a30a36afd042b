"""Stages at once, steps that are stopped, and what steps may and may not do."""

import json
import os
import socket
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from underway.base.errors import BadRequest
from underway.capabilities.build.backend.builder import Builder, Extras
from underway.capabilities.build.backend.running import StepFailed
from underway.capabilities.build.backend.stopping import Stop, Stopped
from underway.capabilities.build.cli import build
from underway.kit.ports import BuildRequest

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root"),
]


def build_with(yard, text, **extras):
    file = yard.context.parent / "Dockerfile"
    file.write_text(text)
    yard.told.clear()
    request = BuildRequest(context=yard.context, dockerfile=file, tag="test/image:1", push=False)
    return Builder(yard.home).build(request, yard.told.append, Extras(**extras))


def test_stages_that_do_not_wait_for_each_other_run_at_once(yard):
    # Each stage waits for the other's sign in a cache they share: one after another never ends.
    text = (
        "FROM busybox AS one\n"
        "RUN --mount=type=cache,target=/c touch /c/1; until [ -e /c/2 ]; do sleep .05; done\n"
        "RUN echo one > /one\n"
        "FROM busybox AS two\n"
        "RUN --mount=type=cache,target=/c touch /c/2; until [ -e /c/1 ]; do sleep .05; done\n"
        "RUN echo two > /two\n"
        "FROM busybox\nCOPY --from=one /one /\nCOPY --from=two /two /\n"
    )
    first = build_with(yard, text, step_timeout_s=30)
    assert yard.read("/one") + yard.read("/two") == "one\ntwo\n"
    assert any(line.startswith("[one 2/2] RUN echo one") for line in yard.told)
    assert any(line.startswith("[stage-2 1/2] COPY") for line in yard.told)
    again = build_with(yard, text)
    assert (again.digest, again.inputs_digest) == (first.digest, first.inputs_digest)
    assert again.steps_cached == 6


def test_a_stage_that_fails_stops_the_others_and_is_the_one_told_of(yard):
    text = (
        "FROM busybox AS slow\nRUN echo begun; sleep 300\n"
        "FROM busybox AS bad\nRUN sleep 1; echo why; exit 9\n"
        "FROM busybox\nCOPY --from=slow / /\nCOPY --from=bad / /\n"
    )
    with pytest.raises(StepFailed, match=r"Dockerfile:4: .*\n.*exit code 9") as caught:
        build_with(yard, text)
    assert "why" in caught.value.message
    assert not list((yard.home.layers / "scratch").iterdir())


def test_a_step_that_takes_too_long_is_ended_with_all_it_started(yard):
    text = "FROM busybox\nRUN echo working; (sleep 4321 &) ; sleep 4321\n"
    with pytest.raises(StepFailed, match=r"did not end within 1 s; its last lines:\n  working"):
        build_with(yard, text, step_timeout_s=1)
    lines = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    assert not any(b"4321" in line for line in lines)


def test_a_stop_ends_what_runs_and_lets_nothing_begin():
    stop, ended = Stop(), []
    with stop.ending(lambda: ended.append(1)):
        threading.Thread(target=stop.set).start()
        while not ended:
            pass
    with pytest.raises(Stopped):
        stop.check()
    with pytest.raises(Stopped), stop.ending(lambda: ended.append(2)):
        pass
    assert ended == [1]


def test_system_calls_that_reach_beyond_the_container_are_refused(yard):
    yard.build(
        "FROM busybox\nRUN ! unshare -U true && ! unshare -m true && ! swapon /dev/null"
        " && grep '^Seccomp:.2' /proc/self/status\n"
    )


def test_insecure_steps_need_an_entitlement(yard):
    text = "FROM busybox\nRUN --security=insecure mkdir /m && mount -t tmpfs x /m && rmdir /m; id\n"
    with pytest.raises(BadRequest, match=r"security=insecure is not allowed"):
        build_with(yard, text)
    build_with(yard, text, entitlements=frozenset({"security.insecure"}))
    with pytest.raises(BadRequest, match="sandbox or insecure"):
        yard.build("FROM busybox\nRUN --security=lax id\n")


def test_an_agents_socket_reaches_the_step_that_asks_for_it(yard, tmp_path):
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "agent"))
    listening.listen()
    text = 'FROM busybox\nRUN --mount=type=ssh,required=true test -S "$SSH_AUTH_SOCK"\n'
    build_with(yard, text, agents={"default": tmp_path / "agent"})
    listening.close()
    assert not yard.look(lambda root: (root / "run/buildkit").exists())
    assert not any("SSH_AUTH" in each for each in yard.config()["Env"])
    with pytest.raises(BadRequest, match="no agent default"):
        build_with(yard, text)


def test_caches_start_from_a_stage_and_writable_binds_keep_nothing(yard):
    text = (
        "FROM busybox AS seed\nRUN mkdir /s && echo seed > /s/f\n"
        "FROM busybox\nRUN --mount=type=cache,from=seed,source=/s,target=/c cat /c/f > /out\n"
        "RUN --mount=type=bind,from=seed,source=/s,target=/b,rw echo new > /b/f && cat /b/f >> /out\n"
        "RUN --mount=type=bind,from=seed,source=/s,target=/b cat /b/f >> /out\n"
    )
    yard.build(text)
    assert yard.read("/out") == "seed\nnew\nseed\n"


def test_layers_are_zstd_where_that_is_asked_for(yard, tmp_path):
    yard.put("Dockerfile", "FROM busybox\nRUN echo x > /x\n")
    environment = {"UNDERWAY_HOME": str(yard.home.root)}
    output = f"type=oci,dest={tmp_path}/out,tar=false,compression=zstd,compression-level=9"
    arguments = [str(yard.context), "-o", output, "--annotation", "a=b", "-q"]
    done = CliRunner().invoke(build, arguments, env=environment)
    assert done.exit_code == 0, done.output
    blob = tmp_path / "out/blobs/sha256" / done.stdout.strip().removeprefix("sha256:")
    manifest = json.loads(blob.read_text())
    assert manifest["layers"][-1]["mediaType"].endswith("tar+zstd")
    assert manifest["annotations"] == {"a": "b"}


def test_an_image_for_several_platforms_is_an_index(yard, tmp_path):
    yard.put("Dockerfile", "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY f /f\n")
    yard.put("f", "text")
    environment = {"UNDERWAY_HOME": str(yard.home.root)}
    platforms = "--platform=linux/amd64,linux/arm64,linux/arm/v7"
    arguments = [str(yard.context), platforms, "-o", f"type=oci,dest={tmp_path}/o.tar"]
    done = CliRunner().invoke(build, arguments, env=environment)
    assert done.exit_code == 0, done.output
    import subprocess

    for arch in ("amd64", "arm64", "arm"):
        shown = subprocess.run(
            ["skopeo", "inspect", "--override-arch", arch, f"oci-archive:{tmp_path}/o.tar"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found = json.loads(shown.stdout)
        assert (found["Architecture"], found["Labels"]["arch"]) == (arch, arch)
    yard.put("Dockerfile", "FROM scratch\nRUN true\n")
    done = CliRunner().invoke(build, [str(yard.context), "--platform=linux/s390x"], env=environment)
    assert "cannot run on this linux/" in done.exception.message


def test_a_named_context_stands_for_the_stage_of_its_name(yard, tmp_path):
    yard.put("Dockerfile", "FROM scratch AS part\nCOPY none /\nFROM part\nCOPY --from=part f /g\n")
    yard.put("f", "from outside")
    first = tmp_path / "layout"
    file = yard.context / "Other"
    file.write_text("FROM scratch\nCOPY f /f\n")
    request = BuildRequest(context=yard.context, dockerfile=file, tag="p:1", push=False)
    Builder(yard.home).build(request, yard.told.append, Extras(layout=first))
    text = (yard.context / "Dockerfile").read_text()
    build_with(yard, text, contexts={"part": f"oci-layout://{first}"})
    assert yard.read("/f") == yard.read("/g") == "from outside"


def test_a_check_tells_findings_and_builds_nothing(yard):
    yard.put("Dockerfile", "FROM scratch as x\nCOPY $NO /\nCMD run\n")
    environment = {"UNDERWAY_HOME": str(yard.home.root)}
    done = CliRunner().invoke(build, [str(yard.context), "--check"], env=environment)
    assert done.exit_code == 1
    for rule in ("FromAsCasing", "UndefinedVar", "JSONArgsRecommended"):
        assert rule in done.output
    assert not (yard.home.builds / "steps").exists()
    yard.put("Dockerfile", "FROM scratch AS x\nCOPY a /\n")
    assert CliRunner().invoke(build, [str(yard.context), "--check"], env=environment).exit_code == 0
    called = CliRunner().invoke(build, [str(yard.context), "--call=targets"], env=environment)
    assert "x  scratch  (default)" in called.output
