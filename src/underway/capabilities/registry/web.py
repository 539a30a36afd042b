"""The console's pages of the registry: projects, repositories, artifacts and what happened.

Everything comes from the registry's own HTTP API, as the visitor. Source: Harbor API v2.0
(projects, repositories, artifacts, audit logs); OCI distribution 1.1 (manifests).
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote, urlencode

from underway.api.objects import Object
from underway.base.errors import (
    Forbidden,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
)
from underway.kit.console import Moved, Shown, View, Visit, decoded
from underway.wire.http import Request

_HERE = "underway.capabilities.registry"
_API = "/api/v2.0"
_PAGE_SIZE = 100
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DETAILS = {"with_tag": "true", "with_label": "true", "with_accessory": "true"}
_ROOT = ("Registry", "/registry")


async def page(visit: Visit) -> Shown:
    """Projects, ``PROJECT``, ``PROJECT/REPOSITORY`` or ``PROJECT/REPOSITORY/REFERENCE``.

    A repository's name may have slashes, so it travels as one quoted segment, as in Harbor.
    """
    try:
        match visit.path:
            case () if visit.method == "POST":
                return await _login(visit)
            case ():
                return await _projects(visit)
            case (project,):
                return await _project(visit, project)
            case (project, repository):
                return await _repository(visit, project, repository)
            case (project, repository, reference):
                return await _artifact(visit, project, repository, reference)
    except Unauthorized as error:
        # The console's login is good: it is the registry that does not know its credential.
        values = {"message": error.message}
        return View("Log in to the registry", f"{_HERE}:login.html", values, (), (_ROOT,))
    raise NotFound("there is no such page below /registry")


async def _login(visit: Visit) -> Moved:
    """Take a registry account's name and password for the session, once the registry has."""
    name, password = visit.form.get("username", ""), visit.form.get("password", "")
    header = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
    await _ask(visit, f"{_API}/projects", "page_size=1", authorization=header)
    message = f"Logged in to the registry as {name}."
    return Moved("/registry", message, {"registry": header})


async def _projects(visit: Visit) -> View:
    number = _page_number(visit)
    projects = await _get(visit, "/projects", page=number, page_size=_PAGE_SIZE, sort="name")
    values = {"projects": projects, "activity": await _activity(visit), **_paging(number, projects)}
    return View("Registry", f"{_HERE}:projects.html", values)


async def _project(visit: Visit, project: str) -> View:
    number = _page_number(visit)
    details = await _get(visit, f"/projects/{_quoted(project)}")
    path = f"/projects/{_quoted(project)}/repositories"
    repositories = await _get(visit, path, page=number, page_size=_PAGE_SIZE, sort="-update_time")
    for each in repositories:
        each["short"] = str(each.get("name", "")).removeprefix(f"{project}/")
    values = {
        "project": details, "name": project, "repositories": repositories,
        "activity": await _activity(visit, project), **_paging(number, repositories),
    }  # fmt: skip
    return View(project, f"{_HERE}:project.html", values, (), (_ROOT,))


async def _repository(visit: Visit, project: str, repository: str) -> View:
    number = _page_number(visit)
    base = f"/projects/{_quoted(project)}/repositories/{_nested(repository)}"
    details = await _get(visit, base)
    artifacts = await _get(
        visit, f"{base}/artifacts", page=number, page_size=_PAGE_SIZE, sort="-push_time", **_DETAILS
    )
    values = {
        "project": project, "repository": repository, "details": details, "artifacts": artifacts,
        **_paging(number, artifacts),
    }  # fmt: skip
    trail = (_ROOT, (project, f"/registry/{_quoted(project)}"))
    return View(f"{project}/{repository}", f"{_HERE}:repository.html", values, (), trail)


async def _artifact(visit: Visit, project: str, repository: str, reference: str) -> View:
    path = f"/projects/{_quoted(project)}/repositories/{_nested(repository)}/artifacts/"
    artifact = await _get(visit, path + _quoted(reference), **_DETAILS)
    digest = str(artifact.get("digest") or reference)
    manifest = await _manifest(visit, f"{project}/{repository}", digest)
    values = {
        "project": project, "repository": repository, "artifact": artifact, "digest": digest,
        "manifest": manifest,
    }  # fmt: skip
    trail = (
        _ROOT,
        (project, f"/registry/{_quoted(project)}"),
        (repository, f"/registry/{_quoted(project)}/{_quoted(repository)}"),
    )
    return View(reference[:26], f"{_HERE}:artifact.html", values, (), trail)


async def _manifest(visit: Visit, repository: str, digest: str) -> Object | None:
    """The manifest or index itself; None where the registry does not give it to this visitor."""
    path = f"/v2/{quote(repository)}/manifests/{_quoted(digest)}"
    try:
        found = await _ask(visit, path, accept=", ".join(_MANIFESTS))
    except (Forbidden, NotFound, Unauthorized):
        return None
    return found if isinstance(found, dict) else None


async def _activity(visit: Visit, project: str = "") -> list[Object] | None:
    """The latest entries of the audit log; None where this visitor may not read it."""
    path = f"/projects/{_quoted(project)}/logs" if project else "/audit-logs"
    try:
        found = await _get(visit, path, page=1, page_size=20, sort="-op_time")
    except (Forbidden, NotFound, MethodNotAllowed, Unauthorized):
        return None
    return found if isinstance(found, list) else None


async def _get(visit: Visit, path: str, **params: object) -> Any:
    return await _ask(visit, _API + path, urlencode(params))


async def _ask(visit: Visit, path: str, query: str = "", **headers: str) -> Any:
    service = visit.services.get("registry")
    if service is None:
        raise NotFound("this platform runs no registry")
    # Harbor takes a project's name for its number where it could be both, unless told.
    sent = {"accept": "application/json", "x-is-resource-name": "true", **headers}
    return await decoded(await service(Request("GET", path, query, sent)))


def _quoted(segment: str) -> str:
    return quote(segment, safe=":@")


def _nested(repository: str) -> str:
    """A repository's name inside a Harbor path: quoted twice, so that its slashes survive."""
    return quote(quote(repository, safe=""), safe="")


def _page_number(visit: Visit) -> int:
    text = visit.params.get("page", "1")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 7 else 1


def _paging(number: int, shown: list[Any]) -> Object:
    return {"number": number, "next": number + 1 if len(shown) == _PAGE_SIZE else 0}
