"""The API server alone, without controllers: what benchmarks/api.py puts beside etcd.

python -m benchmarks.api_server HOME PORT
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from underway.base.home import Home, Settings
from underway.base.memory import collect_seldom
from underway.server.app import ApiServer
from underway.transport import front, pki


async def run(home: Home, port: int) -> None:
    """Serve until SIGTERM."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    keys = home.pki
    tls = pki.server_context(keys / "apiserver.crt", keys / "apiserver.key", keys / "ca.crt")
    server = ApiServer(home, settings=Settings(api_port=port))
    await server.start()
    try:
        async with await front.serve(server.handle, port=port, tls=tls):
            collect_seldom()
            await asked.wait()
    finally:
        await server.stop()


def main() -> None:
    uvloop.run(run(Home(Path(sys.argv[1])), int(sys.argv[2])))


if __name__ == "__main__":
    main()
