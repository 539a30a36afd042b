"""Reading CRI-format logs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from underway.capabilities.node.backend import log_files
from underway.capabilities.node.backend.log_files import LogOptions

AT = "2026-01-01T00:00:0{}.000000001+00:00"


def line(second: int, text: str, tag: str = "F", stream: str = "stdout") -> str:
    return f"{AT.format(second)} {stream} {tag} {text}\n"


def read(path: Path, options: LogOptions) -> str:
    async def main() -> bytes:
        async def never() -> None:
            await asyncio.Event().wait()

        found = log_files.stream(path, options, lambda: True, never)
        return b"".join([chunk async for chunk in found])

    return asyncio.run(main()).decode()


def test_parts_are_joined_and_streams_times_and_moments_chosen(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(
        line(1, "a") + line(2, "b1", "P") + line(2, "b2") + line(3, "F x", "F", "stderr")
    )
    assert read(path, LogOptions()) == "a\nb1b2\nF x\n"
    assert read(path, LogOptions(stream="stderr")) == "F x\n"
    assert read(path, LogOptions(timestamps=True)).startswith(AT.format(1) + " a\n")
    since = datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)
    assert read(path, LogOptions(since=since)) == "b1b2\nF x\n"
    assert read(path, LogOptions(limit_bytes=3)) == "a\nb"
    assert log_files.last_lines(path, 2, 100) == "b1b2\nF x\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    lines=st.lists(st.text(alphabet="ab PF", max_size=12), max_size=20),
    wanted=st.integers(0, 25),
    follow=st.booleans(),
)
def test_a_tail_is_the_end_of_the_whole(
    tmp_path: Path, lines: list[str], wanted: int, follow: bool
) -> None:
    path = tmp_path / "0.log"
    path.write_text("".join(line(1, text) for text in lines))
    whole = read(path, LogOptions()).splitlines()
    tail = read(path, LogOptions(tail_lines=wanted, follow=follow)).splitlines()
    assert tail == (whole[-wanted:] if wanted else [])


def test_what_was_rotated_is_still_shown(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.with_name("0.log.1").write_text(line(1, "old"))
    path.write_text(line(2, "new"))
    assert read(path, LogOptions()) == "old\nnew\n"
    assert read(path, LogOptions(follow=True)) == "old\nnew\n"


def test_following_goes_on_through_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(line(1, "one"))

    async def main() -> None:
        ended = asyncio.Event()
        options = LogOptions(follow=True)
        found = aiter(log_files.stream(path, options, ended.is_set, ended.wait))  # type: ignore[arg-type]
        assert await anext(found) == b"one\n"
        with path.open("a") as file:
            file.write(line(2, "two"))
        assert await anext(found) == b"two\n"
        with path.open("a") as file:
            file.write(line(3, "three"))
        path.rename(path.with_name("0.log.1"))
        path.write_text(line(4, "four"))
        assert await anext(found) == b"three\n"
        assert await anext(found) == b"four\n"
        ended.set()
        assert [chunk async for chunk in found] == []

    asyncio.run(main())
