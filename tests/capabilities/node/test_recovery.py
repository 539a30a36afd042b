"""The agent is killed, and so are shims: what ran is accounted for."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from underway.api.objects import Object
from underway.api.resources import PODS
from underway.base.home import Home
from underway.capabilities.node.backend.layout import Layout
from underway.capabilities.node.backend.records import Records
from underway.capabilities.node.backend.teardown import teardown
from underway.client import Client
from underway.linux import mounts
from underway.linux.cgroups import Cgroups
from underway.linux.network import PodNetwork
from underway.linux.oci_runtime import OciRuntime, end_shim
from underway.server.app import ApiServer

from .conftest import NAMESPACE, condition, pod_of, running_node, shell, state_of

pytestmark = pytest.mark.privileged

PROCESS = Path(__file__).with_name("agent_process.py")
FOREVER = "trap 'exit 0' TERM; while true; do sleep 0.1; done"


def test_containers_outlive_the_agent_and_are_found_again(home: Home) -> None:
    async def main() -> None:
        async with running_node(home) as node:
            container = shell("c", FOREVER, readinessProbe={"exec": {"command": ["true"]}})
            await node.create(pod_of("a", container))
            before = await node.until("a", lambda pod: condition(pod, "Ready") == "True")
        async with running_node(home) as node:
            # A change that only a running agent makes shows that it has taken the pod up.
            await node.create(pod_of("b", shell("c", "exit 0"), restartPolicy="Never"))
            await node.until_phase("b", "Succeeded")
            after = await node.until("a", lambda pod: condition(pod, "Ready") == "True")
            assert state_of(after)["containerID"] == state_of(before)["containerID"]
            assert state_of(after)["restartCount"] == 0
            assert after["status"]["podIP"] == before["status"]["podIP"]
            await node.delete("a")
            assert not Cgroups().processes(Layout(home).slice)

    asyncio.run(main())


def test_after_kill_of_agent_and_shims_all_is_made_true_again(home: Home) -> None:
    async def after() -> None:
        async with running_node(home) as node:
            shimless = await node.until(
                "shimless",
                lambda pod: (
                    state_of(pod).get("restartCount") == 1 and condition(pod, "Ready") == "True"
                ),
            )
            last = state_of(shimless)["lastState"]["terminated"]
            assert (last["exitCode"], last["reason"]) == (137, "ContainerStatusUnknown")
            kept = await node.until("kept", lambda pod: condition(pod, "Ready") == "True")
            assert state_of(kept)["containerID"] == state_of(before["kept"])["containerID"]
            async with asyncio.timeout(20):
                gone = layout.pod(before["deleted"]["metadata"]["uid"])
                while gone.exists():  # noqa: ASYNC110  # files tell nobody
                    await asyncio.sleep(0.05)
            assert len(node.agent.pods()) == 2
            assert len(OciRuntime("runc", layout.runtime, layout.exits).ids()) == 2
            for name in ("kept", "shimless"):
                await node.delete(name)
            assert not Cgroups().processes(layout.slice)
            assert not mounts.mounts_below(layout.pods)

    async def delete_while_no_agent_runs() -> None:
        server = ApiServer(home)
        await server.start()
        try:
            client = Client(server.as_user("admin", ["system:masters"]))
            await client.delete(PODS, "deleted", NAMESPACE, grace_period_s=0)
        finally:
            await server.stop()

    layout = Layout(home)
    pods = [pod_of(name, shell("c", FOREVER)) for name in ("kept", "shimless", "deleted")]
    with subprocess.Popen(
        [sys.executable, str(PROCESS), str(home.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps(pods) + "\n")
            process.stdin.flush()
            before = {pod["metadata"]["name"]: pod for pod in json.loads(process.stdout.readline())}
        finally:
            process.kill()
    (run,) = Records(layout).of_pod(before["shimless"]["metadata"]["uid"])["c"]
    os.kill(run.shim_pid, signal.SIGKILL)
    asyncio.run(delete_while_no_agent_runs())
    asyncio.run(after())


def test_pods_start_anew_when_their_network_and_mounts_are_gone(home: Home) -> None:
    """As after a reboot, when only files remain."""

    async def before() -> Object:
        async with running_node(home) as node:
            await node.create(pod_of("a", shell("c", FOREVER)))
            return await node.until("a", lambda pod: condition(pod, "Ready") == "True")

    async def after(earlier: Object) -> None:
        async with running_node(home) as node:
            pod = await node.until(
                "a",
                lambda pod: (
                    state_of(pod).get("restartCount") == 1 and condition(pod, "Ready") == "True"
                ),
            )
            assert pod["metadata"]["uid"] == earlier["metadata"]["uid"]
            await node.delete("a")

    earlier = asyncio.run(before())
    layout = Layout(home)
    Cgroups().kill(layout.slice)
    (run,) = Records(layout).of_pod(earlier["metadata"]["uid"])["c"]
    end_shim(run.shim_pid, run.id)
    shutil.rmtree(layout.runtime)
    PodNetwork(home.id, home.load_settings().pod_cidr).remove()
    for point in mounts.mounts_below(layout.pods):
        mounts.unmount(point)
    asyncio.run(after(earlier))


def test_teardown_stops_everything_and_the_next_start_brings_it_back(home: Home) -> None:
    async def first() -> None:
        async with running_node(home) as node:
            await node.create(pod_of("a", shell("c", FOREVER)))
            await node.until("a", lambda pod: condition(pod, "Ready") == "True")

    async def again() -> None:
        async with running_node(home) as node:
            pod = await node.until("a", lambda pod: state_of(pod).get("restartCount") == 1)
            assert state_of(pod)["lastState"]["terminated"]["exitCode"] == 0
            await node.until("a", lambda pod: condition(pod, "Ready") == "True")

    asyncio.run(first())
    layout, cgroups = Layout(home), Cgroups()
    teardown(home)
    assert not cgroups.processes(layout.slice)
    assert not mounts.mounts_below(home.root)
    assert not PodNetwork(home.id, home.load_settings().pod_cidr).attachments()
    teardown(home)
    asyncio.run(again())
