"""/metrics counts what was answered, for those who may see it."""

import re

import pytest
from tests.server.cluster import Cluster
from tests.server.running import configmap, request, serve

from underway.api.resources import CONFIGMAPS

LINE = re.compile(r'[a-z_:]+(\{([a-z_]+="[^"\n]*",?)*\})? [0-9.e+-]+')


def value(text, name, **labels):
    """The sum of a metric's samples that have these labels."""
    total = 0.0
    for line in text.splitlines():
        if line.startswith((f"{name}{{", f"{name} ")) and all(
            f'{key}="{wanted}"' in line for key, wanted in labels.items()
        ):
            total += float(line.rpartition(" ")[2])
    return total


def test_requests_are_counted_by_verb_resource_and_code(tmp_path):
    async def scenario(server, client):
        admin = server.as_user("admin", ["system:masters"])

        async def scrape():
            return (await admin(request("GET", "/metrics"))).body.decode()

        await client.create(CONFIGMAPS, configmap("a"), "default")
        path = "/api/v1/namespaces/default/configmaps/none"
        assert (await admin(request("GET", path))).status == 404
        text = await scrape()
        assert all(LINE.fullmatch(x) for x in text.splitlines() if not x.startswith("#"))
        where = {"resource": "configmaps", "group": "", "version": "v1"}
        assert value(text, "apiserver_request_total", verb="POST", code="201", **where) == 1
        assert value(text, "apiserver_request_total", verb="GET", code="404", **where) == 1
        name = "apiserver_request_duration_seconds"
        assert value(text, f"{name}_bucket", verb="POST", le="+Inf", **where) == 1
        assert value(text, f"{name}_count", verb="POST", **where) == 1
        assert value(text, "apiserver_resource_objects", resource="configmaps") >= 1
        assert value(text, "process_resident_memory_bytes") > 1_000_000

    serve(tmp_path, scenario)


def test_a_watch_counts_as_running_until_it_ends(tmp_path):
    async def scenario(server, client):
        admin = server.as_user("admin", ["system:masters"])

        async def running():
            text = (await admin(request("GET", "/metrics"))).body.decode()
            where = {"verb": "WATCH", "resource": "configmaps"}
            return (
                value(text, "apiserver_longrunning_requests", **where),
                value(text, "apiserver_request_total", **where),
            )

        await client.create(CONFIGMAPS, configmap("a"), "default")
        path = "/api/v1/namespaces/default/configmaps"
        answer = await admin(request("GET", path, "watch=true"))
        assert b"ADDED" in await anext(answer.body)
        assert await running() == (1, 0)
        await answer.body.aclose()
        assert await running() == (0, 1)

    serve(tmp_path, scenario)


def test_made_up_paths_make_no_new_series(tmp_path):
    async def scenario(server, _client):
        admin = server.as_user("admin", ["system:masters"])
        for number in range(20):
            await admin(request("GET", f"/apis/x{number}.example/v1/things"))
            await admin(request("GET", f"/api/v1/namespaces/default/pods/a/sub{number}"))
        text = (await admin(request("GET", "/metrics"))).body.decode()
        series = [x for x in text.splitlines() if x.startswith("apiserver_request_total{")]
        assert len([x for x in series if 'code="404"' in x]) == 1

    serve(tmp_path, scenario)


@pytest.mark.peer
def test_kubectl_reads_them_and_others_may_not(tmp_path):
    with Cluster(tmp_path) as cluster:
        assert "# TYPE apiserver_request_total counter" in cluster.kubectl(
            "get", "--raw", "/metrics"
        )
        refused = cluster.kubectl("get", "--raw", "/metrics", "--as=jane", check=False)
        assert "forbidden" in refused.stderr.lower()
        bind = ("create", "clusterrolebinding", "m", "--clusterrole=system:monitoring")
        cluster.kubectl(*bind, "--user=jane")
        assert "apiserver_request_total" in cluster.kubectl("get", "--raw", "/metrics", "--as=jane")
