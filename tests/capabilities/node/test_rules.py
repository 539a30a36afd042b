"""The node agent's decisions, without a machine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.api.objects import Object
from underway.base.clock import rfc3339
from underway.base.errors import BadRequest, NotFound
from underway.capabilities.node.model import (
    ContainerRecord,
    Observed,
    Sandbox,
    Stopping,
    Verdict,
    Waiting,
)
from underway.capabilities.node.rules import commands, identity, limits, names, oci_spec, payload
from underway.capabilities.node.rules import plan as rules
from underway.capabilities.node.rules.environment import Sources, environment, expand
from underway.capabilities.node.rules.fields import Machine, field_value
from underway.capabilities.node.rules.probing import Tally, Timing
from underway.capabilities.node.rules.status import pod_status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MACHINE = Machine("n", "192.0.2.1", 2000, 1 << 30)


def pod_of(*containers: Object, **spec: Any) -> Object:
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "b"}},
        "spec": {"containers": list(containers) or [{"name": "c", "image": "i"}], **spec},
    }


def run(name: str = "c", **fields: Any) -> ContainerRecord:
    values: dict[str, Any] = {
        "id": f"{name}-{fields.get('attempt', 0)}",
        "pod_uid": "u",
        "name": name,
        "image": "i",
        "started_at": rfc3339(NOW - timedelta(seconds=60)),
        **fields,
    }
    return ContainerRecord(**values)


def ended(name: str = "c", code: int = 0, ago_s: float = 1, **fields: Any) -> ContainerRecord:
    finished_at = rfc3339(NOW - timedelta(seconds=ago_s))
    return run(name, finished_at=finished_at, exit_code=code, **fields)


def seen(**fields: Any) -> Observed:
    values: dict[str, Any] = {"sandbox": Sandbox("10.0.0.2"), **fields}
    return Observed(NOW, **values)


def test_a_new_pod_gets_its_sandbox_then_its_image_then_its_container() -> None:
    pod = pod_of()
    assert rules.plan(pod, seen(sandbox=None)).actions == [rules.PrepareSandbox()]
    assert rules.plan(pod, seen()).actions == [rules.Pull("c")]
    assert rules.plan(pod, seen(pulling=frozenset("c"))).actions == []
    assert rules.plan(pod, seen(images=frozenset("c"))).actions == [rules.Start("c", 0, 0)]


def test_what_failed_is_tried_again_only_when_due() -> None:
    later = NOW + timedelta(seconds=7)
    held = {"c": Waiting("ErrImagePull", "no", later, 1)}
    plan = rules.plan(pod_of(), seen(waiting=held))
    assert (plan.actions, plan.wait_s) == ([], 7)


def test_back_off_grows_from_nothing_over_ten_seconds_to_five_minutes() -> None:
    record, delays = ended(), []
    for attempt in range(9):
        delays.append(record.backoff_s)
        backoff = rules.next_backoff_s(record)
        record = ended(attempt=attempt + 1, backoff_s=backoff)
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_container_that_ran_long_starts_at_once_and_begins_the_back_off_anew() -> None:
    record = ended(backoff_s=300, started_at=rfc3339(NOW - timedelta(seconds=700)))
    plan = rules.plan(pod_of(), seen(containers={"c": [record]}, images=frozenset("c")))
    assert plan.actions == [rules.Start("c", 1, 10)]


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [
        ("Always", 0, None),
        ("Always", 1, None),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, None),
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
    ],
)
def test_the_restart_policy_decides_whether_the_pod_is_over(
    policy: str, code: int, phase: str | None
) -> None:
    pod = pod_of(restartPolicy=policy)
    found = rules.outcome(pod, seen(containers={"c": [ended(code=code)]}))
    assert (found.phase if found else None) == phase


def test_a_pod_past_its_deadline_fails_and_is_stopped() -> None:
    pod = pod_of(activeDeadlineSeconds=30)
    pod["status"] = {"startTime": rfc3339(NOW - timedelta(seconds=31))}
    observed = seen(containers={"c": [run()]})
    found = rules.outcome(pod, observed)
    assert found
    assert found.reason == "DeadlineExceeded"
    assert isinstance(rules.plan(pod, observed).actions[0], rules.Stop)


def test_a_stop_is_followed_by_a_kill_when_the_grace_is_over() -> None:
    pod = pod_of()
    pod["metadata"] |= {"deletionTimestamp": rfc3339(NOW), "deletionGracePeriodSeconds": 10}
    runs = {"c": [run()]}
    assert rules.plan(pod, seen(containers=runs)).actions == [rules.Stop("c-0", "c", 10.0)]
    begun = {"c-0": Stopping(NOW - timedelta(seconds=4), 10)}
    plan = rules.plan(pod, seen(containers=runs, stopping=begun))
    assert (plan.actions, plan.wait_s) == ([], 6)
    begun = {"c-0": Stopping(NOW - timedelta(seconds=10), 10)}
    plan = rules.plan(pod, seen(containers=runs, stopping=begun))
    assert plan.actions == [rules.Kill("c-0", "c")]
    assert rules.plan(pod, seen(containers={"c": [ended()]})).actions == [rules.Forget()]


def test_sidecars_start_before_and_stop_after_the_rest() -> None:
    pod = pod_of(initContainers=[{"name": "s", "image": "i", "restartPolicy": "Always"}])
    assert rules.plan(pod, seen()).actions == [rules.Pull("s")]
    starting = seen(containers={"s": [run("s")]}, verdicts={"s-0": Verdict(started=False)})
    assert rules.plan(pod, starting).actions == []
    assert rules.plan(pod, seen(containers={"s": [run("s")]})).actions == [rules.Pull("c")]
    pod["metadata"]["deletionTimestamp"] = rfc3339(NOW)
    both = seen(containers={"s": [run("s")], "c": [run()]})
    assert [action.name for action in rules.plan(pod, both).actions] == ["c"]  # type: ignore[union-attr]
    alone = seen(containers={"s": [run("s")], "c": [ended()]})
    assert [action.name for action in rules.plan(pod, alone).actions] == ["s"]  # type: ignore[union-attr]


def test_a_failed_probe_stops_the_container_with_the_probes_grace() -> None:
    failed = {"c-0": Verdict(failure="Container c failed liveness probe", grace_s=3)}
    plan = rules.plan(pod_of(), seen(containers={"c": [run()]}, verdicts=failed))
    (stop,) = plan.actions
    assert isinstance(stop, rules.Stop)
    assert (stop.grace_s, stop.reason) == (
        3,
        "Container c failed liveness probe, will be restarted",
    )


def test_an_image_that_changed_restarts_its_container() -> None:
    pod = pod_of({"name": "c", "image": "other"})
    (stop,) = rules.plan(pod, seen(containers={"c": [run()]})).actions
    assert isinstance(stop, rules.Stop)


_RECORDS = st.lists(
    st.builds(
        lambda finished, code, backoff: (
            ended(code=code, backoff_s=backoff) if finished else run(backoff_s=backoff)
        ),
        st.booleans(),
        st.integers(0, 255),
        st.sampled_from([0, 10, 300]),
    ),
    max_size=2,
)


@given(
    records=st.dictionaries(st.sampled_from(["i", "s", "c", "d"]), _RECORDS),
    policy=st.sampled_from(["Always", "OnFailure", "Never"]),
    deleted=st.booleans(),
    gone=st.booleans(),
    sandbox=st.booleans(),
    images=st.frozensets(st.sampled_from(["i", "s", "c", "d"])),
)
def test_whatever_is_seen_a_plan_never_starts_what_runs_and_is_never_stuck(
    records: dict[str, list[ContainerRecord]],
    policy: str,
    deleted: bool,
    gone: bool,
    sandbox: bool,
    images: frozenset[str],
) -> None:
    import msgspec

    runs: dict[str, list[ContainerRecord]] = {}
    for name, found in records.items():
        named = [
            msgspec.structs.replace(each, name=name, id=f"{name}-{index}", attempt=index)
            for index, each in enumerate(found)
        ]
        # Only the newest run of a container can still be running.
        runs[name] = [
            each if each.finished or index == len(named) - 1 else ended(name, attempt=index)
            for index, each in enumerate(named)
        ]
    pod = pod_of(
        {"name": "c", "image": "i"},
        {"name": "d", "image": "i"},
        initContainers=[
            {"name": "i", "image": "i"},
            {"name": "s", "image": "i", "restartPolicy": "Always"},
        ],
        restartPolicy=policy,
    )
    if deleted:
        pod["metadata"]["deletionTimestamp"] = rfc3339(NOW)
    observed = Observed(
        NOW,
        containers=runs,
        sandbox=Sandbox("10.0.0.2") if sandbox else None,
        images=images,
        gone=gone,
    )
    plan = rules.plan(pod, observed)
    running = {each.name for each in observed.running()}
    started = {action.name for action in plan.actions if isinstance(action, rules.Start)}
    assert not started & running
    ending = deleted or gone
    if ending:
        assert not started
        assert plan.actions
        assert isinstance(plan.actions[0], rules.Stop) == bool(running)
    elif not plan.actions and plan.wait_s is None:
        # Nothing to do and nothing to wait for: something runs, or the pod is over.
        assert running or rules.outcome(pod, observed)
    status = pod_status(pod, observed, "192.0.2.1")
    assert status["phase"] in ("Pending", "Running", "Succeeded", "Failed")
    for each in status["containerStatuses"]:
        assert len(each["state"]) == 1


def test_status_tells_a_crash_loop_with_the_last_end() -> None:
    record = ended(code=2, attempt=3, backoff_s=40)
    status = pod_status(pod_of(), seen(containers={"c": [record]}), "192.0.2.1")
    (container,) = status["containerStatuses"]
    assert container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert container["state"]["waiting"]["message"].startswith("back-off 40s restarting failed")
    assert container["lastState"]["terminated"]["exitCode"] == 2
    assert container["restartCount"] == 3
    assert status["phase"] == "Running"


def test_status_keeps_conditions_of_others_and_transition_times() -> None:
    pod = pod_of()
    pod["status"] = {
        "startTime": "2025-01-01T00:00:00Z",
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "x"},
            {"type": "Ready", "status": "True", "lastTransitionTime": "y"},
        ],
    }
    status = pod_status(pod, seen(containers={"c": [run()]}), "192.0.2.1")
    times = {each["type"]: each["lastTransitionTime"] for each in status["conditions"]}
    assert times["PodScheduled"] == "x"
    assert times["Ready"] == "y"
    assert status["startTime"] == "2025-01-01T00:00:00Z"


def test_references_are_expanded_as_upstream_does() -> None:
    variables = {"A": "1", "B": "2"}
    assert expand("$(A)-$(B)-$(C)-$$(A)-$$-$A-$(", variables) == "1-2-$(C)-$(A)-$-$A-$("


@given(st.text(alphabet="$()AB x", max_size=30))
def test_expansion_of_anything_without_variables_only_halves_dollars(text: str) -> None:
    assert expand(text, {}).replace("$", "") == text.replace("$", "")


def test_service_variables_are_those_of_the_namespace_and_the_api_server() -> None:
    def service(namespace: str, name: str, ip: str) -> Object:
        ports = [{"name": "web", "port": 80, "protocol": "TCP"}]
        return {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": ports},
        }

    services = [
        service("default", "kubernetes", "10.96.0.1"),
        service("ns", "my-db", "10.96.0.2"),
        service("other", "x", "10.96.0.3"),
        service("ns", "headless", "None"),
    ]
    found = environment({}, pod_of(), Sources(services=services), MACHINE, "")
    assert found["MY_DB_SERVICE_HOST"] == "10.96.0.2"
    assert found["MY_DB_SERVICE_PORT_WEB"] == "80"
    assert found["MY_DB_PORT_80_TCP_ADDR"] == "10.96.0.2"
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert not any(name.startswith(("X_", "HEADLESS_")) for name in found)
    without = environment(
        {}, pod_of(enableServiceLinks=False), Sources(services=services), MACHINE, ""
    )
    assert "MY_DB_SERVICE_HOST" not in without
    assert "KUBERNETES_SERVICE_HOST" in without


def test_a_missing_key_is_named() -> None:
    reference = {"configMapKeyRef": {"name": "m", "key": "k"}}
    container = {"env": [{"name": "A", "valueFrom": reference}]}
    with pytest.raises(NotFound, match='configmap "m" not found'):
        environment(container, pod_of(), Sources(), MACHINE, "")
    with pytest.raises(NotFound, match="couldn't find key k in configmap ns/m"):
        environment(container, pod_of(), Sources({"m": {"data": {}}}), MACHINE, "")
    reference["configMapKeyRef"]["optional"] = True  # type: ignore[assignment]
    assert environment(container, pod_of(), Sources(), MACHINE, "") == {}


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ([], [], ["e", "c"]),
        ([], ["x"], ["e", "x"]),
        (["y"], [], ["y"]),
        (["y"], ["$(V)"], ["y", "1"]),
    ],
)
def test_command_and_args_go_over_entrypoint_and_cmd(
    command: list[str], args: list[str], expected: list[str]
) -> None:
    image = {"config": {"Entrypoint": ["e"], "Cmd": ["c"]}}
    container = {"name": "c", "command": command, "args": args}
    assert commands.arguments(container, image, {"V": "1"}) == expected


PASSWD = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\n"
GROUP = "root:x:0:\nweb:x:34:\nlogs:x:50:web,root\n"


def test_image_users_are_resolved_in_the_images_own_files() -> None:
    assert identity.resolve({}, "web", PASSWD, GROUP) == identity.Identity(
        33, 34, (50,), "/var/www"
    )
    assert identity.resolve({}, "web:logs", PASSWD, GROUP).gid == 50
    assert identity.resolve({}, "1000", "", "") == identity.Identity(1000, 0, (), "/")
    assert identity.resolve({"runAsUser": 5, "fsGroup": 9}, "web", PASSWD, GROUP).groups == (9,)
    with pytest.raises(BadRequest, match="unable to find user nobody"):
        identity.resolve({}, "nobody", PASSWD, GROUP)
    with pytest.raises(BadRequest, match="image will run as root"):
        identity.resolve({"runAsNonRoot": True}, "", PASSWD, GROUP)
    with pytest.raises(BadRequest, match="non-numeric user"):
        identity.resolve({"runAsNonRoot": True}, "web", PASSWD, GROUP)


def test_capabilities_never_exceed_what_the_machine_can_give() -> None:
    bounding = {"CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"}
    assert oci_spec.capabilities({}, bounding) == ["CAP_CHOWN", "CAP_KILL"]
    wanted = {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_RESOURCE"]}}
    assert oci_spec.capabilities(wanted, bounding) == ["CAP_NET_ADMIN"]
    assert oci_spec.capabilities({"privileged": True}, bounding) == sorted(bounding)


def test_limits_become_what_the_kernel_takes() -> None:
    container = {"resources": {"limits": {"cpu": "250m", "memory": "64Mi"}}}
    found = limits.cgroup_resources(container)
    assert found["cpu"] == {"shares": 256, "period": 100_000, "quota": 25_000}
    assert found["memory"] == {"limit": 67_108_864, "swap": 67_108_864}
    assert limits.cgroup_resources({})["cpu"] == {"shares": 2}


def test_quality_of_service_and_the_oom_score_within_the_floor() -> None:
    full = {"limits": {"cpu": "1", "memory": "1Gi"}}
    guaranteed = pod_of({"name": "c", "resources": full})
    burstable = pod_of({"name": "c", "resources": {"requests": {"memory": "512Mi"}}})
    assert [limits.qos_class(p) for p in (guaranteed, burstable, pod_of())] == [
        "Guaranteed",
        "Burstable",
        "BestEffort",
    ]
    assert limits.oom_score(guaranteed, guaranteed["spec"]["containers"][0], 1 << 30, 0) == 0
    assert limits.oom_score(guaranteed, guaranteed["spec"]["containers"][0], 1 << 30, -1000) == -997
    assert limits.oom_score(burstable, burstable["spec"]["containers"][0], 1 << 30, 0) == 500
    assert limits.oom_score(pod_of(), {}, 1 << 30, 0) == 1000


def test_dns_follows_the_pods_policy() -> None:
    host = "nameserver 9.9.9.9\nsearch corp.example\noptions edns0\n"
    text = names.resolv_conf(pod_of(), "10.0.0.1", "cluster.local", host)
    assert text.splitlines() == [
        "nameserver 10.0.0.1",
        "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example",
        "options ndots:5",
    ]
    assert "9.9.9.9" in names.resolv_conf(pod_of(dnsPolicy="Default"), "10.0.0.1", "c", host)
    assert "9.9.9.9" in names.resolv_conf(pod_of(hostNetwork=True), "10.0.0.1", "c", host)
    config = {"nameservers": ["8.8.4.4"], "options": [{"name": "ndots", "value": "2"}]}
    own = names.resolv_conf(pod_of(dnsPolicy="None", dnsConfig=config), "10.0.0.1", "c", host)
    assert own == "nameserver 8.8.4.4\noptions ndots:2\n"


def test_fields_are_offered_as_documented() -> None:
    pod = pod_of()
    assert field_value(pod, "metadata.labels['a']", MACHINE, "") == "b"
    assert field_value(pod, "metadata.labels", MACHINE, "") == 'a="b"'
    assert field_value(pod, "status.hostIP", MACHINE, "") == "192.0.2.1"
    with pytest.raises(BadRequest, match="unsupported fieldPath"):
        field_value(pod, "spec.secret", MACHINE, "")


@given(st.text(max_size=20))
def test_a_volume_path_never_leaves_its_volume(text: str) -> None:
    try:
        path = payload.safe_path(text)
    except BadRequest:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")


def test_items_choose_keys_paths_and_modes() -> None:
    source = {"items": [{"key": "k", "path": "d/f", "mode": 0o400}]}
    assert payload.selected({"k": b"v", "z": b""}, source, 0o644, "config") == {
        "d/f": payload.File(b"v", 0o400)
    }
    with pytest.raises(NotFound, match="non-existent config key: k"):
        payload.selected({}, source, 0o644, "config")


def test_a_tally_speaks_only_when_a_threshold_is_reached() -> None:
    tally = Tally(Timing.of({"failureThreshold": 2, "successThreshold": 1}), verdict=True)
    assert [tally.add(ok) for ok in (False, True, False, False)] == [False, True, False, True]
    assert tally.verdict is False
