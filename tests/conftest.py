"""In CI no peer may be missing: a test that skips for want of one would prove nothing."""

from __future__ import annotations

import os
import shutil

import pytest

PEERS = (
    "buildah", "busybox", "chromium", "conmon", "dig", "docker-registry", "git", "gpgv", "ip", "nft",
    "notary", "runc", "skopeo",
)  # fmt: skip


def pytest_sessionstart(session: pytest.Session) -> None:
    missing = [name for name in PEERS if not shutil.which(name)]
    if missing and os.environ.get("CI"):
        pytest.exit(f"missing: {', '.join(missing)}; run `make setup-test`", returncode=1)
