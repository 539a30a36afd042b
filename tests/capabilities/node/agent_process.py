"""An API server and a node agent in a process of their own, to be killed.

``agent_process HOME`` makes the pods given on its input, and prints them once all are running.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from underway.api.resources import PODS
from underway.base.home import Home
from underway.capabilities.node.controller.setup import build
from underway.client import Client
from underway.reconcile.manager import Manager
from underway.reconcile.testenv import Environment
from underway.server.app import ApiServer


async def main(home: Home) -> None:
    server = ApiServer(home)
    await server.start()
    environment = Environment(server.as_user("admin", ["system:masters"]))
    user = server.as_user("system:node:testnode", ["system:nodes"])
    environment.manager = Manager(Client(user))
    agent, _api = build(environment.manager, home)
    environment.manager.add_runnable(agent.run, "agent")
    async with asyncio.TaskGroup() as group:
        group.create_task(environment.manager.run())
        wanted = json.loads(sys.stdin.readline())
        for pod in wanted:
            await environment.client.create(PODS, pod)
        running = await environment.until(
            PODS,
            lambda pods: (
                pods
                if len(pods) == len(wanted)
                and all(pod.get("status", {}).get("phase") == "Running" for pod in pods.values())
                else None
            ),
        )
        print(json.dumps(list(running.values())), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Home(Path(sys.argv[1]))))
