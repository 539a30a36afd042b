from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.base import ids, logs
from underway.base.clock import FakeClock, parse_rfc3339, rfc3339
from underway.base.errors import BadRequest
from underway.base.files import write_atomic
from underway.base.home import Home, Settings


def test_fake_clock_wakes_sleepers_in_order() -> None:
    woken: list[str] = []

    async def sleeper(clock: FakeClock, name: str, delay_s: float) -> None:
        await clock.sleep(delay_s)
        woken.append(name)

    async def story() -> None:
        clock = FakeClock()
        async with asyncio.TaskGroup() as group:
            group.create_task(sleeper(clock, "late", 5))
            group.create_task(sleeper(clock, "early", 1))
            await asyncio.sleep(0)
            await clock.advance(2)
            assert woken == ["early"]
            await clock.advance(3)
        assert woken == ["early", "late"]

    asyncio.run(story())


@given(st.datetimes(timezones=st.just(FakeClock().now().tzinfo)))
def test_times_survive_their_text(moment) -> None:
    assert parse_rfc3339(rfc3339(moment, micro=True)) == moment


def test_write_atomic_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomic(target, "one")
    write_atomic(target, b"two", mode=0o600)
    assert target.read_text() == "two"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomic(target, "old")
    with pytest.raises(TypeError):
        write_atomic(target, 3)  # type: ignore[arg-type]
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@given(st.text(alphabet="abcxyz-", max_size=80))
def test_generated_names_fit_a_label(base: str) -> None:
    name = ids.generate_name(base)
    assert len(name) <= 63
    assert name[:-5] == base[:58]


@pytest.mark.parametrize("text", [
    "Authorization: Bearer abc.def", "https://me:hunter2@host/x", 'password="hunter2"',
    "token=abc.def",
])  # fmt: skip
def test_secrets_are_masked(text: str) -> None:
    shown = logs.redact(text)
    assert "hunter2" not in shown
    assert "abc.def" not in shown


def test_settings_are_kept(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert home.load_settings() == Settings()
    home.save_settings(Settings(api_port=7000))
    assert home.load_settings().api_port == 7000


def test_broken_settings_name_the_file(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.settings_file.write_text('{"api_prot": 1}')
    with pytest.raises(BadRequest, match=r"settings\.json.*api_prot"):
        home.load_settings()


def test_two_homes_have_two_ids(tmp_path: Path) -> None:
    assert Home(tmp_path / "a").id != Home(tmp_path / "b").id
