"""The pytest plugin: fixtures that give a cluster. Loads nothing until a test asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from underway.testing.cluster import Cluster


@pytest.fixture
def underway_cluster() -> Iterator[Cluster]:
    """A cluster of this test's own: API, workload controllers, scheduler, one simulated node."""
    from underway.testing.cluster import Cluster

    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def underway_cluster_session() -> Iterator[Cluster]:
    """One such cluster for all tests of a run; keep tests apart by namespaces."""
    from underway.testing.cluster import Cluster

    with Cluster() as cluster:
        yield cluster
