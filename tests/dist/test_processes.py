from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from underway.base.errors import ServiceUnavailable
from underway.base.home import Home
from underway.dist import processes


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.run.mkdir()
    return made


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
                            stdout=subprocess.PIPE)  # fmt: skip


def test_a_process_is_known_until_it_ends(home: Home) -> None:
    with sleeper() as child:
        processes.record(home, "child", child.pid)
        assert processes.running_pid(home, "child") == child.pid
        processes.end(child.pid, grace_s=10)
        assert processes.running_pid(home, "child") is None
    assert [each.pid for each in processes.components(home)] == [None]
    processes.forget(home, "child")
    assert processes.components(home) == []


def test_a_pid_used_again_is_somebody_else(home: Home) -> None:
    processes.record(home, "child", os.getpid())
    file = home.run / "child.json"
    file.write_text(file.read_text().replace('"start_ticks":', '"start_ticks":1'))
    assert processes.running_pid(home, "child") is None


def test_a_process_that_will_not_end_is_killed() -> None:
    script = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        processes.end(child.pid, grace_s=0.1)
        assert child.wait(10) == -9


@pytest.mark.parametrize(("said", "reason"), [
    (b"error port 6443 is taken", "port 6443 is taken"),
    (b"", "ended before it was ready"),
])  # fmt: skip
def test_why_a_process_is_not_ready_is_passed_on(said: bytes, reason: str) -> None:
    reader, writer = os.pipe()
    os.write(writer, said)
    os.close(writer)
    with pytest.raises(ServiceUnavailable, match=reason):
        processes.await_ready(reader, "child", timeout_s=5)
