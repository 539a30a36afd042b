"""The registry's pages, before a registry that answers as Harbor's API v2.0 is specified."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tests.dist.web.staging import Browser, Stage, run, stage

from underway.wire.http import Request, Response, json_response

DIGEST = "sha256:" + "a" * 64
SIGNATURE = "sha256:" + "b" * 64
LAYER = "sha256:" + "c" * 64
NAME = "/api/v2.0/projects/shop/repositories/web%252Ffront"

ARTIFACT = {
    "id": 1,
    "type": "IMAGE",
    "digest": DIGEST,
    "size": 3 * 1024 * 1024,
    "manifest_media_type": "application/vnd.oci.image.manifest.v1+json",
    "push_time": "2026-11-20T10:00:00.000Z",
    "pull_time": "0001-01-01T00:00:00.000Z",
    "extra_attrs": {"os": "linux", "architecture": "amd64", "created": "2026-11-20T09:00:00Z"},
    "tags": [{"name": "1.0", "immutable": True}, {"name": "<b>latest</b>"}],
    "labels": None,
    "accessories": [
        {
            "type": "signature.cosign", "digest": SIGNATURE, "size": 300,
            "creation_time": "2026-11-20T10:01:00.000Z",
        }
    ],
}  # fmt: skip
BODIES: dict[str, Any] = {
    "/api/v2.0/projects": [
        {
            "name": "shop", "project_id": 2, "repo_count": 1, "owner_name": "admin",
            "metadata": {"public": "false"}, "creation_time": "2026-11-20T08:00:00.000Z",
        }
    ],
    "/api/v2.0/projects/shop": {
        "name": "shop", "repo_count": 1, "owner_name": "admin", "metadata": {"public": "false"},
    },
    "/api/v2.0/projects/shop/repositories": [
        {
            "name": "shop/web/front", "artifact_count": 1, "pull_count": 7,
            "update_time": "2026-11-20T10:00:00.000Z",
        }
    ],
    "/api/v2.0/projects/shop/logs": [
        {
            "op_time": "2026-11-20T10:00:00.000Z", "username": "ada", "operation": "create",
            "resource_type": "artifact", "resource": "shop/web/front:1.0",
        }
    ],
    NAME: {"name": "shop/web/front", "artifact_count": 1, "pull_count": 7},
    NAME + "/artifacts": [ARTIFACT],
    f"{NAME}/artifacts/{DIGEST}": ARTIFACT,
    f"/v2/shop/web/front/manifests/{DIGEST}": {
        "schemaVersion": 2,
        "layers": [{"digest": LAYER, "size": 2048, "mediaType": "application/x.layer"}],
        "annotations": {"org.opencontainers.image.title": "Front"},
    },
}  # fmt: skip


async def harbor(request: Request) -> Response:
    if request.path in BODIES:
        return json_response(BODIES[request.path])
    body = {"errors": [{"code": "NOT_FOUND", "message": f"no {request.path}"}]}
    return json_response(body, 404)


async def visitor(here: Stage) -> Browser:
    return await here.browser(await here.token("ada"))


def test_from_projects_to_the_layers_of_an_artifact(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path, {"registry": harbor}) as here:
            browser = await visitor(here)
            assert '<a href="/registry/shop">shop</a>' in await browser.text("/registry")
            project = await browser.text("/registry/shop")
            assert '<a href="/registry/shop/web%2Ffront">web/front</a>' in project
            assert "create artifact" in project
            assert "Private" in project
            repository = await browser.text("/registry/shop/web%2Ffront")
            assert f"/registry/shop/web%2Ffront/{DIGEST.replace(':', '%3A')}" in repository
            assert "1.0, &lt;b&gt;latest&lt;/b&gt;" in repository
            assert "3.0 MiB" in repository
            assert "signature.cosign" in repository
            artifact = await browser.text(f"/registry/shop/web%2Ffront/{DIGEST}")
            for shown in (LAYER, "2.0 KiB", "linux/amd64", "immutable", SIGNATURE[:19], "Front"):
                assert shown in artifact

    run(scenario())


def test_artifact_whose_manifest_may_not_be_pulled_is_still_described(tmp_path: Path) -> None:
    async def refuse(request: Request) -> Response:
        if request.path.startswith("/v2/"):
            return json_response({"errors": [{"code": "DENIED", "message": "no"}]}, 403)
        return await harbor(request)

    async def scenario() -> None:
        async with stage(tmp_path, {"registry": refuse}) as here:
            browser = await visitor(here)
            artifact = await browser.text(f"/registry/shop/web%2Ffront/{DIGEST}")
            assert "linux/amd64" in artifact
            assert "Layers" not in artifact

    run(scenario())


def test_what_is_not_there_and_what_may_not_be_seen_look_alike(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path, {"registry": harbor}) as here:
            browser = await visitor(here)
            for path in ("/registry/none", "/registry/shop/none", "/registry/a/b/c/d"):
                assert (await browser.get(path)).status == 404

    run(scenario())


def test_names_cannot_leave_the_registrys_api(tmp_path: Path) -> None:
    async def scenario() -> None:
        asked: list[str] = []

        async def record(request: Request) -> Response:
            asked.append(request.path)
            return await harbor(request)

        async with stage(tmp_path, {"registry": record}) as here:
            browser = await visitor(here)
            for path in ("/registry/..%2F..%2Fusers", "/registry/shop/x%3Fpage=1%23"):
                await browser.get(path)
        assert asked
        assert all(path.startswith("/api/v2.0/projects/") for path in asked)
        assert not any(".." in path.split("/") or "?" in path for path in asked)

    run(scenario())


def test_account_of_the_registrys_own_is_used_for_the_session(tmp_path: Path) -> None:
    good = "Basic " + base64.b64encode(b"robot$ci:secret").decode()

    async def strict(request: Request) -> Response:
        if request.headers.get("authorization") != good:
            body = {"errors": [{"code": "UNAUTHORIZED", "message": "unauthorized"}]}
            return json_response(body, 401)
        return await harbor(request)

    async def scenario() -> None:
        async with stage(tmp_path, {"registry": strict}) as here:
            browser = await visitor(here)
            assert "User or robot" in await browser.text("/registry")
            wrong = await browser.post("/registry", username="robot$ci", password="guess")
            assert b"User or robot" in wrong.body
            moved = await browser.post("/registry", username="robot$ci", password="secret")
            assert (moved.status, moved.headers["location"]) == (303, "/registry")
            shown = await browser.text("/registry")
            assert "Logged in to the registry as robot$ci." in shown
            assert "shop" in shown
            assert "secret" not in shown
            other = await here.browser(await here.token("other"))
            assert "User or robot" in await other.text("/registry")

    run(scenario())
