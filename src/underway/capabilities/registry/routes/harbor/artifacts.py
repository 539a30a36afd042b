"""Artifacts, their tags, labels, accessories and additions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from underway.base.errors import BadRequest, Conflict, Forbidden, NotFound
from underway.capabilities.registry.backend import events, immutable
from underway.capabilities.registry.backend.database import Cursor, Row
from underway.capabilities.registry.backend.scanning import REPORT_TYPE, SBOM_TYPE
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.model import Pushed, Stored
from underway.capabilities.registry.routes.harbor.core import Call, Created, Page, Route
from underway.capabilities.registry.routes.harbor.labels import LABELS
from underway.capabilities.registry.routes.harbor.scans import overview, report_of
from underway.capabilities.registry.rules import access, artifacts, distribution, query, times
from underway.wire import oci

ARTIFACTS = Table("artifacts", "artifact")
TAGS = Table("tags", "tag")
_CONFIG_LIMIT = 4 * 1024 * 1024  # bytes of a configuration that is looked into


def list_artifacts(call: Call) -> Page:
    """The artifacts of a repository; those that are about another are its accessories."""
    repository_id = _repository_id(call)
    return _page(call, "repository_id = ? AND subject = ''", [repository_id])


def list_project_artifacts(call: Call) -> Page:
    """The artifacts of a project."""
    return _page(call, "project_id = ? AND subject = ''", [call.project()["id"]])


def get_artifact(call: Call) -> dict[str, Any]:
    """One artifact, by tag or digest."""
    return shown(call, [_row(call)])[0]


def delete_artifact(call: Call) -> None:
    """Delete an artifact, its tags and accessories."""
    row, repository = _row(call), call.repository()
    happened = events.of_artifact("DELETE_ARTIFACT", repository, row["digest"], "",
                                  row["project_id"])  # fmt: skip

    def then(cursor: Cursor) -> None:
        call.hub.events.record(cursor, call.account, happened)

    call.hub.storage.delete_manifest(repository, row["digest"], accessories=True, then=then)


def copy_artifact(call: Call) -> Created:
    """Copy an artifact, with all it lists, from another repository: ``from=p/repo:tag``."""
    source, separator, reference = _split(call.params.get("from", ""))
    if not separator:
        raise BadRequest("from must be PROJECT/REPOSITORY:TAG or PROJECT/REPOSITORY@DIGEST")
    if "repository:pull" not in call.rights(access.project_of(source)):
        raise Forbidden("the account may not do this")
    storage, target = call.hub.storage, call.repository()
    stored = storage.manifest(source, reference)
    if call.hub.database.one(
        "SELECT a.id FROM artifacts a JOIN repositories r ON r.id = a.repository_id "
        "JOIN tags t ON t.artifact_id = a.id WHERE r.name = ? AND a.digest = ? AND t.name = ?",
        target, stored.digest, reference,
    ):  # fmt: skip
        raise Conflict(f"{target}:{reference} is there already")
    tags = [] if oci.is_digest(reference) else [reference]
    _copy(call, source, target, stored, tags)
    return Created(stored.digest)


def list_tags(call: Call) -> Page:
    """The tags of an artifact."""
    row = _row(call)
    rows, total = TAGS.page(
        call.hub.database, call.query, "artifact_id = ?", row["id"], order="name"
    )
    return Page([_tag(call, call.repository(), row["project_id"], each) for each in rows], total)


def create_tag(call: Call) -> Created:
    """Let another tag point at an artifact."""
    row, repository = _row(call), call.repository()
    name = str(call.body().get("name") or "")
    if not oci.is_tag(name):
        raise BadRequest(f"{name[:50]!r} is no tag")
    where = "repository_id = ? AND name = ?"
    if TAGS.find(call.hub.database, where, row["repository_id"], name):
        raise Conflict(f"the tag {name} exists")

    def then(cursor: Cursor) -> None:
        happened = events.Happened("create", "tag", f"{repository}:{name}", row["project_id"])
        call.hub.events.record(cursor, call.account, happened)

    call.hub.storage.add_tag(repository, row["digest"], name, then)
    return Created(name)


def delete_tag(call: Call) -> None:
    """Delete a tag; the artifact stays."""
    row, repository, name = _row(call), call.repository(), call.path["tag_name"]
    if not TAGS.find(call.hub.database, "artifact_id = ? AND name = ?", row["id"], name):
        raise NotFound(f"there is no tag {name}")

    def then(cursor: Cursor) -> None:
        happened = events.Happened("delete", "tag", f"{repository}:{name}", row["project_id"])
        call.hub.events.record(cursor, call.account, happened)

    call.hub.storage.delete_tag(repository, name, then)


def list_accessories(call: Call) -> Page:
    """What is about an artifact: signatures, attestations, SBOMs."""
    row = _row(call)
    rows, total = ARTIFACTS.page(
        call.hub.database, call.query, "repository_id = ? AND subject = ?",
        row["repository_id"], row["digest"], order="id",
    )  # fmt: skip
    return Page(_accessories_shown(call, row, rows), total)


def add_label(call: Call) -> None:
    """Put a label on an artifact."""
    row, id = _row(call), call.body().get("id")
    label = LABELS.find(call.hub.database, "id = ?", id if isinstance(id, int) else 0)
    if label is None or label["project_id"] not in (0, row["project_id"]):
        raise NotFound(f"there is no label {id}")
    made = call.hub.database.write(
        lambda cursor: cursor.run(
            "INSERT INTO artifact_labels (artifact_id, label_id) VALUES (?, ?) "
            "ON CONFLICT DO NOTHING",
            row["id"], label["id"],
        )
    )  # fmt: skip
    if not made:
        raise Conflict(f"the artifact has the label {label['name']}")


def remove_label(call: Call) -> None:
    """Take a label off an artifact."""
    row, id = _row(call), call.id("label_id")
    if not call.hub.database.write(
        lambda cursor: cursor.run(
            "DELETE FROM artifact_labels WHERE artifact_id = ? AND label_id = ?", row["id"], id
        )
    ):
        raise NotFound(f"the artifact has no label {id}")


def addition(call: Call) -> Any:
    """More about an artifact: build_history, vulnerabilities or sbom."""
    row, name = _row(call), call.path["addition"]
    if name == "build_history":
        config = _config(call, row)
        if row["type"] != "IMAGE" or config is None:
            raise BadRequest(f"an artifact of type {row['type']} has no build history")
        return artifacts.build_history(config)
    if name == "vulnerabilities":
        wanted = call.request.headers.get("x-accept-vulnerabilities", REPORT_TYPE)
        report = report_of(call, row["id"], "vulnerability")
        return {REPORT_TYPE: report} if report is not None and REPORT_TYPE in wanted else {}
    if name == "sbom":
        report = report_of(call, row["id"], "sbom")
        if report is None:
            raise NotFound("the artifact has no SBOM")
        return report.get("sbom", report)
    raise BadRequest(f"{name!r} is no addition of an artifact")


def shown(call: Call, rows: list[Row]) -> list[dict[str, Any]]:
    """Artifacts as Harbor shows them; what belongs to them is read for all at once."""
    ids = [row["id"] for row in rows]
    tags = _grouped(call, "tags", ids) if call.flag("with_tag", default=True) else {}
    parts = _grouped(call, "parts", ids, " AND kind = 'manifest'")
    labels = _labels(call, ids) if call.flag("with_label") else {}
    found = []
    names = {id: _repository_name(call, id) for id in {row["repository_id"] for row in rows}}
    for row in rows:
        repository = names[row["repository_id"]]
        value = {
            "id": row["id"],
            "type": row["type"],
            "media_type": row["artifact_type"],
            "manifest_media_type": row["media_type"],
            "artifact_type": row["artifact_type"],
            "project_id": row["project_id"],
            "repository_id": row["repository_id"],
            "repository_name": repository,
            "digest": row["digest"],
            "size": row["size"],
            "icon": "",
            "push_time": row["push_time"],
            "pull_time": row["pull_time"] or times.NEVER,
            "annotations": row["annotations"] or None,
            "extra_attrs": _extra_attrs(call, row),
            "references": [_reference(row, each) for each in parts.get(row["id"], ())] or None,
            "tags": [_tag(call, repository, row["project_id"], each)
                     for each in tags.get(row["id"], ())] or None,
            "labels": labels.get(row["id"]),
            "addition_links": _links(call, repository, row),
        }  # fmt: skip
        if call.flag("with_scan_overview"):
            value["scan_overview"] = overview(call, row["id"])
        if call.flag("with_sbom_overview"):
            value["sbom_overview"] = _sbom_overview(call, row)
        if call.flag("with_accessory"):
            about = ARTIFACTS.where(
                call.hub.database, "repository_id = ? AND subject = ?",
                row["repository_id"], row["digest"],
            )  # fmt: skip
            value["accessories"] = _accessories_shown(call, row, about) or None
        found.append(value)
    return found


def _page(call: Call, where: str, params: list[object]) -> Page:
    taken, wanted = call.query.take("tags", "labels")
    if tags := taken.get("tags"):
        condition, more = _tags_condition(tags)
        where, params = f"{where} AND {condition}", [*params, *more]
    if labels := taken.get("labels"):
        for id in labels.values:
            where += " AND id IN (SELECT artifact_id FROM artifact_labels WHERE label_id = ?)"
            params = [*params, int(id) if id.isdigit() else 0]
    rows, total = ARTIFACTS.page(
        call.hub.database, wanted, where, *params, order="push_time DESC, id DESC"
    )
    return Page(shown(call, rows), total)


def _tags_condition(wanted: query.Filter) -> tuple[str, list[object]]:
    inside = "id IN (SELECT artifact_id FROM tags WHERE {})"
    if wanted.kind == "fuzzy":
        return inside.format("lower(name) LIKE ? ESCAPE '!'"), [query.like(wanted.values[0])]
    if wanted.values == ("nil",):
        return "id NOT IN (SELECT artifact_id FROM tags)", []
    if wanted.values == ("*",):
        return "id IN (SELECT artifact_id FROM tags)", []
    if wanted.kind == "all":
        return " AND ".join([inside.format("name = ?")] * len(wanted.values)) or "1 = 1", [
            *wanted.values
        ]
    marks = ", ".join("?" for _ in wanted.values)
    return inside.format(f"name IN ({marks})"), [*wanted.values]


def _row(call: Call) -> Row:
    reference, database = call.path["reference"], call.hub.database
    repository_id = _repository_id(call)
    if oci.is_digest(reference):
        row = ARTIFACTS.find(database, "repository_id = ? AND digest = ?", repository_id, reference)
    else:
        tag = TAGS.find(database, "repository_id = ? AND name = ?", repository_id, reference)
        row = ARTIFACTS.find(database, "id = ?", tag["artifact_id"]) if tag else None
    if row is None:
        raise NotFound(f"there is no artifact {call.repository()} {reference}")
    return row


def _repository_id(call: Call) -> int:
    sql = "SELECT id FROM repositories WHERE name = ? AND pushed = 1"
    row = call.hub.database.one(sql, call.repository())
    if row is None:
        raise NotFound(f"there is no repository {call.repository()}")
    return int(row["id"])


def _repository_name(call: Call, id: int) -> str:
    row = call.hub.database.one("SELECT name FROM repositories WHERE id = ?", id)
    return str(row["name"]) if row else ""


def _grouped(
    call: Call, table: str, ids: list[int], more: str = ""
) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    marks = ", ".join("?" for _ in ids)
    if ids:
        sql = f"SELECT * FROM {table} WHERE artifact_id IN ({marks}){more}"  # noqa: S608  # constant
        for row in call.hub.database.all(sql, *ids):
            found.setdefault(row["artifact_id"], []).append(row)
    return found


def _labels(call: Call, ids: Iterable[int]) -> dict[int, list[dict[str, Any]]]:
    found = {}
    for id, rows in _grouped(call, "artifact_labels", list(ids)).items():
        labels = [LABELS.find(call.hub.database, "id = ?", row["label_id"]) for row in rows]
        found[id] = [label for label in labels if label]
    return found


def _tag(call: Call, repository: str, project_id: int, row: Row) -> dict[str, Any]:
    names = ("id", "repository_id", "artifact_id", "name", "push_time")
    guarded = False
    if call.flag("with_immutable_status"):
        database = call.hub.database
        guarded = immutable.is_immutable(database, project_id, repository, row["name"])
    return {
        **{name: row[name] for name in names},
        "pull_time": row["pull_time"] or times.NEVER,
        "immutable": guarded,
    }


def _reference(row: Row, part: Row) -> dict[str, Any]:
    return {
        "parent_id": row["id"],
        "child_digest": part["digest"],
        "platform": msgspec.json.decode(part["platform"]),
    }


def _accessories_shown(call: Call, row: Row, about: list[Row]) -> list[dict[str, Any]]:
    tags = _grouped(call, "tags", [each["id"] for each in about])
    repository = _repository_name(call, row["repository_id"])
    return [
        {
            "id": each["id"],
            "artifact_id": each["id"],
            "subject_artifact_id": row["id"],
            "subject_artifact_digest": row["digest"],
            "subject_artifact_repo": repository,
            "size": each["size"],
            "digest": each["digest"],
            "type": artifacts.accessory_type(
                each["artifact_type"], [tag["name"] for tag in tags.get(each["id"], ())]
            ),
            "icon": "",
            "creation_time": each["push_time"],
        }
        for each in about
    ]


def _sbom_overview(call: Call, row: Row) -> dict[str, Any] | None:
    found = call.hub.database.one(
        "SELECT status, start_time, end_time, uuid FROM scan_reports "
        "WHERE artifact_id = ? AND kind = 'sbom'",
        row["id"],
    )
    if found is None:
        return None
    return {
        "scan_status": found["status"], "start_time": found["start_time"],
        "end_time": found["end_time"] or None, "report_id": found["uuid"], "mime_type": SBOM_TYPE,
    }  # fmt: skip


def _links(call: Call, repository: str, row: Row) -> dict[str, Any]:
    project, _, name = repository.partition("/")
    encoded = name.replace("/", "%252F")
    base = (
        f"/api/v2.0/projects/{project}/repositories/{encoded}/artifacts/{row['digest']}/additions"
    )
    names = ["build_history", "vulnerabilities"] if row["type"] == "IMAGE" else []
    return {each: {"absolute": False, "href": f"{base}/{each}"} for each in names}


def _config(call: Call, row: Row) -> dict[str, Any] | None:
    """An image's configuration, where it is here and small enough to look into."""
    found = call.hub.database.one(
        "SELECT size, place, data FROM contents WHERE digest = ?", row["config_digest"]
    )
    if found is None or found["size"] > _CONFIG_LIMIT:
        return None
    if found["data"] is not None:
        data = bytes(found["data"])
    else:
        pieces = call.hub.storage.contents.read(found["place"], 0, found["size"] - 1)
        data = b"".join(pieces)
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError:
        return None


def _extra_attrs(call: Call, row: Row) -> dict[str, Any] | None:
    if row["type"] != "IMAGE" or not row["config_digest"]:
        return None
    config = _config(call, row)
    return artifacts.extra_attrs(config) if config else None


def _split(text: str) -> tuple[str, str, str]:
    repository, at, reference = text.partition("@")
    if not at:
        repository, at, reference = text.rpartition(":")
    valid = oci.is_repository(repository) and (oci.is_digest(reference) or oci.is_tag(reference))
    return (repository, at, reference) if valid else ("", "", "")


def _copy(call: Call, source: str, target: str, stored: Stored, tags: list[str]) -> None:
    storage = call.hub.storage
    content = distribution.check_manifest(stored.data, stored.media_type)
    for each in distribution.manifests_of(content):
        _copy(call, source, target, storage.manifest(source, each.digest), [])
    for each in distribution.blobs_of(content):
        storage.mount(target, each.digest, source)

    def then(cursor: Cursor, pushed: Pushed) -> None:
        for tag in tags or [""]:
            happened = events.of_artifact(
                "PUSH_ARTIFACT", target, stored.digest, tag, pushed.project_id
            )
            call.hub.events.record(cursor, call.account, happened)

    storage.put_manifest(target, stored, tags=tags, then=then)


_ALL = "/projects/{project_name}/repositories/{repository_name}/artifacts"
_ONE = f"{_ALL}/{{reference}}"
ROUTES: list[Route] = [
    ("GET", "/projects/{project_name_or_id}/artifacts", "project artifact:list",
     list_project_artifacts),
    ("GET", _ALL, "project artifact:list", list_artifacts),
    ("POST", _ALL, "project artifact:create", copy_artifact),
    ("GET", _ONE, "project artifact:read", get_artifact),
    ("DELETE", _ONE, "project artifact:delete", delete_artifact),
    ("GET", f"{_ONE}/tags", "project tag:list", list_tags),
    ("POST", f"{_ONE}/tags", "project tag:create", create_tag),
    ("DELETE", f"{_ONE}/tags/{{tag_name}}", "project tag:delete", delete_tag),
    ("GET", f"{_ONE}/accessories", "project accessory:list", list_accessories),
    ("POST", f"{_ONE}/labels", "project artifact-label:create", add_label),
    ("DELETE", f"{_ONE}/labels/{{label_id}}", "project artifact-label:delete", remove_label),
    ("GET", f"{_ONE}/additions/{{addition}}", "project artifact-addition:read", addition),
]  # fmt: skip
