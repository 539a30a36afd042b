"""What admission looks like to people: kubectl against the server."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.server.cluster import Cluster
from tests.server.running import pod
from tests.server.webhooks import configuration, entry, hooked

pytestmark = pytest.mark.peer


def test_kubectl_registers_a_webhook_and_shows_its_denial_and_warning(tmp_path):
    def decide(asked):
        if asked["object"]["data"].get("color") == "blue":
            return {"allowed": False, "status": {"code": 403, "message": "no blue things"}}
        return {"warnings": ["green is better"]}

    def drive(cluster, hook):
        hooks = configuration("Validating", "colors", entry(hook.client))
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(hooks))
        listed = cluster.kubectl("get", "validatingwebhookconfigurations")
        assert listed.split()[:3] == ["NAME", "WEBHOOKS", "AGE"]
        create = ("create", "configmap", "c", "--from-literal")
        done = cluster.kubectl(*create, "color=blue", check=False)
        assert done.returncode == 1
        assert done.stderr.strip() == (
            'error: failed to create configmap: admission webhook "hook.example.com" denied the'
            " request: no blue things"
        )
        done = cluster.kubectl(*create, "color=red", check=False)
        assert done.returncode == 0
        assert "Warning: green is better" in done.stderr

    async def main(cluster):
        async with hooked(tmp_path / "hook", decide) as hook:
            await asyncio.to_thread(drive, cluster, hook)

    with Cluster(tmp_path / "home") as cluster:
        cluster.call(main(cluster))


def test_kubectl_shows_quotas_and_what_exceeds_them(tmp_path):
    with Cluster(tmp_path) as cluster:
        cluster.kubectl("create", "quota", "small", "--hard=pods=1,configmaps=5")
        cluster.kubectl("run", "a", "--image=nginx")
        done = cluster.kubectl("run", "b", "--image=nginx", check=False)
        assert done.returncode == 1
        assert done.stderr.strip() == (
            'Error from server (Forbidden): pods "b" is forbidden: exceeded quota: small,'
            " requested: pods=1, used: pods=1, limited: pods=1"
        )
        cluster.kubectl(
            "wait", "quota/small", "--for=jsonpath={.status.used.pods}=1", "--timeout=20s"
        )
        described = cluster.kubectl("describe", "quota", "small").split()
        assert described[-3:] == ["pods", "1", "1"]


def test_kubectl_replaces_a_running_pod_only_with_all_that_it_was_given(tmp_path):
    manifest = json.dumps(pod("a"))
    with Cluster(tmp_path) as cluster:
        cluster.kubectl("create", "-f", "-", stdin=manifest)
        done = cluster.kubectl("replace", "-f", "-", stdin=manifest, check=False)
        assert done.returncode == 1
        assert 'The Pod "a" is invalid: spec: Forbidden: pod updates may not' in done.stderr
        cluster.kubectl("replace", "--force", "--grace-period=0", "-f", "-", stdin=manifest)
        whole = json.loads(cluster.kubectl("get", "pod", "a", "-o", "json"))
        whole["spec"]["containers"][0]["image"] = "nginx:2"
        for name in ("priority", "preemptionPolicy", "tolerations"):
            del whole["spec"][name]
        cluster.kubectl("replace", "-f", "-", stdin=json.dumps(whole))
        shown = cluster.kubectl("get", "pod", "a", "-o", "jsonpath={..image} {.spec.priority}")
        assert shown == "nginx:2 0"
