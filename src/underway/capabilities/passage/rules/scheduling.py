"""Why a pod runs where it runs, or nowhere: read from what its scheduler left on it."""

from __future__ import annotations

import msgspec

from underway.api.objects import Object, annotations_of, find_condition

DECISION = "scheduling.underway.dev/decision"  # annotation that the platform's scheduler writes
SHOWN = 10  # nodes


def decision(pod: Object) -> Object:
    """What is known of a pod's placing.

    Returns:
        ``node`` (empty while there is none), ``message`` (the PodScheduled condition's, empty for
        a pod that has a node), ``nominated``, ``gates``, and of the last decision ``fits`` of
        ``of`` nodes, ``best`` (name -> score) and ``against`` (name -> reasons).
    """
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    condition = find_condition(status.get("conditions"), "PodScheduled") or {}
    return {
        "node": spec.get("nodeName") or "",
        "scheduler": spec.get("schedulerName") or "default-scheduler",
        "message": "" if spec.get("nodeName") else condition.get("message") or "",
        "nominated": status.get("nominatedNodeName") or "",
        "gates": [each.get("name") or "" for each in spec.get("schedulingGates") or ()],
        **_told(annotations_of(pod).get(DECISION, "")),
    }


def _told(written: str) -> Object:
    found: Object = {"fits": None, "of": None, "best": {}, "against": {}}
    try:
        told = msgspec.json.decode(written) if written else {}
    except msgspec.DecodeError:
        return found  # somebody else wrote it
    if isinstance(told, dict):
        found |= {name: told[name] for name in found if name in told}
    return found


def lines(known: Object) -> list[str]:
    """The same as text, one thing a line."""
    found = []
    if known["node"]:
        if known["fits"]:
            scores = ", ".join(f"{name} {score:g}" for name, score in known["best"].items())
            chosen = f"{known['fits']} of {known['of']} nodes fit"
            best = f"; best {scores}" if scores else ""
            found.append(f"scheduled by {known['scheduler']}: {chosen}{best}")
        return found
    if known["message"]:
        found.append(f"not scheduled: {known['message']}")
    elif not known["gates"]:
        found.append(f"not scheduled: {known['scheduler']} has not decided yet")
    if known["gates"]:
        found.append(f"gates: {', '.join(known['gates'])}")
    if known["nominated"]:
        found.append(f"nominated: {known['nominated']}, once others have made room there")
    against = list(known["against"].items())
    found += [f"  {name}: {', '.join(reasons)}" for name, reasons in against[:SHOWN]]
    if len(against) > SHOWN:
        found.append(f"  and {(known['of'] or len(against)) - SHOWN} nodes more")
    return found
