"""Run by the peers' Python, which has gRPC: the gateway of the home given; prints its port."""

import asyncio
import signal
import sys
from pathlib import Path

OURS = Path(__file__).parents[3]
sys.path += [str(OURS / "src"), *map(str, OURS.glob(".venv/lib/python*/site-packages"))]

from underway.base.home import Home  # noqa: E402
from underway.capabilities.provenance.routes import grpc  # noqa: E402


async def main() -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            grpc.serve(Home(Path(sys.argv[1])), 0, lambda port: print(port, flush=True))
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


asyncio.run(main())
