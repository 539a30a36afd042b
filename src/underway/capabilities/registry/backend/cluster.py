"""The cluster's service accounts: their tokens are shown to the API server, which knows them.

Source: Kubernetes API reference, ``TokenReview`` (authentication.k8s.io/v1).
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from pathlib import Path

from underway.api.resources import TOKENREVIEWS
from underway.base.clock import Clock
from underway.base.errors import UnderwayError
from underway.base.threads import run_blocking
from underway.capabilities.registry.rules import access
from underway.client import kubeconfig

log = logging.getLogger(__name__)

_VALID_S = 60.0  # how long an answer is believed
_REMEMBERED = 1024
_LIMIT = 16_384  # characters of a token


class ClusterTokens:
    """Asks the cluster that a kubeconfig names. Answers are kept by the token's digest."""

    def __init__(self, config: Path, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def review(self, token: str) -> str:
        """Whose token this is, as far as ``learn`` was told; empty for nobody's."""
        until, name = self._known.get(_digest(token), (0.0, ""))
        return name if until > self._clock.now().timestamp() else ""

    async def learn(self, header: str) -> None:
        """Ask about the password in an ``Authorization`` header, if that looks like a token."""
        if not header[:6].lower().startswith("basic "):
            return
        basic = access.parse_basic(header)
        if basic is not None:
            await self.learn_token(basic[1])

    async def learn_token(self, token: str) -> None:
        """Ask about what may be a token; it is nobody's where the cluster does not answer."""
        if not access.looks_like_token(token) or len(token) > _LIMIT:
            return
        key, now_s = _digest(token), self._clock.now().timestamp()
        if self._known.get(key, (0.0, ""))[0] > now_s or not self._config.exists():
            return
        try:
            self._known[key] = (now_s + _VALID_S, await self._ask(token))
        except UnderwayError as error:
            log.warning("a service account's token could not be reviewed: %s", error)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def _ask(self, token: str) -> str:
        client = await run_blocking(kubeconfig.load, self._config)
        try:
            review = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token},
            }
            status = (await client.create(TOKENREVIEWS, review)).get("status") or {}
        finally:
            await client.aclose()
        return str(status["user"]["username"]) if status.get("authenticated") else ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
