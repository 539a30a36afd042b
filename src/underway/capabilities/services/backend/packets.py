"""Putting the ruleset into the kernel: the first time whole, then only what changed. All blocks."""

from __future__ import annotations

import logging

from underway.base.errors import InternalError, UnderwayError
from underway.base.home import Home
from underway.capabilities.services.rules.packets import Frame, Ruleset, change, stale_udp, whole
from underway.linux import conntrack, nft
from underway.linux.network import PodNetwork

log = logging.getLogger(__name__)


def teardown(home: Home) -> None:
    """Take the platform's bridge, pods' links and namespaces, and tables away."""
    PodNetwork(home.id, home.load_settings().pod_cidr).remove()


class PacketRules:
    """The table of one platform's Services, and the pods' network under it."""

    def __init__(self, network: PodNetwork, frame: Frame) -> None:
        self._network = network
        self._frame = frame
        self._applied: Ruleset | None = None
        self.tables = frozenset({network.table, frame.table})

    def prepare(self) -> None:
        """Make the bridge and lead the Services' range to it."""
        self._network.ensure()
        cidr = self._frame.service_cidr
        if other := self._network.route(cidr):
            log.warning(
                "the link %s has the services' range %s too: from this machine, Services of one "
                "platform hide those of the other; change service_cidr in settings.json",
                other,
                cidr,
            )

    def apply(self, ruleset: Ruleset) -> None:
        """Make the kernel hold ``ruleset``.

        Raises:
            InternalError: the kernel refused it; what it held before it still holds.
        """
        before, self._applied = self._applied, None
        if before is None:
            nft.apply(whole(ruleset, self._frame))
        elif script := change(before, ruleset, self._frame):
            try:
                nft.apply(script)
            except InternalError as error:
                log.warning("the table %s is not as it was left: %s", self._frame.table, error)
                nft.apply(whole(ruleset, self._frame))
        self._applied = ruleset
        if before is not None:
            self._forget_flows(before, ruleset)

    def restore(self) -> bool:
        """After tables were deleted: make the network's anew if its own is gone.

        Returns:
            Whether ``apply`` has to write everything again.
        """
        present = set(nft.tables())
        if self._network.table not in present:
            self.prepare()
        if self._frame.table in present:
            return False
        self._applied = None
        return True

    def _forget_flows(self, old: Ruleset, new: Ruleset) -> None:
        """Cut UDP flows to endpoints that are no longer any of their Service's."""
        stale = stale_udp(old, new)
        if not stale:
            return
        try:
            conntrack.forget_udp(lambda flow: stale.covers(flow.sent_to, flow.answered_by))
        except UnderwayError as error:
            # The flows then end by themselves, after the kernel's time-out for UDP.
            log.warning("%s", error)
