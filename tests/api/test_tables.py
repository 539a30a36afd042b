from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.api.manifests import SPECS, complete

from underway.api import resources
from underway.api.objects import Object
from underway.api.resources import BUILTIN, Resource
from underway.api.tables import human_duration, table
from underway.api.tables.jsonpath import find
from underway.base.errors import BadRequest

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CREATED = "2026-01-01T22:30:00Z"


def row(resource: Resource, obj: Object, **options: Any) -> dict[str, Any]:
    """Cells by column name."""
    obj = {**obj, "metadata": {"creationTimestamp": CREATED, **(obj.get("metadata") or {})}}
    made = table(resource, [obj], {}, NOW, **options)
    names = [column["name"] for column in made["columnDefinitions"]]
    return dict(zip(names, made["rows"][0]["cells"], strict=True))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (192, "3m12s"),
        (600, "10m"),
        (179 * 60, "179m"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (52 * 3600, "2d4h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (731 * 86400, "2y1d"),
        (9 * 365 * 86400, "9y"),
        (-1, "0s"),
        (-2, "<invalid>"),
    ],
)
def test_ages_read_as_kubernetes_writes_them(seconds, text):
    assert human_duration(timedelta(seconds=seconds)) == text


def test_a_table_has_columns_rows_and_the_lists_metadata():
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{}]}, "status": {"phase": "Pending"}}
    made = table(resources.PODS, [pod], {"resourceVersion": "7"}, NOW)
    assert (made["kind"], made["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert made["metadata"] == {"resourceVersion": "7"}
    wide = [column["name"] for column in made["columnDefinitions"] if column["priority"]]
    assert wide == ["IP", "Node", "Nominated Node", "Readiness Gates"]
    assert made["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


def test_rows_carry_what_was_asked_for():
    pod = {"metadata": {"name": "p"}, "spec": {"containers": []}}

    def carried(what: str) -> Any:
        return table(resources.PODS, [pod], {}, NOW, include_object=what)["rows"][0]["object"]

    assert carried("None") is None
    assert carried("Object")["spec"] == {"containers": []}
    with pytest.raises(BadRequest):
        carried("All")


@pytest.mark.parametrize("kind", SPECS)
def test_every_kind_fills_its_columns(kind):
    resource, obj = complete(kind)
    assert next(iter(row(resource, obj).values()))
    for column in table(resource, [obj], {}, NOW)["columnDefinitions"]:
        assert column["description"]


def test_kinds_fill_their_columns_with_hardly_anything_given():
    for resource in BUILTIN:
        assert row(resource, {"metadata": {"name": "x"}})


def waiting(reason: str) -> Object:
    return {"state": {"waiting": {"reason": reason}}, "restartCount": 3, "name": "a"}


RUNNING: Object = {"name": "a", "ready": True, "state": {"running": {}}, "restartCount": 0}
DONE: Object = {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"phase": "Pending"}, "Pending"),
        ({"phase": "Running", "containerStatuses": [RUNNING]}, "Running"),
        (
            {"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")]},
            "CrashLoopBackOff",
        ),
        ({"phase": "Succeeded", "containerStatuses": [DONE]}, "Completed"),
        ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
        (
            {"containerStatuses": [{"state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]},
            "Error",
        ),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}, "ExitCode:3"),
        ({"containerStatuses": [{"state": {"terminated": {"signal": 9}}}]}, "Signal:9"),
        ({"initContainerStatuses": [{"state": {"running": {}}}]}, "Init:0/2"),
        ({"initContainerStatuses": [DONE, {"state": {"waiting": {}}}]}, "Init:1/2"),
        ({"initContainerStatuses": [waiting("ErrImagePull")]}, "Init:ErrImagePull"),
        (
            {
                "initContainerStatuses": [
                    {"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
                ]
            },
            "Init:Error",
        ),
        (
            {"phase": "Running", "containerStatuses": [DONE, RUNNING]},
            "NotReady",
        ),
        (
            {
                "phase": "Running",
                "containerStatuses": [DONE, RUNNING],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
            "Running",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]},
            "SchedulingGated",
        ),
    ],
)
def test_the_status_of_pods(status, text):
    spec = {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]}
    assert row(resources.PODS, {"spec": spec, "status": status})["Status"] == text


def test_a_pod_that_is_being_deleted():
    pod = {
        "metadata": {"name": "p", "deletionTimestamp": CREATED},
        "spec": {"containers": [{}]},
        "status": {"phase": "Running", "containerStatuses": [RUNNING]},
    }
    assert row(resources.PODS, pod)["Status"] == "Terminating"


def test_restarts_say_when_and_sidecars_count():
    ended = {"terminated": {"finishedAt": "2026-01-01T23:55:00Z"}}
    pod = {
        "metadata": {"name": "p"},
        "spec": {
            "containers": [{"name": "a"}],
            "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "nodeName": "n1",
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "initContainerStatuses": [{**RUNNING, "name": "s", "started": True, "restartCount": 1}],
            "containerStatuses": [{**RUNNING, "restartCount": 2, "lastState": ended}],
        },
    }
    assert row(resources.PODS, pod) == {
        "Name": "p",
        "Ready": "2/2",
        "Status": "Running",
        "Restarts": "3 (5m ago)",
        "Age": "90m",
        "IP": "10.0.0.1",
        "Node": "n1",
        "Nominated Node": "<none>",
        "Readiness Gates": "<none>",
    }


def test_rows_of_pods_that_ended_are_marked():
    pod = {"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Failed"}}
    made = table(resources.PODS, [pod], {}, NOW)["rows"][0]
    assert made["conditions"][0]["reason"] == "Failed"


def test_services():
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]
    spec = {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": ports, "selector": {"a": "b"}}
    found = row(resources.SERVICES, {"metadata": {"name": "s"}, "spec": spec})
    assert found["External-IP"] == "<pending>"
    assert found["Port(s)"] == "80:30080/TCP,53/UDP"
    assert found["Selector"] == "a=b"
    headless = row(resources.SERVICES, {"spec": {"type": "ClusterIP", "clusterIP": "None"}})
    assert (headless["Cluster-IP"], headless["Port(s)"]) == ("None", "<none>")


def test_nodes():
    node = {
        "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1"},
        },
    }
    found = row(resources.NODES, node)
    assert found["Status"] == "Ready,SchedulingDisabled"
    assert found["Roles"] == "control-plane"
    assert (found["Internal-IP"], found["External-IP"]) == ("10.0.0.1", "<none>")
    assert row(resources.NODES, {})["Status"] == "Unknown"


def test_jobs():
    job = {
        "spec": {"completions": 3},
        "status": {"succeeded": 1, "startTime": "2026-01-01T23:59:00Z"},
    }
    found = row(resources.JOBS, job)
    assert (found["Status"], found["Completions"], found["Duration"]) == ("Running", "1/3", "60s")
    job["status"] |= {
        "completionTime": "2026-01-01T23:59:05Z",
        "conditions": [{"type": "Complete", "status": "True"}],
    }
    assert row(resources.JOBS, job)["Duration"] == "5s"
    assert row(resources.JOBS, job)["Status"] == "Complete"


def test_events():
    event = {
        "involvedObject": {"kind": "Pod", "name": "p"},
        "lastTimestamp": "2026-01-01T23:59:50Z",
        "firstTimestamp": "2026-01-01T23:58:00Z",
        "count": 4,
        "type": "Warning",
        "reason": "BackOff",
        "message": "x\n",
        "source": {"component": "kubelet", "host": "n"},
    }
    found = row(resources.EVENTS_CORE, event)
    assert (found["Last Seen"], found["Object"], found["Message"]) == ("10s", "pod/p", "x")
    assert (found["First Seen"], found["Count"], found["Source"]) == ("2m", 4, "kubelet, n")


def test_deployments():
    _, obj = complete("deployment")
    obj["status"] = {"readyReplicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    found = row(resources.DEPLOYMENTS, obj)
    assert (found["Ready"], found["Selector"], found["Images"]) == ("1/1", "app=web", "nginx")


THING = Resource("x.io", "v1", "things", "Thing")


def test_printer_columns():
    columns = [
        {
            "name": "Ready",
            "type": "string",
            "jsonPath": '.status.conditions[?(@.type=="Ready")].status',
        },
        {"name": "Count", "type": "integer", "jsonPath": ".spec.count", "priority": 1},
        {"name": "On", "type": "boolean", "jsonPath": ".spec.on"},
        {"name": "Since", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Gone", "type": "string", "jsonPath": ".spec.gone"},
    ]
    obj = {
        "metadata": {"name": "t"},
        "spec": {"count": 3, "on": True},
        "status": {
            "conditions": [{"type": "A", "status": "x"}, {"type": "Ready", "status": "True"}]
        },
    }
    assert row(THING, obj, columns=columns) == {
        "Name": "t",
        "Ready": "True",
        "Count": 3,
        "On": True,
        "Since": "90m",
        "Gone": None,
    }
    assert list(row(THING, obj, columns=[])) == ["Name", "Age"]
    assert list(row(THING, obj)) == ["Name", "Age"]


OBJ = {"a": {"b.c": [1, 2, 3], "d": [{"k": "x", "n": 1}, {"k": "y", "n": 2}]}}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (".a['b.c'][0]", [1]),
        (r".a.b\.c[-1]", [3]),
        (".a['b.c'][1:]", [2, 3]),
        (".a['b.c'][*]", [1, 2, 3]),
        (".a.d[*].k", ["x", "y"]),
        ('.a.d[?(@.k=="y")].n', [2]),
        (".a.d[?(@.k == 'y')].n", [2]),
        (".a.d[?(@.n>1)].k", ["y"]),
        (".a.d[?(@.gone)].k", []),
        ("{.a.d[0].k}", ["x"]),
        ("..k", ["x", "y"]),
        (".a.gone.more", []),
        (".a.d[9]", []),
        (".", [OBJ]),
    ],
)
def test_json_paths(path, values):
    assert find(path, OBJ) == values


@pytest.mark.parametrize("path", ["a b", ".a[", ".a[x]", ".a[]", ".a[?(@.b==)]", "." * 5000])
def test_broken_json_paths_are_refused(path):
    with pytest.raises(ValueError):
        find(path, OBJ)
