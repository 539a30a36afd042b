"""Serves the Notary service of the home given as argument, over TLS, until it is killed."""

import asyncio
import json
import sys
from pathlib import Path

from underway.base.home import Home
from underway.capabilities.signing.routes import notary
from underway.transport import front, pki


async def main(home):
    context = pki.server_context(home.pki / "apiserver.crt", home.pki / "apiserver.key")
    async with await front.serve(notary.app(home, None), port=0, tls=context) as server:
        print(json.dumps({"port": server.port}), flush=True)
        await asyncio.Event().wait()


asyncio.run(main(Home(Path(sys.argv[1]))))
