"""Getting into the console, and what ends a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.dist.web.staging import Browser, events, run, stage

from underway.api.resources import SERVICEACCOUNTS
from underway.base.clock import FakeClock, SystemClock
from underway.dist.web import guard, sessions
from underway.wire.http import Peer


def test_stranger_is_sent_to_the_login_and_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            browser = Browser(here.console)
            away = await browser.get("/pods/default/web?x=1")
            assert (away.status, away.headers["location"]) == (
                303,
                "/login?next=%2Fpods%2Fdefault%2Fweb%3Fx%3D1",
            )
            assert 'value="/pods/default/web?x=1"' in await browser.text(away.headers["location"])
            token = await here.token("admin", "cluster-admin")
            back = await browser.send(
                "POST", "/login", {"token": f" {token}\n", "next": "/nodes?x=1"}
            )
            assert (back.status, back.headers["location"]) == (303, "/nodes?x=1")
            assert "system:serviceaccount:default:admin" in await browser.text("/nodes")

    run(scenario())


def test_cookie_is_locked_down_and_no_credential(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            token = await here.token("admin")
            response = await Browser(here.console).send("POST", "/login", {"token": token})
            cookie = response.headers["set-cookie"]
            assert cookie.startswith("__Host-underway-")
            assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
            assert token not in cookie

    run(scenario())


@pytest.mark.parametrize("fields", [{"token": "wrong"}, {"token": ""}, {"how": "certificate"}])
def test_wrong_credentials_are_refused(tmp_path: Path, fields: dict[str, str]) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            browser = Browser(here.console)
            response = await browser.send("POST", "/login", fields)
            assert response.status in (400, 401)
            assert browser.cookie == ""
            assert b'role="alert"' in response.body

    run(scenario())


def test_ticket_logs_in_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = FakeClock(SystemClock().now())
        async with stage(tmp_path, clock=clock) as here:
            token = await here.token("admin", "cluster-admin")
            bearer = {"authorization": f"Bearer {token}"}
            given = await Browser(here.console).send("POST", "/login/tickets", {}, bearer)
            assert given.status == 201
            location = given.body.decode()
            browser = Browser(here.console)
            assert (await browser.get(location)).status == 303
            assert "Healthy" in await browser.text("/")
            assert (await Browser(here.console).get(location)).status == 401
            given = await Browser(here.console).send("POST", "/login/tickets", {}, bearer)
            await clock.advance(sessions.TICKET_S + 1)
            late = Browser(here.console)
            assert (await late.get(given.body.decode())).status == 401
            assert late.cookie == ""

    run(scenario())


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
def test_no_ticket_without_a_good_token(tmp_path: Path, headers: dict[str, str]) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            browser = await here.browser(await here.token("admin", "cluster-admin"))
            # The cookie alone is not enough: a ticket would double its session.
            assert (await browser.send("POST", "/login/tickets", {}, headers)).status == 401

    run(scenario())


def test_session_ends_when_idle_and_when_old(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = FakeClock(SystemClock().now())
        async with stage(tmp_path, clock=clock) as here:
            idle = await here.browser(await here.token("one", "view"))
            busy = await here.browser(await here.token("two", "view"))
            await clock.advance(sessions.IDLE_S / 2)
            assert (await busy.get("/")).status == 200
            await clock.advance(sessions.IDLE_S / 2 + 1)
            assert (await idle.get("/")).status == 303
            assert (await busy.get("/")).status == 200

    run(scenario())


def test_old_session_ends_however_busy() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        kept = sessions.Sessions(clock)
        cookie, _ = kept.open(sessions.Login("me"))
        for _ in range(int(sessions.LIFE_S / 1800)):
            assert kept.find(cookie) is not None
            await clock.advance(1800)
        await clock.advance(1)
        assert kept.find(cookie) is None

    run(scenario())


def test_sessions_are_bounded_and_the_least_used_goes_first() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        kept = sessions.Sessions(clock)
        first, _ = kept.open(sessions.Login("first"))
        second, _ = kept.open(sessions.Login("second"))
        await clock.advance(1)
        assert kept.find(first) is not None
        for _ in range(999):
            kept.open(sessions.Login("more"))
        assert kept.find(first) is not None
        assert kept.find(second) is None

    run(scenario())


def test_logout_ends_the_session_and_its_streams(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            browser = await here.browser(await here.token("admin", "cluster-admin"))
            stream = await browser.get("/pods", accept="text/event-stream")
            seen = events(stream)
            assert (await anext(seen))[0] == "content"
            token, cookie = await browser.csrf(), browser.cookie
            left = await browser.send("POST", "/logout", {"csrf": token})
            assert left.headers["location"] == "/login?reason=left"
            assert [name async for name, _ in seen] == ["ended"]
            assert (await Browser(here.console, cookie=cookie).get("/")).status == 303

    run(scenario())


def test_revoked_account_is_out_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            browser = await here.browser(await here.token("brief", "view"))
            assert (await browser.get("/pods")).status == 200
            await here.admin.delete(SERVICEACCOUNTS, "brief", "default")
            out = await browser.get("/pods")
            assert (out.status, out.headers["location"]) == (
                303,
                "/login?next=%2Fpods&reason=expired",
            )

    run(scenario())


def test_certificate_holds_for_the_connections_that_show_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            peer = Peer("127.0.0.1:4", "ada", ("system:masters",))
            browser = Browser(here.console, peer)
            assert "certificate of ada" in await browser.text("/login")
            assert (await browser.send("POST", "/login", {"how": "certificate"})).status == 303
            assert "Nodes" in await browser.text("/nodes")
            browser.peer = Peer("127.0.0.1:5", "eve", ("system:masters",))
            assert (await browser.get("/nodes")).status == 303

    run(scenario())


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("/pods?namespace=a", "/pods?namespace=a"),
        ("https://evil.test/", "/"),
        ("//evil.test/", "/"),
        ("/\\evil.test/", "/"),
        ("/pods\r\nset-cookie: a=b", "/"),
        ("/login?next=/login", "/"),
        ("", "/"),
    ],
)
def test_login_leads_to_this_console_only(wanted: str, given: str) -> None:
    assert guard.local_path(wanted) == given


def test_login_from_another_site_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stage(tmp_path) as here:
            token = await here.token("admin")
            browser = Browser(here.console)
            for headers in ({"origin": "https://evil.test"}, {"sec-fetch-site": "cross-site"}):
                response = await browser.send("POST", "/login", {"token": token}, headers)
                assert (response.status, browser.cookie) == (403, "")

    run(scenario())
