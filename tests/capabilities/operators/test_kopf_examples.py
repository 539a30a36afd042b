"""kopf's published examples, unmodified, against the embedded server.

They are taken from kopf's source distribution when the test runs; none of them is kept here.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import queue
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.peers import PEERS

from underway.base.errors import UnderwayError
from underway.testing import Cluster

kopf = pytest.importorskip("kopf", reason="the examples are kopf's")
pytestmark = [pytest.mark.peer, pytest.mark.timeout(180)]

LIBRARIES = ("pykube-ng", "certbuilder", "certvalidator", "oscrypto")  # what the examples import
WAIT_S = 45.0


@pytest.fixture(scope="module")
def sources() -> Path:
    """kopf's examples and, in ``libraries``, what they need besides kopf."""
    version = importlib.metadata.version("kopf")
    home = PEERS / f"kopf-examples-{version}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "examples").exists():
            try:
                fetch(version, home)
            except (subprocess.SubprocessError, OSError) as error:
                pytest.skip(f"kopf's source distribution cannot be had: {error}")
    return home


def fetch(version: str, home: Path) -> None:
    pip = [sys.executable, "-m", "pip", "-q"]
    with tempfile.TemporaryDirectory() as scratch:
        command = [*pip, "download", "--no-deps", "--no-binary", "kopf", "-d", scratch]
        subprocess.run([*command, f"kopf=={version}"], check=True, timeout=150)
        (sdist,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            wanted = [each for each in archive if each.isfile() and "/examples/" in each.name]
            assert not any(".." in each.name or each.name.startswith("/") for each in wanted)
            archive.extractall(scratch, wanted)
        subprocess.run(
            [*pip, "install", "--no-deps", "--target", str(home / "libraries"), *LIBRARIES],
            check=True,
            timeout=150,
        )
        needs = [*pip, "install", "--target", str(home / "libraries"), "requests", "asn1crypto"]
        subprocess.run(needs, check=True, timeout=150)
        shutil.move(str(Path(scratch) / f"kopf-{version}" / "examples"), home / "examples")


@pytest.fixture(scope="module")
def cluster(sources: Path) -> Iterator[Cluster]:
    with Cluster(crds=[sources / "examples" / "crd.yaml"]) as made:
        yield made


class Output:
    """A program's output as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.text = ""
        self._lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def until(self, *wanted: str, unless: str = "") -> bool:
        """Wait until all was printed; False where ``unless`` was."""
        deadline = time.monotonic() + WAIT_S
        while missing := [each for each in wanted if each not in self.text]:
            if unless and unless in self.text:
                return False
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                line = ""
            assert line, f"{missing} did not come:\n{self.text[-6000:]}"
            self.text += line
        return True


@dataclass
class Expect:
    """What an example shows: when it starts, for a new object, for a change, for a deletion."""

    started: tuple[str, ...] = ()
    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    status: Callable[[dict], object] | None = None
    never: str = ""


def succeeded(*handlers: str) -> tuple[str, ...]:
    return tuple(f"Handler {each!r} succeeded" for each in handlers)


def activities(*names: str) -> tuple[str, ...]:
    return tuple(f"Activity {each!r} succeeded" for each in names)


EXAMPLES = {
    "01-minimal": Expect(
        created=("And here we are! Creating", *succeeded("create_fn")),
        status=lambda s: s["create_fn"]["message"] == "hello world",
    ),
    "02-children": Expect(
        created=succeeded("create_fn"), status=lambda s: len(s["create_fn"]["children"]) == 1
    ),
    "03-exceptions": Expect(
        created=(
            *succeeded("eventual_success_with_a_few_messages"),
            "Handler 'eventual_failure_with_tracebacks' failed",
            "Fail once and for all.",
        )
    ),
    "04-events": Expect(created=succeeded("create_fn")),
    "05-handlers": Expect(
        created=succeeded("create_fn_1", "create_fn_2"),
        changed=("UPDATED", "FIELD CHANGED: value -> changed"),
        deleted=("DELETED 1st", "DELETED 2nd"),
    ),
    "06-peering": Expect(created=succeeded("create_fn")),
    "07-subhandlers": Expect(created=succeeded("create_fn", "create_fn/item1", "create_fn/item2")),
    "08-events": Expect(created=("Event received",), deleted=("'type': 'DELETED'",)),
    "09-testing": Expect(created=succeeded("create_fn")),
    "10-builtins": Expect(created=("Pod killing happens in 30s",), deleted=("is cancelled",)),
    "11-filtering-handlers": Expect(
        created=(
            "Label is matching.",
            "Label callback matching.",
            "Annotation is absent.",
            "Field value is satisfied.",
            "Field daemon is satisfied.",
        ),
        changed=("Field change is satisfied.",),
        never="mismatch",
    ),
    "13-hooks": Expect(started=activities("startup_fn_simple", "startup_fn_retried")),
    "14-daemons": Expect(
        created=("=> Ping from a sync daemon", "=> Ping from an async daemon"),
        deleted=("'background_async' is cancelled",),
    ),
    "15-timers": Expect(created=("Ping from a sync timer",)),
    "16-indexing": Expect(
        created=("('app', 'x'): ['bystander']", "Timer 'intervalled' succeeded"),
        status=lambda s: s["running-pods"] == [],  # those of other namespaces than this one
    ),
    # create_2 fails once on purpose and is tried again a minute later.
    "99-all-at-once": Expect(
        started=activities("startup_fn_simple", "startup_fn_retried"),
        created=(*succeeded("create_1", "create_pod"), "Whoops!", "This pod is special for us."),
        deleted=succeeded("delete"),
    ),
}


def environment(cluster: Cluster, sources: Path) -> dict[str, str]:
    found = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "PYTHONUNBUFFERED": "1"}
    found["PYTHONPATH"] = str(sources / "libraries")
    found.pop("PYTHONWARNINGS", None)
    return found


@contextlib.contextmanager
def running(command: list[str], sources: Path, cluster: Cluster) -> Iterator[Output]:
    with subprocess.Popen(
        command,
        cwd=sources / "examples",
        env=environment(cluster, sources),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output = Output(process)
        try:
            yield output
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def kopf_run(name: str, space: str) -> list[str]:
    example = f"{name}/example.py"
    return [sys.executable, "-m", "kopf", "run", "--verbose", "-n", space, "--standalone", example]


def pod(space: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bystander", "namespace": space, "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "pause"}]},
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_works_unmodified(name: str, cluster: Cluster, sources: Path) -> None:
    expect, client = EXAMPLES[name], cluster.client
    space = f"kopf-{name}"
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
    obj = yaml.safe_load((sources / "examples" / "obj.yaml").read_text())
    obj["metadata"]["namespace"] = space
    with running(kopf_run(name, space), sources, cluster) as output:
        output.until("Initial authentication has finished", *expect.started)
        client.create(pod(space))
        client.create(obj)
        output.until(*expect.created)
        kind, which = "kopfexample", obj["metadata"]["name"]
        if expect.status is not None:
            client.wait_for(
                kind, which, lambda o: "status" in o and expect.status(o["status"]), space
            )
        if expect.changed:
            output.until("Creation is processed")
            client.patch(kind, which, {"spec": {"field": "changed"}}, space)
            output.until(*expect.changed)
        client.delete(kind, which, space)
        client.delete("pod", "bystander", space)
        output.until(*expect.deleted)
        client.wait_gone(kind, which, space, timeout_s=WAIT_S)
    assert not expect.never or expect.never not in output.text


def test_events_of_the_example_reach_the_cluster(cluster: Cluster, sources: Path) -> None:
    client, space = cluster.client, "kopf-told"
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
    obj = yaml.safe_load((sources / "examples" / "obj.yaml").read_text())
    obj["metadata"]["namespace"] = space
    with running(kopf_run("04-events", space), sources, cluster) as output:
        output.until("Initial authentication has finished")
        client.create(obj)
        output.until(*succeeded("create_fn"))
        reasons = {(e["type"], e["reason"]) for e in client.list("events", space)}
        while ("Error", "SomeReason") not in reasons:
            version = client.list("events", space)
            reasons = {(e["type"], e["reason"]) for e in version}
        assert {("SomeType", "SomeReason"), ("Warning", "SomeReason")} <= reasons
        client.delete("kopfexample", obj["metadata"]["name"], space)
        client.wait_gone("kopfexample", obj["metadata"]["name"], space, timeout_s=WAIT_S)


def test_the_embedded_example_runs_to_its_end(cluster: Cluster, sources: Path) -> None:
    command = [sys.executable, "12-embedded/example.py"]
    with running(command, sources, cluster) as output:
        wanted = [f"{word}, kopf-example-{n}!" for n in range(3) for word in ("Hello", "Good bye")]
        output.until(*wanted, "Exiting the main app.")


def test_the_admission_examples_webhooks_are_asked(cluster: Cluster, sources: Path) -> None:
    client, space = cluster.client, "kopf-admission"
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
    obj = yaml.safe_load((sources / "examples" / "obj.yaml").read_text())
    obj["metadata"]["namespace"] = space
    with running(kopf_run("17-admission", space), sources, cluster) as output:
        if not output.until("Listening for webhooks", unless="LibraryNotFoundError"):
            pytest.skip("kopf cannot make its certificate: oscrypto does not know this OpenSSL")
        hooks = "mutatingwebhookconfiguration", "validatingwebhookconfiguration"
        for kind in hooks:
            client.wait_for(kind, "auto.kopf.dev", lambda found: found.get("webhooks"))
        (made,) = client.create(obj)
        assert made["spec"]["injected"] == 123
        for field, text in (("wrong", "Change the field"), ("not-allowed", "too lazy")):
            with pytest.raises(UnderwayError, match=text):
                client.patch(
                    "kopfexample", obj["metadata"]["name"], {"spec": {"field": field}}, space
                )
        client.delete("kopfexample", obj["metadata"]["name"], space)
        for kind in hooks:
            client.delete(kind, "auto.kopf.dev")
