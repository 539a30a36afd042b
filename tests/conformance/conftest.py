"""One cluster for the whole folder: nodes that run nothing, and a namespace for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.world import World
from underway.testing import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster(nodes=2) as cluster:
        yield cluster


@pytest.fixture
def world(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[World]:
    """The cluster as an administrator sees it, in a namespace of the test's own."""
    with World.of(cluster, request.node.name) as world:
        yield world
