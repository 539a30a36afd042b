"""kubectl chooses HTTP/2 where the server offers it, and does without where it is told to."""

from __future__ import annotations

import pytest
from tests.server.cluster import Cluster

from underway.transport.http2 import Http2Connection


@pytest.mark.peer
@pytest.mark.parametrize(("told", "expected"), [({}, True), ({"DISABLE_HTTP2": "true"}, False)])
def test_kubectl_speaks_the_version_it_is_free_to_choose(tmp_path, monkeypatch, told, expected):
    made = []
    plain = Http2Connection.connection_made

    def counted(self, transport):
        made.append(self)
        plain(self, transport)

    monkeypatch.setattr(Http2Connection, "connection_made", counted)
    with Cluster(tmp_path) as cluster:
        assert "kube-system" in cluster.kubectl("get", "namespaces", env=told)
    assert bool(made) == expected
