"""The registry's tables.

Columns are named as Harbor's API names its fields, so that a row is most of an answer. Times are
RFC 3339 texts in UTC with milliseconds, which sort as they follow; ``*_s`` are seconds since 1970.
"""

from __future__ import annotations

from underway.capabilities.registry.backend.database import Database

TABLES: dict[str, dict[str, str]] = {
    "users": {
        "id": "id", "username": "text", "email": "text", "realname": "text", "comment": "text",
        "salt": "text", "secret_hash": "text", "sysadmin_flag": "bool", "creation_time": "text",
        "update_time": "text",
    },
    "projects": {
        "id": "id", "name": "text", "owner_id": "int", "owner_name": "text", "public": "bool",
        "sparse": "bool", "metadata": "json", "registry_id": "int", "creation_time": "text",
        "update_time": "text", "used_bytes": "int", "quota_bytes": "int", "quota_time": "text",
        "cve_allowlist": "json", "scanner_id": "int",
    },
    "members": {
        "id": "id", "project_id": "int", "entity_type": "text", "entity_name": "text",
        "entity_id": "int", "role_id": "int",
    },
    "robots": {
        "id": "id", "name": "text", "project_id": "int", "level": "text", "description": "text",
        "salt": "text", "secret_hash": "text", "permissions": "json", "disable": "bool",
        "duration": "int", "expires_at": "int", "creator": "text", "creation_time": "text",
        "update_time": "text",
    },
    "repositories": {
        "id": "id", "project_id": "int", "name": "text", "description": "text", "pull_count": "int",
        "pushed": "bool", "creation_time": "text", "update_time": "text",
    },
    "contents": {"digest": "text", "size": "int", "used_s": "real", "place": "text",
                 "data": "bytes"},
    "blob_links": {"repository_id": "int", "digest": "text", "used_s": "real"},
    "artifacts": {
        "id": "id", "project_id": "int", "repository_id": "int", "digest": "text",
        "media_type": "text", "manifest_size": "int", "size": "int", "type": "text",
        "artifact_type": "text", "config_digest": "text", "subject": "text", "annotations": "json",
        "push_time": "text", "pull_time": "text",
    },
    "parts": {"artifact_id": "int", "repository_id": "int", "digest": "text", "kind": "text",
              "size": "int", "platform": "json"},
    "project_parts": {"project_id": "int", "digest": "text", "size": "int", "refs": "int"},
    "tags": {
        "id": "id", "repository_id": "int", "artifact_id": "int", "name": "text",
        "push_time": "text", "pull_time": "text",
    },
    "labels": {
        "id": "id", "name": "text", "description": "text", "color": "text", "scope": "text",
        "project_id": "int", "creation_time": "text", "update_time": "text",
    },
    "artifact_labels": {"artifact_id": "int", "label_id": "int"},
    "immutable_rules": {
        "id": "id", "project_id": "int", "disabled": "bool", "priority": "int", "action": "text",
        "template": "text", "params": "json", "tag_selectors": "json", "scope_selectors": "json",
    },
    "retentions": {"id": "id", "project_id": "int", "policy": "json"},
    "registries": {
        "id": "id", "name": "text", "description": "text", "type": "text", "url": "text",
        "access_key": "text", "access_secret": "text", "insecure": "bool", "ca_certificate": "text",
        "status": "text", "creation_time": "text", "update_time": "text",
    },
    "replication_policies": {
        "id": "id", "name": "text", "description": "text", "policy": "json", "enabled": "bool",
        "registry_id": "int", "pull": "bool", "creation_time": "text", "update_time": "text",
    },
    "webhook_policies": {
        "id": "id", "project_id": "int", "name": "text", "description": "text", "targets": "json",
        "event_types": "json", "enabled": "bool", "creator": "text", "creation_time": "text",
        "update_time": "text",
    },
    "scanners": {
        "id": "id", "uuid": "text", "name": "text", "description": "text", "url": "text",
        "auth": "text", "access_credential": "text", "skip_certVerify": "bool", "disabled": "bool",
        "use_internal_addr": "bool", "is_default": "bool", "create_time": "text",
        "update_time": "text",
    },
    "scan_reports": {
        "id": "id", "uuid": "text", "project_id": "int", "artifact_id": "int", "scanner_id": "int",
        "mime_type": "text", "kind": "text", "status": "text", "severity": "text", "report": "json",
        "log": "text", "start_time": "text", "end_time": "text",
    },
    "findings": {
        "id": "id", "project_id": "int", "artifact_id": "int", "cve_id": "text", "severity": "text",
        "package": "text", "version": "text", "fixed_version": "text", "cvss_v3_score": "real",
        "description": "text", "links": "json", "status": "text",
    },
    "audit_log": {
        "id": "id", "username": "text", "resource": "text", "resource_type": "text",
        "operation": "text", "op_time": "text", "project_id": "int", "success": "bool",
        "description": "text",
    },
    "events": {"id": "id", "type": "text", "time_s": "int", "data": "json"},
    "schedules": {
        "id": "id", "vendor_type": "text", "vendor_id": "int", "type": "text", "cron": "text",
        "parameters": "json", "next_s": "real", "creation_time": "text", "update_time": "text",
    },
    "executions": {
        "id": "id", "vendor_type": "text", "vendor_id": "int", "project_id": "int",
        "status": "text", "status_message": "text", "trigger": "text", "extra_attrs": "json",
        "start_time": "text", "update_time": "text", "end_time": "text",
    },
    "tasks": {
        "id": "id", "execution_id": "int", "vendor_type": "text", "status": "text",
        "status_message": "text", "attempts": "int", "due_s": "real", "worker": "text",
        "extra_attrs": "json", "log": "text", "creation_time": "text", "start_time": "text",
        "update_time": "text", "end_time": "text",
    },
    "settings": {"name": "text", "value": "json"},
}  # fmt: skip

_TYPES = {"int": "BIGINT", "bool": "BIGINT", "json": "TEXT", "text": "TEXT",
          "real": "DOUBLE PRECISION"}  # fmt: skip
_DEFAULTS = {"int": "0", "bool": "0", "json": "'null'", "text": "''", "real": "0"}

_INDEXES = (
    ("UNIQUE", "users", "username"),
    ("UNIQUE", "projects", "name"),
    ("UNIQUE", "members", "project_id, entity_type, entity_name"),
    ("", "members", "entity_name"),
    ("UNIQUE", "robots", "project_id, name"),
    ("UNIQUE", "repositories", "name"),
    ("", "repositories", "project_id, name"),
    ("UNIQUE", "contents", "digest"),
    ("UNIQUE", "blob_links", "repository_id, digest"),
    ("", "blob_links", "digest"),
    ("UNIQUE", "artifacts", "repository_id, digest"),
    ("", "artifacts", "repository_id, subject, push_time"),
    ("", "artifacts", "project_id, subject, push_time"),
    ("", "artifacts", "digest"),
    ("", "parts", "artifact_id"),
    ("", "parts", "repository_id, digest"),
    ("", "parts", "digest"),
    ("UNIQUE", "project_parts", "project_id, digest"),
    ("UNIQUE", "tags", "repository_id, name"),
    ("", "tags", "artifact_id"),
    ("UNIQUE", "labels", "scope, project_id, name"),
    ("UNIQUE", "artifact_labels", "artifact_id, label_id"),
    ("", "immutable_rules", "project_id"),
    ("UNIQUE", "retentions", "project_id"),
    ("UNIQUE", "registries", "name"),
    ("UNIQUE", "replication_policies", "name"),
    ("UNIQUE", "webhook_policies", "project_id, name"),
    ("UNIQUE", "scanners", "uuid"),
    ("UNIQUE", "scanners", "name"),
    ("UNIQUE", "scan_reports", "uuid"),
    ("", "scan_reports", "artifact_id, kind"),
    ("", "findings", "artifact_id"),
    ("", "findings", "cve_id"),
    ("", "audit_log", "project_id, op_time"),
    ("", "audit_log", "op_time"),
    ("UNIQUE", "schedules", "vendor_type, vendor_id"),
    ("", "executions", "vendor_type, vendor_id"),
    ("", "tasks", "execution_id"),
    ("", "tasks", "status, due_s"),
    ("UNIQUE", "settings", "name"),
)


def create(database: Database) -> None:
    """Make the tables and indexes that are missing, and the columns a newer version added."""
    statements = []
    for table, columns in TABLES.items():
        parts = [f'"{name}" {_column(database, kind)}' for name, kind in columns.items()]
        statements.append(f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(parts)})")
    for unique, table, columns_text in _INDEXES:
        name = f"{table}_{columns_text.replace(', ', '_')}"
        statements.append(f"CREATE {unique} INDEX IF NOT EXISTS {name} ON {table} ({columns_text})")
    database.script(statements)


def _column(database: Database, kind: str) -> str:
    if kind == "id":
        return database.id_type
    if kind == "bytes":
        return database.bytes_type
    return f"{_TYPES[kind]} NOT NULL DEFAULT {_DEFAULTS[kind]}"
