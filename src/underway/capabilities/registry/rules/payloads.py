"""What a webhook sends: Harbor's own form, CloudEvents, and Slack's.

Source: goharbor/harbor docs "Configure Webhook Notifications"; CloudEvents 1.0, JSON format;
Slack's incoming webhooks (blocks).
"""

from __future__ import annotations

from typing import Any

from underway.capabilities.registry.rules import times

EVENTS = {
    "PUSH_ARTIFACT": "harbor.artifact.pushed",
    "PULL_ARTIFACT": "harbor.artifact.pulled",
    "DELETE_ARTIFACT": "harbor.artifact.deleted",
    "SCANNING_COMPLETED": "harbor.scan.completed",
    "SCANNING_FAILED": "harbor.scan.failed",
    "SCANNING_STOPPED": "harbor.scan.stopped",
    "QUOTA_EXCEED": "harbor.quota.exceeded",
    "QUOTA_WARNING": "harbor.quota.warned",
    "REPLICATION": "harbor.replication.status.changed",
    "TAG_RETENTION": "harbor.tag_retention.finished",
}
NOTIFY_TYPES = ("http", "slack")
FORMATS = ("Default", "CloudEvents")


def event_data(data: dict[str, Any], host: str, *, public: bool) -> dict[str, Any]:
    """The part that tells what it happened to."""
    repository = str(data.get("repository", ""))
    project, _, name = repository.partition("/")
    found: dict[str, Any] = {}
    if repository:
        reference = f":{data['tag']}" if data.get("tag") else f"@{data.get('digest', '')}"
        resource = {
            "digest": data.get("digest", ""),
            "tag": data.get("tag", ""),
            "resource_url": f"{host}/{repository}{reference}",
        }
        if data.get("scan_overview"):
            resource["scan_overview"] = data["scan_overview"]
        found["resources"] = [resource]
        found["repository"] = {
            "name": name or repository,
            "namespace": project,
            "repo_full_name": repository,
            "repo_type": "public" if public else "private",
        }
    if data.get("custom"):
        found["custom_attributes"] = data["custom"]
    return found


def body(
    event: dict[str, Any], target: dict[str, Any], policy_id: int, told: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Content type and JSON of one delivery. ``event`` has id, type, time_s and operator."""
    if target.get("type") == "slack":
        return "application/json", _slack(event, told)
    if target.get("payload_format") == "CloudEvents":
        return "application/cloudevents+json", {
            "specversion": "1.0",
            "id": f"{event['id']}",
            "source": f"/projects/{event['project_id']}/webhook/policies/{policy_id}",
            "type": EVENTS.get(event["type"], event["type"].lower()),
            "datacontenttype": "application/json",
            "time": times.of_s(event["time_s"]),
            "operator": event["operator"],
            "data": told,
        }
    return "application/json", {
        "type": event["type"],
        "occur_at": event["time_s"],
        "operator": event["operator"],
        "event_data": told,
    }


def _slack(event: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    what = ", ".join(each["resource_url"] for each in told.get("resources", ()))
    lines = [
        f"*Event*: {event['type']}",
        f"*Time*: {times.of_s(event['time_s'])}",
        f"*Operator*: {event['operator']}",
        f"*Resource*: {what}",
    ]
    return {
        "text": f"{event['type']}: {what}",
        "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": line}} for line in lines],
    }
