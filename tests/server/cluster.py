"""A whole API server over TLS, in a thread of the test's own process, and kubectl against it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from base64 import b64encode
from pathlib import Path

import yaml
from tests.peers import kubectl

from underway.base.home import Home, Settings
from underway.client import Client
from underway.server.app import ApiServer
from underway.transport import front, pki


class Cluster:
    """Serves until the ``with`` block ends."""

    def __init__(self, root: Path, **options) -> None:
        self.home = Home(root)
        self.options = options
        self.error: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cluster")

    def __enter__(self):
        self._thread.start()
        assert self._started.wait(60)
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *_exc):
        self.loop.call_soon_threadsafe(self.stopping.set)
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def _run(self):
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # raised again in the test's thread
            self.error = error
        finally:
            self._started.set()

    async def _serve(self):
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        settings = Settings()
        pki.ensure_pki(self.home, settings)
        keys = self.home.pki
        tls = pki.server_context(keys / "apiserver.crt", keys / "apiserver.key", keys / "ca.crt")
        self.api = ApiServer(self.home, settings=settings, **self.options)
        await self.api.start()
        try:
            async with await front.serve(self.api.handle, tls=tls, http2=True) as server:
                self.url = f"https://127.0.0.1:{server.port}"
                self.admin = Client(self.api.as_user("admin", ["system:masters"]))
                self._started.set()
                await self.stopping.wait()
        finally:
            await self.api.stop()

    def call(self, coroutine):
        """Run a coroutine on the server's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def kubeconfig(self, cert="admin", token="") -> Path:
        """A kubeconfig for one of the home's client certificates, or for a token."""
        keys = self.home.pki
        user = {"token": token}
        if not token:
            user = {
                "client-certificate-data": b64encode((keys / f"{cert}.crt").read_bytes()).decode(),
                "client-key-data": b64encode((keys / f"{cert}.key").read_bytes()).decode(),
            }
        authority = b64encode((keys / "ca.crt").read_bytes()).decode()
        cluster = {"server": self.url, "certificate-authority-data": authority}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = self.home.root / f"kubeconfig-{'token' if token else cert}"
        path.write_text(yaml.safe_dump(config))
        return path

    def kubectl(self, *words, stdin=None, check=True, config=None, env=None, timeout=60):
        """Run kubectl; its standard output, or with ``check=False`` the finished process."""
        environment = {
            **os.environ,
            "KUBECONFIG": str(config or self.kubeconfig()),
            "HOME": str(self.home.root),
            "TMPDIR": str(self.home.root),
            **(env or {}),
        }
        done = subprocess.run(
            [str(kubectl()), *words],
            input=stdin,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
        )
        if not check:
            return done
        assert done.returncode == 0, f"kubectl {' '.join(words)}:\n{done.stdout}{done.stderr}"
        return done.stdout
