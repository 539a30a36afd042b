"""runc under conmon, with a root file system of one static busybox."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from underway.base.errors import NotFound
from underway.linux import oci_runtime
from underway.linux.cgroups import Cgroups
from underway.linux.oci_runtime import OciRuntime, RuntimeFailure

pytestmark = pytest.mark.privileged

GROUP = f"/underway-test-{os.getpid()}"
BUSYBOX = Path("/bin/busybox")


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[OciRuntime]:
    for program in ("runc", "conmon"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0 or not BUSYBOX.exists():
        pytest.skip("needs root and busybox-static")
    made = OciRuntime("runc", tmp_path / "state", tmp_path / "exits")
    yield made
    for container_id in made.ids():
        made.delete(container_id)
    cgroups = Cgroups()
    cgroups.kill(GROUP)
    assert cgroups.remove(GROUP)


def bundle_of(tmp_path: Path, name: str, *args: str, **resources: object) -> Path:
    bundle = tmp_path / name
    rootfs = bundle / "rootfs"
    for directory in ("bin", "proc", "dev"):
        (rootfs / directory).mkdir(parents=True)
    shutil.copy(BUSYBOX, rootfs / "bin" / "sh")
    capabilities = ["CAP_KILL"]
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "network")],
            "cgroupsPath": f"{GROUP}/{name}",
            "resources": resources,
        },
    }
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def wait(shim_pid: int) -> None:
    descriptor = os.pidfd_open(shim_pid)
    try:
        assert select.select([descriptor], [], [], 20)[0]
    finally:
        os.close(descriptor)


def test_output_and_exit_code_are_kept_by_the_shim(runtime: OciRuntime, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, "one", "/bin/sh", "-c", "echo out; echo err >&2; exit 42")
    log = tmp_path / "log"
    created = runtime.create("one", bundle, log)
    assert runtime.state("one") == "created"
    assert oci_runtime.shim_alive(created.shim_pid, "one")
    assert not oci_runtime.shim_alive(created.shim_pid, "two")
    runtime.start("one")
    wait(created.shim_pid)
    assert runtime.exit_code("one") == 42
    lines = sorted(line.split(" ", 3)[1:] for line in log.read_text().splitlines())
    assert lines == [["stderr", "F", "err"], ["stdout", "F", "out"]]
    runtime.delete("one")
    runtime.delete("one")
    with pytest.raises(NotFound):
        runtime.state("one")
    runtime.forget_exit("one")
    assert runtime.exit_code("one") is None


def test_a_missing_program_is_told_in_the_runtimes_words(
    runtime: OciRuntime, tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path, "none", "/bin/none")
    with pytest.raises(RuntimeFailure, match=r'exec: "/bin/none".*no such file'):
        runtime.create("none", bundle, tmp_path / "log")


def test_a_client_can_attach_and_input_ends_with_it(runtime: OciRuntime, tmp_path: Path) -> None:
    script = "while read x; do echo got $x; done; exit 4"
    bundle = bundle_of(tmp_path, "in", "/bin/sh", "-c", script)
    created = runtime.create("in", bundle, tmp_path / "log", stdin="once")
    runtime.start("in")
    with oci_runtime.attach(bundle) as connection:
        connection.settimeout(20)
        connection.send(b"word\n")
        assert connection.recv(1024) == bytes([oci_runtime.ATTACH_STDOUT]) + b"got word\n"
        connection.shutdown(socket.SHUT_WR)
    wait(created.shim_pid)
    assert runtime.exit_code("in") == 4
    with pytest.raises(NotFound):
        oci_runtime.attach(bundle)


def test_usage_is_measured_and_a_memory_limit_kills(runtime: OciRuntime, tmp_path: Path) -> None:
    limit = {"limit": 16 << 20, "swap": 16 << 20}
    script = "x=0123456789; while true; do x=$x$x; done"
    bundle = bundle_of(tmp_path, "big", "/bin/sh", "-c", script, memory=limit)
    created = runtime.create("big", bundle, tmp_path / "log")
    runtime.start("big")
    wait(created.shim_pid)
    cgroups = Cgroups()
    assert cgroups.oom_kills(f"{GROUP}/big") >= 1
    assert cgroups.usage(f"{GROUP}/big").cpu_ns > 0
    assert runtime.exit_code("big") == 137
    assert cgroups.processes(f"{GROUP}/big") == []


def test_a_signal_reaches_the_first_process_and_late_ones_are_no_error(
    runtime: OciRuntime, tmp_path: Path
) -> None:
    script = "trap 'exit 9' TERM; echo ready; while true; do sleep 0.1; done"
    bundle = bundle_of(tmp_path, "sig", "/bin/sh", "-c", script)
    created = runtime.create("sig", bundle, tmp_path / "log", stdin="open")
    with oci_runtime.attach(bundle) as connection:
        connection.settimeout(20)
        runtime.start("sig")
        assert b"ready" in connection.recv(1024)
    assert Cgroups().processes(f"{GROUP}/sig")
    runtime.kill("sig", "SIGTERM")
    wait(created.shim_pid)
    assert runtime.exit_code("sig") == 9
    runtime.kill("sig", "SIGTERM")


def test_a_log_is_reopened_under_its_name(runtime: OciRuntime, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, "log", "/bin/sh", "-c", "while read x; do echo $x; done")
    log = tmp_path / "out.log"
    created = runtime.create("log", bundle, log, stdin="once")
    runtime.start("log")
    with oci_runtime.attach(bundle) as connection:
        connection.settimeout(20)
        connection.send(b"first\n")
        connection.recv(1024)
        log.rename(tmp_path / "old.log")
        oci_runtime.reopen_log(bundle)
        while not log.exists():
            connection.send(b"again\n")
            connection.recv(1024)
        connection.shutdown(socket.SHUT_WR)
    wait(created.shim_pid)
    assert "first" in (tmp_path / "old.log").read_text()


def test_hierarchies_are_told_apart() -> None:
    v1 = "cgroup /c/memory cgroup rw,memory 0 0\ncgroup /c/cpu cgroup rw,cpu 0 0\n"
    v2 = "cgroup2 /c/unified cgroup2 rw 0 0\n"
    assert Cgroups(v1 + v2).unified is None
    assert Cgroups(v1).available
    assert Cgroups(v2).unified == Path("/c/unified")
    assert not Cgroups("").available
    with pytest.raises(ValueError, match="root group"):
        Cgroups(v2).remove("/")
