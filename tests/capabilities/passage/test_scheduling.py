"""What explain says of a pod's placing."""

import json

from underway.capabilities.passage.rules import scheduling


def pod(annotation=None, conditions=(), nominated="", **spec):
    annotations = {} if annotation is None else {scheduling.DECISION: annotation}
    return {
        "metadata": {"name": "p", "annotations": annotations},
        "spec": spec,
        "status": {"conditions": list(conditions), "nominatedNodeName": nominated},
    }


def refused(message):
    return {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
    }


def test_a_pod_that_runs_is_told_with_the_scores_of_the_best_nodes():
    told = {"node": "b", "fits": 2, "of": 5, "best": {"b": 412.5, "a": 390}}
    found = scheduling.decision(pod(json.dumps(told), nodeName="b"))
    assert scheduling.lines(found) == [
        "scheduled by default-scheduler: 2 of 5 nodes fit; best b 412.5, a 390"
    ]


def test_a_pod_that_waits_is_told_what_speaks_against_each_node():
    message = "0/12 nodes are available: 12 Insufficient cpu."
    against = {f"n{number:02d}": ["Insufficient cpu"] for number in range(12)}
    found = scheduling.decision(
        pod(json.dumps({"of": 12, "against": against}), [refused(message)], nominated="n03")
    )
    lines = scheduling.lines(found)
    assert lines[0] == f"not scheduled: {message}"
    assert lines[1] == "nominated: n03, once others have made room there"
    assert lines[2] == "  n00: Insufficient cpu"
    assert lines[-1] == "  and 2 nodes more"


def test_gates_and_pods_nobody_has_looked_at():
    gated = pod(schedulingGates=[{"name": "example.com/wait"}])
    assert scheduling.lines(scheduling.decision(gated)) == ["gates: example.com/wait"]
    other = pod(schedulerName="mine")
    assert scheduling.lines(scheduling.decision(other)) == [
        "not scheduled: mine has not decided yet"
    ]


def test_an_annotation_that_somebody_else_wrote_is_passed_over():
    for written in ("{", "[]", '"x"', ""):
        assert scheduling.lines(scheduling.decision(pod(written, nodeName="n"))) == []
