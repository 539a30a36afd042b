"""Server-side apply and the tracking of who owns what."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.api.apply import BEFORE_FIRST_APPLY, LAST_APPLIED, apply, track
from underway.api.schema import builtin, from_openapi
from underway.base.errors import BadRequest, Conflict

DEPLOYMENT = builtin("apps/v1", "Deployment")
T1, T2, T3 = (f"2026-01-02T03:04:0{n}Z" for n in (1, 2, 3))


def deployment(*containers: dict, labels: dict | None = None, **spec: object) -> dict:
    metadata = {"name": "web", "namespace": "default"}
    if labels is not None:
        metadata["labels"] = labels
    if containers:
        spec["template"] = {"spec": {"containers": list(containers)}}
    obj = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    return {**obj, "spec": spec} if spec else obj


def ssa(live: dict | None, applied: dict, manager: str = "one", **options: object) -> dict:
    before = copy.deepcopy((live, applied))
    settings = {"force": False, "schema": DEPLOYMENT, "now": T1, **options}
    result = apply(live, applied, manager=manager, **settings)
    assert (live, applied) == before
    return result


def update(live: dict | None, new: dict, manager: str = "upd", now: str = T1, **options) -> dict:
    new = copy.deepcopy(new)
    if live is not None and "managedFields" not in new["metadata"]:
        new["metadata"]["managedFields"] = copy.deepcopy(live["metadata"].get("managedFields", []))
    track(live, new, manager=manager, schema=DEPLOYMENT, now=now, **options)
    return new


def owners(obj: dict) -> dict[str, dict]:
    return {e["manager"]: e["fieldsV1"] for e in obj["metadata"].get("managedFields", [])}


def test_applying_to_nothing_creates_the_object_and_owns_it() -> None:
    result = ssa(None, deployment({"name": "c", "image": "i"}, replicas=2))
    (entry,) = result["metadata"].pop("managedFields")
    assert result == deployment({"name": "c", "image": "i"}, replicas=2)
    assert entry == {
        "manager": "one",
        "operation": "Apply",
        "apiVersion": "apps/v1",
        "time": T1,
        "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:spec": {
                "f:replicas": {},
                "f:template": {
                    "f:spec": {
                        "f:containers": {
                            'k:{"name":"c"}': {".": {}, "f:name": {}, "f:image": {}},
                        }
                    }
                },
            }
        },
    }


def test_fields_no_longer_applied_go_and_defaults_stay() -> None:
    live = ssa(None, deployment({"name": "c", "image": "i", "tty": True}, labels={"a": "1"}))
    live["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Always"
    result = ssa(live, deployment({"name": "c", "image": "i"}))
    assert result["spec"]["template"]["spec"]["containers"] == [
        {"name": "c", "image": "i", "imagePullPolicy": "Always"}
    ]
    assert "labels" not in result["metadata"]


def test_items_no_longer_applied_go_with_their_defaults() -> None:
    live = ssa(None, deployment({"name": "c"}, {"name": "d", "image": "i"}))
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = "Always"
    result = ssa(live, deployment({"name": "c"}))
    assert result["spec"]["template"]["spec"]["containers"] == [{"name": "c"}]


def test_what_others_own_too_stays() -> None:
    live = ssa(None, deployment(replicas=2, labels={"a": "1"}))
    live = ssa(live, deployment(replicas=2), manager="two")
    result = ssa(live, deployment(paused=True))
    assert result["spec"] == {"replicas": 2, "paused": True}
    assert owners(result)["two"] == {"f:spec": {"f:replicas": {}}}
    assert owners(result)["one"] == {"f:spec": {"f:paused": {}}}


def test_one_conflict_is_worded_as_upstream() -> None:
    live = ssa(None, deployment(replicas=2), manager="two")
    with pytest.raises(Conflict) as caught:
        ssa(live, deployment(replicas=3))
    assert (
        caught.value.message == 'Apply failed with 1 conflict: conflict with "two": .spec.replicas'
    )
    assert [c.as_dict() for c in caught.value.causes] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "two"',
            "field": ".spec.replicas",
        }
    ]


def test_several_conflicts_are_grouped_by_manager() -> None:
    live = update(None, deployment({"name": "c", "image": "i"}), subresource="scale")
    live = ssa(live, deployment(replicas=2), manager="two")
    with pytest.raises(Conflict) as caught:
        ssa(live, deployment({"name": "c", "image": "new"}, replicas=3))
    assert caught.value.message == (
        'Apply failed with 2 conflicts: conflicts with "two":\n- .spec.replicas\n'
        'conflicts with "upd" with subresource "scale" using apps/v1:\n'
        '- .spec.template.spec.containers[name="c"].image'
    )


def test_force_takes_fields_over() -> None:
    live = ssa(None, deployment(replicas=2, paused=True), manager="two")
    result = ssa(live, deployment(replicas=3), force=True)
    assert result["spec"] == {"replicas": 3, "paused": True}
    assert owners(result) == {
        "one": {"f:spec": {"f:replicas": {}}},
        "two": {"f:spec": {"f:paused": {}}},
    }


def test_the_same_value_is_owned_together() -> None:
    live = ssa(None, deployment(replicas=2), manager="two")
    result = ssa(live, deployment(replicas=2))
    assert owners(result).keys() == {"one", "two"}


def test_applying_the_same_again_changes_nothing_not_even_the_time() -> None:
    live = ssa(None, deployment({"name": "c"}, replicas=2))
    assert ssa(live, deployment({"name": "c"}, replicas=2), now=T2) == live
    assert (
        ssa(live, deployment({"name": "c"}), now=T2)["metadata"]["managedFields"][0]["time"] == T2
    )


def test_an_untracked_object_belongs_to_before_first_apply() -> None:
    live = deployment(replicas=2, paused=True)
    with pytest.raises(Conflict, match=r'"before-first-apply" using apps/v1: \.spec\.replicas'):
        ssa(live, deployment(replicas=3))
    result = ssa(live, deployment(replicas=2))
    assert owners(result)[BEFORE_FIRST_APPLY] == {
        "f:spec": {".": {}, "f:replicas": {}, "f:paused": {}}
    }


def test_atomic_fields_are_replaced_whole() -> None:
    live = ssa(None, deployment(selector={"matchLabels": {"a": "1"}}))
    result = ssa(live, deployment(selector={"matchLabels": {"b": "1"}}))
    assert result["spec"]["selector"] == {"matchLabels": {"b": "1"}}


def test_unknown_fields_and_managed_fields_cannot_be_applied() -> None:
    with pytest.raises(BadRequest, match=r"\.spec\.replica: field not declared in schema"):
        ssa(None, deployment(replica=2))
    with pytest.raises(BadRequest, match=r"default/web; apps/v1, Kind=Deployment"):
        ssa(None, deployment(replica=2))
    applied = deployment(replicas=1)
    applied["metadata"]["managedFields"] = []
    with pytest.raises(BadRequest, match="must be nil"):
        ssa(None, applied)


@pytest.mark.parametrize(
    "metadata", [[], "x", {"annotations": []}, {"labels": {"a": 1}}, {"managedFields": "x"}]
)
def test_malformed_metadata_is_a_bad_request(metadata: object) -> None:
    applied = {**deployment(replicas=1), "metadata": metadata}
    with pytest.raises(BadRequest):
        ssa(None, applied, "kubectl")


def test_kubectl_takes_over_from_client_side_apply() -> None:
    first = deployment(replicas=2)
    first["metadata"]["annotations"] = {LAST_APPLIED: json.dumps(first)}
    live = update(None, first, "kubectl-client-side-apply")
    result = ssa(live, deployment(replicas=3), "kubectl")
    assert result["spec"]["replicas"] == 3
    last = json.loads(result["metadata"]["annotations"][LAST_APPLIED])
    assert last == deployment(replicas=3)
    with pytest.raises(Conflict):
        ssa(live, deployment(replicas=3), "somebody")
    live["spec"]["replicas"] = 7  # changed since: no longer what kubectl applied
    with pytest.raises(Conflict):
        ssa(live, deployment(replicas=3), "kubectl")


def test_custom_resources_follow_their_own_list_keys() -> None:
    kind = from_openapi(
        {
            "properties": {
                "spec": {
                    "type": "object",
                    "properties": {
                        "rules": {
                            "type": "array",
                            "x-kubernetes-list-type": "map",
                            "x-kubernetes-list-map-keys": ["host"],
                            "items": {
                                "type": "object",
                                "properties": {
                                    "host": {"type": "string"},
                                    "to": {"type": "string"},
                                },
                            },
                        },
                        "plain": {"type": "array", "items": {"type": "string"}},
                        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    },
                }
            }
        }
    )

    def route(**spec: object) -> dict:
        return {
            "apiVersion": "example.com/v1",
            "kind": "Route",
            "metadata": {"name": "r"},
            "spec": spec,
        }

    live = ssa(None, route(rules=[{"host": "a", "to": "x"}], free={"k": {"l": 1}}), schema=kind)
    result = ssa(
        live,
        route(rules=[{"host": "b"}], plain=["1"], free={"k": {"m": [2]}}),
        manager="two",
        schema=kind,
    )
    assert result["spec"] == {
        "rules": [{"host": "a", "to": "x"}, {"host": "b"}],
        "plain": ["1"],
        "free": {"k": {"l": 1, "m": [2]}},
    }
    result = ssa(result, route(), manager="one", schema=kind)
    assert result["spec"] == {
        "rules": [{"host": "b"}],
        "plain": ["1"],
        "free": {"k": {"m": [2]}},
    }


def test_creating_records_all_fields_of_the_creator() -> None:
    new = update(None, deployment({"name": "c"}, labels={"a": "1"}, replicas=1), "kubectl-create")
    (entry,) = new["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("kubectl-create", "Update")
    assert entry["fieldsV1"]["f:metadata"] == {"f:labels": {".": {}, "f:a": {}}}
    assert entry["fieldsV1"]["f:spec"]["f:replicas"] == {}


def test_an_update_takes_what_it_changes_and_only_that() -> None:
    live = ssa(None, deployment(replicas=2, paused=True))
    new = update(live, deployment(replicas=5, paused=True), now=T2)
    assert owners(new) == {
        "one": {"f:spec": {"f:paused": {}}},
        "upd": {"f:spec": {"f:replicas": {}}},
    }
    same = update(new, new, "third", now=T3)
    assert same == new


def test_removed_fields_are_owned_by_nobody() -> None:
    live = ssa(None, deployment(replicas=2, paused=True))
    new = update(live, deployment(replicas=2))
    assert owners(new) == {"one": {"f:spec": {"f:replicas": {}}}}


def test_subresources_are_tracked_apart_and_ignored_fields_not_at_all() -> None:
    live = update(None, deployment(replicas=2))
    new = {**copy.deepcopy(live), "status": {"replicas": 2}}
    tracked = update(live, new, subresource="status")
    by_sub = {e.get("subresource"): e["fieldsV1"] for e in tracked["metadata"]["managedFields"]}
    assert by_sub["status"] == {"f:status": {".": {}, "f:replicas": {}}}
    ignoring = update(live, new, ignored=[("status",)])
    assert "f:status" not in owners(ignoring)["upd"]


def test_clients_cannot_lose_managed_fields_but_can_end_and_edit_them() -> None:
    live = ssa(None, deployment(replicas=2))
    forgot = deployment(replicas=2)
    track(live, forgot, manager="upd", schema=DEPLOYMENT, now=T2)
    assert owners(forgot).keys() == {"one"}
    mangled = deployment(replicas=2)
    mangled["metadata"]["managedFields"] = [{"operation": "?"}]
    assert owners(update(live, mangled)).keys() == {"one"}
    reset = deployment(replicas=2)
    reset["metadata"]["managedFields"] = [{}]
    ended = update(live, reset)
    assert "managedFields" not in ended["metadata"]
    assert "managedFields" not in update(ended, deployment(replicas=3))["metadata"]
    edited = copy.deepcopy(live)
    edited["metadata"]["managedFields"][0]["manager"] = "renamed"
    assert owners(update(live, edited)).keys() == {"renamed"}


def test_old_update_entries_are_folded_into_one() -> None:
    obj = update(None, deployment(replicas=0, labels={"x": "y"}), "m0")
    for number in range(1, 15):
        new = copy.deepcopy(obj)
        new["metadata"]["labels"][f"l{number}"] = "v"
        obj = update(obj, new, f"m{number}", now=f"2026-01-02T03:{number:02d}:00Z")
    names = [e["manager"] for e in obj["metadata"]["managedFields"]]
    assert len(names) == 10
    assert "ancient-changes" in names
    assert "m14" in names


def test_objects_that_cannot_be_compared_keep_their_record() -> None:
    live = ssa(None, deployment(replicas=2))
    broken = deployment(replicas=2)
    broken["spec"]["template"] = {"spec": {"containers": [{"image": "no name"}]}}
    assert owners(update(live, broken)) == owners(live)


LABELS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12"), max_size=3)


@given(st.lists(st.tuples(st.sampled_from(["one", "two"]), LABELS), min_size=1, max_size=6))
def test_labels_are_what_the_last_intents_of_all_appliers_say(steps: list) -> None:
    """A dumb twin: forced appliers of a flat map, each owning what it applied and kept."""
    live: dict | None = None
    values: dict[str, str] = {}
    owned: dict[str, set[str]] = {"one": set(), "two": set()}
    for manager, labels in steps:
        live = ssa(live, deployment(labels=labels), manager=manager, force=True)
        other = owned["two" if manager == "one" else "one"]
        for name in owned[manager] - labels.keys() - other:
            values.pop(name, None)
        other -= {n for n, v in labels.items() if values.get(n) != v}
        values |= labels
        owned[manager] = set(labels)
        assert (live["metadata"].get("labels") or {}) == values
