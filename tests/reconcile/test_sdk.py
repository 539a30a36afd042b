"""The SDK's parts for operators: sources, writes, conditions, metrics, election, CRDs."""

import asyncio
import enum
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from tests.cluster import api_server, cluster
from tests.reconcile.test_manager import QuickClock, config_map

from underway.api.objects import name_of
from underway.api.patches import merge_patch
from underway.api.resources import (
    CONFIGMAPS,
    CUSTOMRESOURCEDEFINITIONS,
    EVENTS_CORE,
    LEASES,
    SECRETS,
)
from underway.base.errors import BadRequest, Conflict, Invalid, ServiceUnavailable
from underway.client import Client
from underway.reconcile import (
    Column,
    Controller,
    CustomResource,
    Done,
    LeaderLost,
    Manager,
    Metrics,
    Outcome,
    Owned,
    Request,
    RequeueAfter,
    TerminalError,
    Watched,
    any_of,
    apply_child,
    condition,
    create_or_patch,
    create_or_update,
    definition,
    free_form,
    generation_changed,
    is_true,
    labels_changed,
    list_map,
    merge_difference,
    negated,
    on_events,
    policy_rules,
    rule,
    rules,
    schema_of,
    set_controller,
    with_conditions,
    with_object,
)
from underway.testing import Cluster
from underway.wire.http import Request as HttpRequest


def test_every_public_name_is_there():
    import underway.reconcile as sdk

    assert [name for name in sdk.__all__ if not hasattr(sdk, name)] == []
    assert len(set(sdk.__all__)) == len(sdk.__all__)


def test_predicates_and_maps_decide_who_is_woken(tmp_path):
    async def main():
        calls: asyncio.Queue[str] = asyncio.Queue()

        async def reconcile(request: Request) -> Done:
            calls.put_nowait(request.name)
            return Done()

        async with cluster(tmp_path) as env:
            maps = env.manager.informer(CONFIGMAPS, namespace="default", labels="app")
            wanted = with_object(lambda obj: obj.get("data", {}).get("watch") == "yes")
            secrets = env.manager.informer(SECRETS, namespace="default")
            watched = Watched(
                secrets,
                lambda obj: [
                    Request("default", name)
                    for label, name in (obj["metadata"].get("labels") or {}).items()
                    if label == "for"
                ],
                predicates=[with_object(lambda obj: "for" in obj["metadata"].get("labels", {}))],
            )
            env.manager.add(
                Controller("picky", reconcile, primary=maps, watches=[watched], predicates=[wanted])
            )
            await env.client.create(CONFIGMAPS, config_map("ignored"))
            await env.client.create(CONFIGMAPS, config_map("seen", watch="yes"))
            assert await calls.get() == "seen"
            header = {"name": "s", "namespace": "default"}
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": header}
            await env.client.create(SECRETS, secret)
            await env.client.patch(SECRETS, "s", {"metadata": {"labels": {"for": "x"}}}, "default")
            assert await calls.get() == "x"
            await env.client.patch(SECRETS, "s", {"metadata": {"labels": {"for": "y"}}}, "default")
            assert {await calls.get(), await calls.get()} == {"x", "y"}
            assert calls.empty()

    asyncio.run(main())


def test_any_owner_wakes_the_owner_that_is_no_controller(tmp_path):
    async def main():
        calls: asyncio.Queue[str] = asyncio.Queue()

        async def reconcile(request: Request) -> Done:
            calls.put_nowait(request.name)
            return Done()

        async with cluster(tmp_path) as env:
            maps = env.manager.informer(CONFIGMAPS, namespace="default", labels="app")
            controller = Controller(
                "owners", reconcile, primary=maps, owns=[Owned(SECRETS, any_owner=True)]
            )
            env.manager.add(controller)
            owner = await env.client.create(CONFIGMAPS, config_map("owner"))
            assert await calls.get() == "owner"
            reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner"}
            header = {
                "name": "child",
                "namespace": "default",
                "ownerReferences": [{**reference, "uid": owner["metadata"]["uid"]}],
            }
            await env.client.create(
                SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": header}
            )
            assert await calls.get() == "owner"
            assert metric(text_of(env.manager), "workqueue_depth", name="owners") == 0
            env.manager.remove(controller)
            assert metric(text_of(env.manager), "workqueue_depth", name="owners") is None
            await env.client.create(CONFIGMAPS, config_map("later"))
            await env.until(CONFIGMAPS, lambda all_: maps.get("default/later"))
            assert calls.empty()

    asyncio.run(main())


def test_predicates_combine():
    one = {"metadata": {"generation": 1, "labels": {"a": "1"}}, "status": {"x": 1}}
    relabelled = {"metadata": {"generation": 1, "labels": {"a": "2"}}}
    reported = {"metadata": {"generation": 1, "labels": {"a": "1"}}, "status": {"x": 2}}
    assert generation_changed("MODIFIED", one, relabelled)
    assert not generation_changed("MODIFIED", one, reported)
    assert labels_changed("MODIFIED", one, relabelled)
    assert not labels_changed("MODIFIED", one, reported)
    assert not negated(labels_changed)("MODIFIED", one, relabelled)
    assert any_of(labels_changed, on_events("DELETED"))("DELETED", one, None)
    assert not on_events("DELETED")("ADDED", None, one)


def test_children_are_created_updated_patched_and_left_alone(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            owner = await env.client.create(CONFIGMAPS, config_map("owner"))
            owner |= {"apiVersion": "v1", "kind": "ConfigMap"}

            def colour(value: str):
                def mutate(obj):
                    obj.setdefault("data", {})["colour"] = value
                    set_controller(owner, obj)

                return mutate

            for write in (create_or_update, create_or_patch):
                args = (env.client, CONFIGMAPS, write.__name__.replace("_", "-"), "default")
                outcomes = [
                    (await write(*args, colour(value)))[1] for value in ("red", "red", "blue")
                ]
                assert outcomes == [Outcome.CREATED, Outcome.UNCHANGED, Outcome.UPDATED]
                found = await env.client.get(CONFIGMAPS, args[2], "default")
                assert found["data"] == {"colour": "blue"}
                assert found["metadata"]["ownerReferences"][0]["name"] == "owner"

            child = {"metadata": {"name": "applied"}, "data": {"a": "1", "b": "2"}}
            for _ in range(2):
                await apply_child(env.client, CONFIGMAPS, owner, child, field_manager="t")
            await env.client.patch(CONFIGMAPS, "applied", {"data": {"other": "x"}}, "default")
            del child["data"]["b"]
            found = await apply_child(env.client, CONFIGMAPS, owner, child, field_manager="t")
            assert found["data"] == {"a": "1", "other": "x"}
            other = {**owner, "metadata": {**owner["metadata"], "uid": "another"}}
            with pytest.raises(Conflict, match="controlled by"):
                set_controller(other, found)

    asyncio.run(main())


values = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=3), values, max_size=4)


@given(objects, objects)
def test_a_merge_difference_makes_the_new_object_of_the_old(old, new):
    assert merge_patch(old, merge_difference(old, new)) == new


def test_conditions_move_in_time_only_when_their_status_changes():
    clock = QuickClock()
    obj = {"metadata": {"generation": 3}, "status": {}}
    first = with_conditions(obj, clock, condition("Ready", False, "Waiting", of=obj))
    assert first[0]["observedGeneration"] == 3
    obj["status"]["conditions"] = [{**first[0], "lastTransitionTime": "2020-01-01T00:00:00Z"}]
    same = with_conditions(obj, clock, condition("Ready", False, "StillWaiting"))
    assert (same[0]["lastTransitionTime"], same[0]["reason"]) == (
        "2020-01-01T00:00:00Z",
        "StillWaiting",
    )
    turned = with_conditions(obj, clock, condition("Ready", True, "Done"))
    assert turned[0]["lastTransitionTime"] != "2020-01-01T00:00:00Z"
    assert not is_true(obj, "Ready")
    assert is_true({"status": {"conditions": turned}}, "Ready")
    assert condition("Ready", None, "Unsure")["status"] == "Unknown"


def metric(text: str, family: str, /, **labels: str) -> float | None:
    for line in text.splitlines():
        found = re.fullmatch(rf"{family}(?:\{{(.*)\}})? (\S+)", line)
        if found:
            pairs = dict(re.findall(r'(\w+)="([^"]*)"', found[1] or ""))
            if labels.items() <= pairs.items():
                return float(found[2])
    return None


def test_metrics_and_probes_are_served_under_controller_runtimes_names(tmp_path):
    async def main():
        tried: list[str] = []
        settled = asyncio.Event()

        async def reconcile(request: Request):
            tried.append(request.name)
            if request.name == "terminal":
                raise TerminalError("hopeless")
            if request.name == "failing" and tried.count("failing") < 3:
                raise ServiceUnavailable("not yet")
            if request.name == "bug" and tried.count("bug") < 2:
                raise KeyError("oops")
            if len(tried) >= 7:
                settled.set()
            return RequeueAfter(3600) if request.name == "again" else Done()

        async with cluster(tmp_path) as env:
            for name in ("terminal", "failing", "bug", "again"):
                await env.client.create(CONFIGMAPS, config_map(name))
            maps = env.manager.informer(CONFIGMAPS, namespace="default", labels="app")
            server = env.manager.serve(port=0)
            env.manager.add(Controller("c", reconcile, primary=maps, workers=2))
            async with asyncio.timeout(20):
                await settled.wait()
                await server.started.wait()
                while env.manager.busy():  # noqa: ASYNC110  # the last worker has to give its key back
                    await asyncio.sleep(0)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            text = (await reader.read()).decode()
            writer.close()
            await writer.wait_closed()
            total = "controller_runtime_reconcile_total"
            assert metric(text, total, controller="c", result="success") == 2
            assert metric(text, total, controller="c", result="error") == 4
            assert metric(text, total, controller="c", result="requeue_after") == 1
            expected = {
                "controller_runtime_reconcile_errors_total": 4,
                "controller_runtime_terminal_reconcile_errors_total": 1,
                "controller_runtime_reconcile_panics_total": 1,
                "controller_runtime_reconcile_time_seconds_count": 7,
                "controller_runtime_max_concurrent_reconciles": 2,
                "controller_runtime_active_workers": 0,
            }
            for name, value in expected.items():
                assert metric(text, name, controller="c") == value, name
            queue = {
                "workqueue_depth": 0,
                "workqueue_adds_total": 7,
                "workqueue_retries_total": 3,
                "workqueue_queue_duration_seconds_count": 7,
                "workqueue_work_duration_seconds_count": 7,
                "workqueue_unfinished_work_seconds": 0,
                "workqueue_longest_running_processor_seconds": 0,
            }
            for name, value in queue.items():
                assert metric(text, name, name="c") == value, name
            assert metric(text, "rest_client_requests_total", code="200", method="GET") >= 2
            for path in ("/healthz", "/livez", "/readyz", "/healthz/ping"):
                assert (await server.handle(HttpRequest("GET", path))).status == 200
            server.add_ready_check("mood", lambda: "bad")
            answer = await server.handle(HttpRequest("GET", "/readyz"))
            assert answer.status == 500
            assert b"[-]mood failed: bad" in answer.body
            assert (await server.handle(HttpRequest("GET", "/healthz"))).status == 200

    asyncio.run(main())


def test_what_is_not_read_yet_is_not_ready(tmp_path):
    async def main():
        async with api_server(tmp_path) as server:
            manager = Manager(Client(server.as_user("admin", ["system:masters"])))
            probe = manager.serve(port=0)
            manager.informer(CONFIGMAPS)
            answer = await probe.handle(HttpRequest("GET", "/readyz"))
            assert answer.status == 500
            assert b"configmaps: not read yet" in answer.body

    asyncio.run(main())


def test_a_metric_name_is_given_once_and_labels_are_escaped():
    metrics = Metrics()
    metrics.requests.add('2"0\n0', "GET")
    text = metrics.render(process=False).decode()
    assert 'rest_client_requests_total{code="2\\"0\\n0",method="GET"} 1' in text
    with pytest.raises(ValueError, match="already"):
        metrics.add(metrics.requests)


def test_only_the_leading_replica_reconciles_and_another_takes_over(tmp_path):
    async def main():
        async with api_server(tmp_path) as server:
            client = Client(server.as_user("admin", ["system:masters"]))
            await client.create(CONFIGMAPS, config_map("one"))
            calls: asyncio.Queue[str] = asyncio.Queue()

            def replica(name: str) -> Manager:
                manager = Manager(client, QuickClock())
                manager.lead(namespace="default", name="lock", identity=name)

                async def reconcile(_request: Request) -> Done:
                    calls.put_nowait(name)
                    return Done()

                maps = manager.informer(CONFIGMAPS, namespace="default", labels="app")
                manager.add(Controller(name, reconcile, primary=maps))
                return manager

            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                managers = {name: replica(name) for name in ("a", "b")}
                tasks = {name: group.create_task(m.run()) for name, m in managers.items()}
                first = await calls.get()
                other = "b" if first == "a" else "a"
                assert metric(text_of(managers[first]), "leader_election_master_status") == 1
                assert metric(text_of(managers[other]), "leader_election_master_status") == 0
                assert calls.empty()
                tasks[first].cancel()
                assert await calls.get() == other
                lease = await client.get(LEASES, "lock", "default")
                assert lease["spec"]["holderIdentity"] == other
                tasks[other].cancel()

    asyncio.run(main())


def text_of(manager: Manager) -> str:
    return manager.metrics.render().decode()


def test_a_replica_that_loses_its_lease_ends(tmp_path):
    async def main():
        async with api_server(tmp_path) as server:
            handler = server.as_user("admin", ["system:masters"])
            cut = asyncio.Event()

            async def flaky(request):
                if cut.is_set() and "/leases/" in request.path:
                    raise ServiceUnavailable("no way through")
                return await handler(request)

            class Hasty(QuickClock):
                def monotonic(self) -> float:
                    return super().monotonic() * 1000

            manager = Manager(Client(flaky), Hasty())
            manager.lead(namespace="default", name="lock", identity="a")
            leading = asyncio.Event()

            async def work() -> None:
                leading.set()
                await asyncio.Event().wait()

            manager.add_runnable(work, leader=True)
            async with asyncio.timeout(20):
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(ended(manager))
                    await leading.wait()
                    cut.set()
                    assert await task == "default/lock"

    asyncio.run(main())


async def ended(manager: Manager) -> str:
    try:
        await manager.run()
    except LeaderLost as lost:
        return re.search(r"lease (\S+)", str(lost))[1]
    return ""


def test_a_cached_selector_decodes_only_what_matches(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            for name in ("a", "b", "c"):
                await env.client.create(CONFIGMAPS, config_map(name))
            informer = env.manager.informer(CONFIGMAPS, namespace="default")
            await informer.synced()
            found = informer.select("app in (a,c)", "default")
            assert sorted(name_of(each) for each in found) == ["a", "c"]
            with pytest.raises(BadRequest):
                informer.select("app in (")

    asyncio.run(main())


# -- models ------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Hinge:
    """How it is hung."""

    name: str
    screws: int = 4


@rules(("self.width < self.height", "a door is higher than wide"))
class DoorSpec(msgspec.Struct, rename="camel"):
    """What a door is."""

    colour: Colour
    width: Annotated[int, Meta(ge=40, le=300, description="In centimetres.")] = 80
    height: Annotated[int, Meta(gt=0), rule("self % 5 == 0", "multiples of 5")] = 200
    hinges: Annotated[list[Hinge], Meta(max_length=4), list_map("name")] = []
    code: Annotated[str, Meta(pattern="^[a-z]+$", max_length=8)] | None = None
    opens: Literal["in", "out"] = "in"
    extra: Annotated[dict[str, Any], free_form()] | None = None
    target_port: int | str | None = None


DOOR = CustomResource(
    "example.com",
    "v1",
    "Door",
    DoorSpec,
    short_names=("dr",),
    columns=(Column("Colour", ".spec.colour"),),
)


def test_a_model_becomes_a_structural_schema():
    schema = schema_of(DoorSpec)
    assert schema["required"] == ["colour"]
    assert schema["description"] == "What a door is."
    assert schema["x-kubernetes-validations"] == [
        {"rule": "self.width < self.height", "message": "a door is higher than wide"}
    ]
    properties = schema["properties"]
    assert properties["colour"] == {"type": "string", "enum": ["red", "blue"]}
    assert properties["width"] == {
        "type": "integer",
        "format": "int64",
        "minimum": 40,
        "maximum": 300,
        "description": "In centimetres.",
        "default": 80,
    }
    assert properties["hinges"] == {
        "type": "array",
        "maxItems": 4,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {
            "type": "object",
            "description": "How it is hung.",
            "required": ["name"],
            "properties": {
                "name": {"type": "string"},
                "screws": {"type": "integer", "format": "int64", "default": 4},
            },
        },
    }
    assert properties["targetPort"] == {"x-kubernetes-int-or-string": True}


class Node(msgspec.Struct):
    inner: "Node | None" = None


@pytest.mark.parametrize("model", [Node, int | list[int], tuple[int, str], Literal[1, "a"]])
def test_what_has_no_structural_schema_is_refused_by_name(model):
    with pytest.raises(BadRequest):
        schema_of(model)


def test_the_api_server_enforces_the_model(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            await env.client.create(CUSTOMRESOURCEDEFINITIONS, DOOR.crd())
            await env.until(
                CUSTOMRESOURCEDEFINITIONS,
                lambda all_: is_true(all_["doors.example.com"], "Established"),
            )

            async def create(**spec):
                made = DOOR.object("d", DoorSpec(Colour.RED), "default")
                made["spec"] = {"colour": "red", **spec}
                return await env.client.create(DOOR.resource, made)

            for wrong, named in (
                ({"colour": "green"}, "spec.colour"),
                ({"width": 30}, "spec.width"),
                ({"height": 201}, "multiples of 5"),
                ({"width": 250}, "higher than wide"),
                ({"code": "A"}, "spec.code"),
                ({"opens": "up"}, "spec.opens"),
                ({"hinges": [{"name": "a"}] * 5}, "spec.hinges"),
            ):
                with pytest.raises(Invalid, match=re.escape(named)):
                    await create(**wrong)
            made = await create(hinges=[{"name": "top"}], extra={"any": [1]}, targetPort="http")
            assert made["spec"]["hinges"] == [{"name": "top", "screws": 4}]
            assert made["spec"]["extra"] == {"any": [1]}
            spec = DOOR.spec_of(made)
            assert (spec.width, spec.hinges[0].screws, spec.opens) == (80, 4, "in")

    asyncio.run(main())


def test_a_spec_that_does_not_fit_names_its_field():
    with pytest.raises(Invalid, match=r"spec\.hinges\[0\]\.screws") as refused:
        DOOR.spec_of(
            {
                "metadata": {"name": "d"},
                "spec": {"colour": "red", "hinges": [{"name": "a", "screws": "many"}]},
            }
        )
    assert refused.value.causes[0].field == "spec.hinges[0].screws"


def test_versions_of_different_kinds_make_no_definition():
    window = CustomResource("example.com", "v1", "Window", DoorSpec)
    with pytest.raises(BadRequest, match="one kind"):
        definition(DOOR, window)
    with pytest.raises(BadRequest, match="no version v9"):
        definition(DOOR, storage="v9")


def test_permissions_follow_from_what_a_controller_is_made_of():
    async def reconcile(_request: Request) -> Done:
        return Done()

    controller = Controller(
        "c", reconcile, primary=DOOR.resource, owns=[CONFIGMAPS], watches=[(SECRETS, lambda _: [])]
    )
    found = {
        (each["apiGroups"][0], each["resources"][0]): each["verbs"]
        for each in policy_rules([controller], more=[(LEASES, ["get"])])
    }
    assert found["", "secrets"] == ["get", "list", "watch"]
    assert "create" in found["", "configmaps"]
    assert "create" not in found["example.com", "doors"]
    assert found["example.com", "doors/status"] == ["get", "patch", "update"]
    assert found["coordination.k8s.io", "leases"] == ["get"]
    assert found["", "events"] == ["create", "patch"]


def test_the_control_planes_metrics_have_its_controllers_among_them():
    with Cluster(nodes=0, capabilities=("workloads",)) as made:
        made.client.create(config_map("some"))
        answer = made.call(made.client._client.request("GET", "/metrics"))
        text = made.call(answer.read()).decode()
    assert metric(text, "workqueue_depth", name="deployment") is not None
    assert metric(text, "apiserver_request_total", verb="POST", resource="configmaps") == 1
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(names) == len(set(names))


def test_events_that_differ_in_their_message_alone_become_one(tmp_path):
    async def main():
        async with cluster(tmp_path) as env:
            about = await env.client.create(CONFIGMAPS, config_map("noisy"))
            about |= {"apiVersion": "v1", "kind": "ConfigMap"}
            for number in range(14):
                env.manager.events.event(about, "Warning", "Failed", f"attempt {number}")
            await env.manager.events.flushed()
            found = (await env.client.list(EVENTS_CORE, "default")).items
            counts = {each["message"]: each["count"] for each in found}
            assert counts == {f"attempt {number}": 1 for number in range(10)} | {
                "(combined from similar events): attempt 13": 4
            }

    asyncio.run(main())
