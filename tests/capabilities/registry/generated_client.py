"""Calls every reading operation that harbor-api-client knows; its models check each answer."""

import json
import sys

import harbor_client
from harbor_client.rest import ApiException

given = json.load(sys.stdin)
configuration = harbor_client.Configuration()
configuration.host = given["host"]
configuration.username, configuration.password = given["username"], given["password"]
configuration.ssl_ca_cert = given["ca"]
client = harbor_client.ApiClient(configuration)
project, repository, reference = "generated", "app", "v1"
CALLS = [
    (
        "ArtifactApi",
        "list_artifacts",
        (project, repository),
        {"with_tag": True, "with_label": True, "with_accessory": True},
    ),
    ("ArtifactApi", "get_artifact", (project, repository, reference), {"with_scan_overview": True}),
    ("ArtifactApi", "list_tags", (project, repository, reference), {}),
    ("ArtifactApi", "list_accessories", (project, repository, reference), {}),
    ("AuditlogApi", "list_audit_logs", (), {"sort": "-op_time", "q": "operation=create"}),
    ("ConfigureApi", "get_configurations", (), {}),
    ("GcApi", "get_gc_history", (), {}),
    ("GcApi", "get_gc_schedule", (), {}),
    ("HealthApi", "get_health", (), {}),
    ("ImmutableApi", "list_immu_rules", (project,), {}),
    ("JobserviceApi", "get_worker_pools", (), {}),
    ("JobserviceApi", "list_job_queues", (), {}),
    ("LabelApi", "list_labels", (), {"scope": "g"}),
    ("MemberApi", "list_project_members", (project,), {}),
    ("PermissionsApi", "get_permissions", (), {}),
    ("PingApi", "get_ping", (), {}),
    ("ProjectApi", "list_projects", (), {"with_detail": True}),
    ("ProjectApi", "get_project", (project,), {}),
    ("ProjectApi", "get_project_summary", (project,), {}),
    ("ProjectApi", "get_project_deletable", (project,), {}),
    ("ProjectApi", "get_logs", (project,), {}),
    ("ProjectMetadataApi", "list_project_metadatas", (project,), {}),
    ("QuotaApi", "list_quotas", (), {}),
    ("RegistryApi", "list_registries", (), {}),
    ("RegistryApi", "list_registry_provider_types", (), {}),
    ("ReplicationApi", "list_replication_policies", (), {}),
    ("ReplicationApi", "list_replication_executions", (), {}),
    ("RepositoryApi", "list_repositories", (project,), {}),
    ("RepositoryApi", "list_all_repositories", (), {}),
    ("RepositoryApi", "get_repository", (project, repository), {}),
    ("RetentionApi", "get_rentenition_metadata", (), {}),
    ("RobotApi", "list_robot", (), {}),
    ("RobotApi", "list_robot", (), {"q": "Level=project,ProjectID=1"}),
    ("ScanAllApi", "get_latest_scan_all_metrics", (), {}),
    ("ScannerApi", "list_scanners", (), {}),
    ("ScheduleApi", "list_schedules", (), {}),
    ("SearchApi", "search", ("gen",), {}),
    ("SecurityhubApi", "get_security_summary", (), {}),
    ("SecurityhubApi", "list_vulnerabilities", (), {}),
    ("StatisticApi", "get_statistic", (), {}),
    ("SystemCVEAllowlistApi", "get_system_cve_allowlist", (), {}),
    ("SysteminfoApi", "get_system_info", (), {}),
    ("SysteminfoApi", "get_volumes", (), {}),
    ("UserApi", "get_current_user_info", (), {}),
    ("UserApi", "list_users", (), {}),
    ("UserApi", "search_users", ("adm",), {}),
    ("WebhookApi", "list_webhook_policies_of_project", (project,), {}),
    ("WebhookApi", "get_supported_event_types", (project,), {}),
]
failed = answered = 0
for group, name, arguments, options in CALLS:
    found = getattr(harbor_client, group, None)
    if found is None or not hasattr(found, name):
        print(f"missing in the client: {group}.{name}")
        continue
    try:
        getattr(found(client), name)(*arguments, **options)
        answered += 1
    except (ApiException, ValueError, TypeError) as error:
        failed += 1
        print(f"{group}.{name}: {error}")
print(f"{answered} calls answered, {failed} failed")
sys.exit(1 if failed or answered < 40 else 0)
