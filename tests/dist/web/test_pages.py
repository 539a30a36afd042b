"""Pages: what they show to whom, what they change, and how they stay live."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.dist.web.staging import Browser, events, run, stage

from underway.api.resources import DEPLOYMENTS, EVENTS_CORE, PODS, SECRETS
from underway.base.errors import InternalError
from underway.dist.web.navigation import Navigation
from underway.kit import Page
from underway.wire.http import Request, Response, json_response


def deployment(name: str = "web", replicas: int = 2) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "busybox"}]},
            },
        },
    }


def pod(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": deployment()["spec"]["template"]["spec"],
    }


PATHS = (
    "/", "/workloads", "/workloads/deployments/default/web", "/pods", "/pods/default/lone",
    "/pods/default/lone/log/main", "/events", "/events?type=Warning", "/resources",
    "/resources/apps/v1/deployments", "/resources/core/v1/pods/default/lone",
    "/resources/core/v1/namespaces/-/default", "/nodes", "/namespaces", "/login",
)  # fmt: skip


def test_pages_are_sound_documents_without_inline_code(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            await here.admin.create(DEPLOYMENTS, deployment())
            await here.admin.create(PODS, pod("lone"))
            browser = await here.browser(await here.token("admin", "cluster-admin"))
            for path in PATHS:
                response = await browser.get(path)
                html = response.body.decode()
                assert response.status == 200, (path, html)
                policy = response.headers["content-security-policy"]
                assert "unsafe" not in policy
                assert response.headers["cache-control"] == "no-store"
                assert len(re.findall(r"<h1>", html)) == 1, path
                assert "<title>" in html
                assert '<main id="main"' in html
                # What the policy would block must not be relied upon.
                assert not re.search(r"<script(?![^>]* src=)|\son\w+=|\sstyle=|javascript:", html)
                labelled = re.findall(r'<label for="([^"]+)"', html)
                assert sorted(labelled) == sorted(
                    re.findall(
                        r'<(?:input|textarea)(?![^>]*type="hidden")[^>]*\bid="([^"]+)"', html
                    )
                ), path

    run(scenario())


def test_whoever_may_little_is_told_so_politely(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            await here.admin.create(DEPLOYMENTS, deployment())
            nobody = await here.browser(await here.token("nobody"))
            for path in ("/pods", "/workloads", "/workloads/deployments/default/web", "/nodes"):
                response = await nobody.get(path)
                assert response.status == 403
                text = response.body.decode()
                assert "You may not see this" in text
                assert "system:serviceaccount:default:nobody" in text
            assert "Healthy" in await nobody.text("/")
            reader = await here.browser(await here.token("reader", "view"))
            page = await reader.text("/workloads/deployments/default/web")
            assert "Rolled out" in page or "seen yet" in page
            assert "Scale" not in page
            assert (await reader.get("/resources/core/v1/secrets")).status == 403
            here_too = await reader.post(
                "/workloads/deployments/default/web", action="scale", replicas="9"
            )
            assert here_too.status == 403
            kept = await here.admin.get(DEPLOYMENTS, "web", "default")
            assert kept["spec"]["replicas"] == 2

    run(scenario())


def test_scaling_and_restarting_through_forms(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            await here.admin.create(DEPLOYMENTS, deployment())
            browser = await here.browser(await here.token("editor", "edit"))
            at = "/workloads/deployments/default/web"
            moved = await browser.post(at, action="scale", replicas="5")
            assert (moved.status, moved.headers["location"]) == (303, at)
            assert "Scaled to 5." in await browser.text(at)
            assert "Scaled to 5." not in await browser.text(at)
            assert (await browser.post(at, action="restart")).status == 303
            now = await here.admin.get(DEPLOYMENTS, "web", "default")
            assert now["spec"]["replicas"] == 5
            assert now["spec"]["template"]["metadata"]["annotations"]
            for wrong in ("-1", "1e3", "", "99999", "\u0661"):
                assert (await browser.post(at, action="scale", replicas=wrong)).status == 400
            assert (await browser.post(at, action="explode")).status == 400

    run(scenario())


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({}, {}),
        ({"csrf": "wrong"}, {}),
        ({"csrf": "right"}, {"origin": "https://evil.test"}),
        ({"csrf": "right"}, {"origin": "null"}),
        ({"csrf": "right"}, {"sec-fetch-site": "same-site"}),
    ],
)
def test_forged_change_is_refused(
    tmp_path: Path, fields: dict[str, str], headers: dict[str, str]
) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            await here.admin.create(DEPLOYMENTS, deployment())
            browser = await here.browser(await here.token("admin", "cluster-admin"))
            if fields.get("csrf") == "right":
                fields["csrf"] = await browser.csrf()
            sent = {"action": "scale", "replicas": "7", **fields}
            at = "/workloads/deployments/default/web"
            assert (await browser.send("POST", at, sent, headers)).status == 403
            kept = await here.admin.get(DEPLOYMENTS, "web", "default")
            assert kept["spec"]["replicas"] == 2

    run(scenario())


def test_token_of_another_session_does_not_count(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            token = await here.token("admin", "cluster-admin")
            mine, other = await here.browser(token), await here.browser(token)
            sent = {"csrf": await other.csrf(), "action": "delete"}
            assert (await mine.send("POST", "/pods/default/x", sent)).status == 403

    run(scenario())


@pytest.mark.parametrize(
    ("body", "media", "code"),
    [
        (b"x" * 70_000, "application/x-www-form-urlencoded", 413),
        (b"{}", "application/json", 400),
        (b"--b", "multipart/form-data; boundary=b", 400),
        (b"a=%ff&\xff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a%d=1" % n for n in range(500)), "application/x-www-form-urlencoded", 400),
    ],
)
def test_hostile_form_is_refused(tmp_path: Path, body: bytes, media: str, code: int) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            headers = {"host": "h", "content-type": media}
            response = await here.console(Request("POST", "/login", "", headers, body))
            assert response.status == code

    run(scenario())


def test_what_objects_say_cannot_become_markup(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
            await here.admin.create(
                EVENTS_CORE,
                {
                    "metadata": {"name": "e", "namespace": "default"},
                    "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
                    "type": "Warning", "reason": hostile[:60], "message": hostile,
                },
            )  # fmt: skip
            browser = await here.browser(await here.token("admin", "cluster-admin"))
            for path in ("/", "/events", f"/pods?namespace={hostile}", f"/{hostile}"):
                response = await browser.get(path.replace(" ", "%20"))
                assert "<img" not in response.body.decode().replace('<img src="/static', "")
                assert "<script>" not in response.body.decode()
            stream = events(await browser.get("/events", accept="text/event-stream"))
            name, html = await anext(stream)
            assert name == "content"
            assert "&lt;script&gt;" in html

    run(scenario())


def test_values_of_secrets_are_shown_when_asked_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            value = base64.b64encode(b"opensesame").decode()
            last = "kubectl.kubernetes.io/last-applied-configuration"
            await here.admin.create(
                SECRETS,
                {
                    "metadata": {
                        "name": "s", "namespace": "default",
                        "annotations": {last: f'{{"data":{{"k":"{value}"}}}}'},
                    },
                    "data": {"k": value},
                },
            )  # fmt: skip
            browser = await here.browser(await here.token("admin", "cluster-admin"))
            at = "/resources/core/v1/secrets/default/s"
            hidden = await browser.text(at)
            assert value not in hidden
            assert "(10 bytes, hidden)" in hidden
            assert value in await browser.text(at + "?values=shown")
            stream = events(await browser.get(at, accept="text/event-stream"))
            assert value not in (await anext(stream))[1]

    run(scenario())


def test_live_page_is_shown_anew_when_something_changed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            browser = await here.browser(await here.token("reader", "view"))
            response = await browser.get("/pods", accept="text/event-stream")
            assert response.headers["content-type"].startswith("text/event-stream")
            stream = events(response)
            assert "There are no pods" in (await anext(stream))[1]
            await here.admin.create(PODS, pod("lone"))
            name, html = await anext(stream)
            assert name == "content"
            assert "/pods/default/lone" in html
            assert "<html" not in html
            one = events(await browser.get("/pods/default/lone", accept="text/event-stream"))
            assert "main" in (await anext(one))[1]
            await here.admin.delete(PODS, "lone", "default", grace_period_s=0)
            async for _, html in one:
                if "not found" in html:
                    break
            await response.body.aclose()  # type: ignore[union-attr]

    run(scenario())


def test_rights_taken_away_end_what_a_live_page_shows(tmp_path: Path) -> None:
    async def scenario() -> None:
        from underway.api.resources import CLUSTERROLEBINDINGS

        async with stage(tmp_path) as here:
            await here.admin.create(PODS, pod("lone"))
            browser = await here.browser(await here.token("reader", "view"))
            stream = events(await browser.get("/pods", accept="text/event-stream"))
            assert "lone" in (await anext(stream))[1]
            await here.admin.delete(CLUSTERROLEBINDINGS, "reader")
            await here.admin.create(PODS, pod("secretive"))
            _, html = await anext(stream)
            assert "secretive" not in html
            assert "problem" in html

    run(scenario())


def test_services_get_the_visitors_credential_and_nothing_of_the_browsers(tmp_path: Path) -> None:
    async def scenario() -> None:
        seen: list[Request] = []

        async def registry(request: Request) -> Response:
            seen.append(request)
            return json_response([])

        async with stage(tmp_path, {"registry": registry}) as here:
            token = await here.token("admin", "cluster-admin")
            browser = await here.browser(token)
            assert "no projects" in await browser.text("/registry")
            assert {each.headers["authorization"] for each in seen} == {f"Bearer {token}"}
            assert not any("cookie" in each.headers for each in seen)
            seen.clear()
            given = await Browser(here.console).send(
                "POST", "/login/tickets", {"service.registry": "Basic eA==", "service.x": "y"},
                {"authorization": f"Bearer {token}"},
            )  # fmt: skip
            other = Browser(here.console)
            await other.get(given.body.decode())
            await other.text("/registry")
            assert {each.headers["authorization"] for each in seen} == {"Basic eA=="}

    run(scenario())


def test_registry_that_does_not_know_the_login_ends_no_session(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def registry(_: Request) -> Response:
            body = {"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}
            return Response(401, {}, msgspec.json.encode(body))

        async with stage(tmp_path, {"registry": registry}) as here:
            browser = await here.browser(await here.token("reader", "view"))
            assert "who are you" in await browser.text("/registry")
            tried = await browser.post("/registry", username="robot$x", password="wrong")
            assert b"who are you" in tried.body
            assert (await browser.get("/pods")).status == 200

    run(scenario())


def test_unknown_pages_files_and_methods(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            browser = await here.browser(await here.token("admin", "cluster-admin"))
            for path in (
                "/none", "/static/app.py", "/static/..%2fapp.py", "/pods/a/b/c", "/home/x",
                "/resources/core/v1/none", "/resources/core", "/pods/default/none",
            ):  # fmt: skip
                assert (await browser.get(path)).status == 404, path
            assert (await browser.send("PUT", "/pods")).status == 405
            css = await browser.get("/static/console.css")
            assert css.headers["content-type"] == "text/css; charset=utf-8"

    run(scenario())


def test_two_pages_of_one_name_are_refused() -> None:
    page = Page("pods", "Pods", "a:b")
    with pytest.raises(InternalError, match="two pages"):
        Navigation([page, page])
    with pytest.raises(InternalError, match="login"):
        Navigation([Page("login", "Log in", "a:b")])


def test_web_framework_waits_for_the_first_visitor() -> None:
    code = (
        "import sys, underway.dist.control_plane; "
        "print([name for name in ('starlette', 'jinja2', 'anyio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "starlette" not in done.stdout
    assert "jinja2" not in done.stdout


def test_picker_offers_the_namespaces_one_may_list(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            for role, offered in (("view", True), ("", False)):
                browser = await here.browser(await here.token(role or "nobody", role))
                answer = await browser.get("/namespaces/options", **{"hx-request": "true"})
                assert ('<option value="kube-system">' in answer.body.decode()) is offered
                assert "<html" not in answer.body.decode()

    run(scenario())


def test_live_pages_of_a_session_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            browser = await here.browser(await here.token("reader", "view"))
            opened = [
                await browser.get("/namespaces", accept="text/event-stream") for _ in range(50)
            ]
            assert {each.status for each in opened} == {200}
            refused = await browser.get("/namespaces", accept="text/event-stream")
            assert refused.status == 429
            for each in opened:
                await each.body.aclose()  # type: ignore[union-attr]
            again = await browser.get("/namespaces", accept="text/event-stream")
            assert again.status == 200
            await again.body.aclose()  # type: ignore[union-attr]

    run(scenario())
