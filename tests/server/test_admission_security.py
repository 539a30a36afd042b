"""PodSecurity."""

from __future__ import annotations

import json

import pytest
from tests.server.cluster import Cluster
from tests.server.running import pod, request, serve

from underway.api.resources import NAMESPACES, PODS
from underway.base.errors import Forbidden, Invalid
from underway.server.admission.standards import violations

LABEL = "pod-security.kubernetes.io/"
PERFECT = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESTRICTED = (
    'allowPrivilegeEscalation != false (container "main" must set'
    " securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container"
    ' "main" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or'
    ' container "main" must set securityContext.runAsNonRoot=true), seccompProfile (pod or'
    ' container "main" must set securityContext.seccompProfile.type to "RuntimeDefault" or'
    ' "Localhost")'
)


def space(name, **levels):
    labels = {LABEL + mode.replace("_", "-"): level for mode, level in levels.items()}
    return {"metadata": {"name": name, "labels": labels}}


def secured(security=None, name="p", **spec):
    containers = [{"name": "main", "image": "nginx", "securityContext": security or {}}]
    return pod(name, **{"containers": containers, **spec})


def texts(level, obj):
    return [str(each) for each in violations(level, obj)]


def test_a_plain_pod_keeps_the_baseline_and_a_hardened_one_every_level():
    assert texts("baseline", pod("p")) == []
    assert texts("restricted", secured(PERFECT)) == []
    assert texts("privileged", secured({"privileged": True})) == []
    assert ", ".join(texts("restricted", pod("p"))) == RESTRICTED


def with_volume(**source):
    return secured(PERFECT, volumes=[{"name": "v", **source}])


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        (
            secured({"privileged": True}),
            'privileged (container "main" must not set securityContext.privileged=true)',
        ),
        (
            pod("p", hostNetwork=True, hostPID=True),
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (with_volume(hostPath={"path": "/"}), 'hostPath volumes (volume "v")'),
        (
            secured({"capabilities": {"add": ["NET_ADMIN", "CHOWN"]}}),
            (
                'non-default capabilities (container "main" must not include "NET_ADMIN" in'
                " securityContext.capabilities.add)"
            ),
        ),
        (
            pod("p", containers=[{"name": "main", "ports": [{"hostPort": 80}]}]),
            'hostPort (container "main" uses hostPort 80)',
        ),
        (
            secured({"procMount": "Unmasked"}),
            'procMount (container "main" must not set securityContext.procMount to "Unmasked")',
        ),
        (
            secured(securityContext={"sysctls": [{"name": "kernel.msgmax"}]}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            secured({"seccompProfile": {"type": "Unconfined"}}),
            (
                'seccompProfile (container "main" must not set securityContext.seccompProfile.type to'
                ' "Unconfined")'
            ),
        ),
        (
            secured(securityContext={"seLinuxOptions": {"type": "x_t", "user": "u"}}),
            (
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions:"
                ' type "x_t"; user may not be set)'
            ),
        ),
        (
            secured(securityContext={"appArmorProfile": {"type": "Unconfined"}}),
            'forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")',
        ),
        (
            secured({"windowsOptions": {"hostProcess": True}}),
            (
                'hostProcess (container "main" must not set'
                " securityContext.windowsOptions.hostProcess=true)"
            ),
        ),
    ],
)
def test_what_breaks_the_baseline(obj, text):
    assert texts("baseline", obj) == [text]


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        (
            with_volume(hostPath={"path": "/"}),
            'restricted volume types (volume "v" uses restricted volume type "hostPath")',
        ),
        (
            secured({**PERFECT, "runAsUser": 0}),
            'runAsUser=0 (container "main" must not set runAsUser=0)',
        ),
        (
            secured({**PERFECT, "runAsNonRoot": False}),
            (
                'runAsNonRoot != true (container "main" must not set'
                " securityContext.runAsNonRoot=false)"
            ),
        ),
        (
            secured({**PERFECT, "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}),
            (
                'unrestricted capabilities (container "main" must not include "CHOWN" in'
                " securityContext.capabilities.add)"
            ),
        ),
    ],
)
def test_what_breaks_the_restricted_level(obj, text):
    assert texts("restricted", obj) == [text]


def test_an_enforced_level_keeps_pods_out(tmp_path):
    async def scenario(_server, admin):
        await admin.create(NAMESPACES, space("strict", enforce="restricted"))
        bad, good = pod("p"), secured(PERFECT, "good")
        for each in (bad, good):
            each["metadata"]["namespace"] = "strict"
        with pytest.raises(Forbidden) as caught:
            await admin.create(PODS, bad)
        assert caught.value.message == (
            f'pods "p" is forbidden: violates PodSecurity "restricted:latest": {RESTRICTED}'
        )
        await admin.create(PODS, good)

    serve(tmp_path, scenario)


def test_labels_that_mean_nothing_are_refused(tmp_path):
    async def scenario(_server, admin):
        with pytest.raises(Invalid, match="must be one of privileged, baseline, restricted"):
            await admin.create(NAMESPACES, space("a", enforce="tight"))
        with pytest.raises(Invalid, match=r'must be "latest" or "v1\.x"'):
            await admin.create(NAMESPACES, space("a", warn="baseline", warn_version="2"))

    serve(tmp_path, scenario)


def test_a_warned_level_lets_pods_in_and_says_why_it_should_not(tmp_path):
    async def scenario(server, admin):
        await admin.create(NAMESPACES, space("w", warn="restricted", warn_version="v1.30"))
        handle = server.as_user("admin", ["system:masters"])
        body = json.dumps(pod("p")).encode()
        response = await handle(request("POST", "/api/v1/namespaces/w/pods", body=body))
        assert response.status == 201
        assert 'would violate PodSecurity \\"restricted:v1.30\\"' in response.headers["warning"]

    serve(tmp_path, scenario)


@pytest.mark.peer
def test_kubectl_shows_denials_and_warnings(tmp_path):
    with Cluster(tmp_path) as cluster:
        cluster.kubectl("create", "namespace", "team")
        cluster.kubectl("run", "old", "--image=nginx", "-n", "team")
        label = ("label", "--overwrite", "namespace", "team", f"{LABEL}enforce=restricted")
        done = cluster.kubectl(*label, check=False)
        assert done.returncode == 0
        assert 'violate the new PodSecurity enforce level "restricted:latest"' in done.stderr
        assert "Warning: old: allowPrivilegeEscalation != false, unrestricted" in done.stderr
        done = cluster.kubectl("run", "new", "--image=nginx", "-n", "team", check=False)
        assert done.returncode == 1
        assert (
            'Error from server (Forbidden): pods "new" is forbidden: violates PodSecurity'
            ' "restricted:latest": allowPrivilegeEscalation != false (container "new"'
        ) in done.stderr
        warn = ("label", "namespace", "default", f"{LABEL}warn=baseline")
        cluster.kubectl(*warn)
        overrides = json.dumps({"spec": {"hostNetwork": True}})
        done = cluster.kubectl(
            "run", "host", "--image=nginx", f"--overrides={overrides}", check=False
        )
        assert done.returncode == 0
        assert (
            'Warning: would violate PodSecurity "baseline:latest": host namespaces'
            " (hostNetwork=true)"
        ) in done.stderr
