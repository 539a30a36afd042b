"""The builder's decisions, without touching anything."""

import pytest

from underway.base.errors import BadRequest
from underway.capabilities.build.model import Image, StageState
from underway.capabilities.build.rules.configure import configure, workdir
from underway.capabilities.build.rules.container import CAPABILITIES, Container, configuration
from underway.capabilities.build.rules.identity import Identity, chmod, identity, owner
from underway.capabilities.build.rules.keys import DEFAULT_EPOCH_S, framed, moment_of
from underway.capabilities.build.rules.stages import plan, unused_args
from underway.wire.dockerfile import parse

PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:10:20::/home/app:/bin/sh\n1000:x:7:7::/odd:\n"
GROUP = "root:x:0:\nstaff:x:20:\nwheel:x:30:app,other\n"


def test_framed_hashes_tell_apart_what_joins_alike():
    made = {
        framed("ab", "c"), framed("a", "bc"), framed(["ab", "c"]), framed(["ab"], ["c"]),
        framed({"ab": "c"}, []), framed("abc"), framed(["a", "bc"]),
    }  # fmt: skip
    assert len(made) == 7
    assert framed({"a": "1", "b": "2"}) == framed({"b": "2", "a": "1"})


def test_copied_files_are_older_than_what_is_made_of_them():
    moments = {moment_of(framed(str(i)), DEFAULT_EPOCH_S, fixed=False) for i in range(50)}
    assert len(moments) > 40
    assert all(1_400_000_000 < m < DEFAULT_EPOCH_S for m in moments)
    assert moment_of("ff", 5, fixed=True) == 5


def test_only_the_stages_a_target_needs_are_planned():
    dockerfile = parse(
        "ARG V=1\nFROM a:$V AS one\nFROM one AS two\nFROM b AS three\n"
        "RUN --mount=type=bind,from=two,target=/x y\nFROM c AS four\nCOPY --from=0 /x /y\n"
        "FROM d AS five\n"
    )

    def names(target):
        made = plan(dockerfile, target, {"V": "2"}, {})
        return [(p.stage.name, p.base_stage, p.base_image) for p in made.stages]

    assert names("") == [("five", None, "d")]
    assert names("FOUR") == [("one", None, "a:2"), ("four", None, "c")]
    assert names("2") == [("one", None, "a:2"), ("two", 0, ""), ("three", None, "b")]
    with pytest.raises(BadRequest) as caught:
        plan(dockerfile, "six", {}, {})
    assert caught.value.hint == "there are: one, two, three, four, five"


def test_undeclared_build_arguments_are_found():
    dockerfile = parse("ARG A\nFROM x\nARG B\n")
    given = {"A": "1", "B": "1", "C": "1", "http_proxy": "1"}
    assert unused_args(dockerfile, given) == ["C"]


def test_env_sees_the_variables_as_they_were_before_it():
    dockerfile = parse("FROM x\nENV a=hello\nENV a=bye d=$a\nWORKDIR rel\n")
    state = StageState(Image())
    for step in dockerfile.stages[0].steps[:2]:
        assert configure(dockerfile, step, state)
    assert state.image.config["Env"] == ["a=bye", "d=hello"]
    assert not configure(dockerfile, dockerfile.stages[0].steps[2], state)
    assert workdir(dockerfile, dockerfile.stages[0].steps[2], state) == "/rel"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(0, 0, (0,), "/root")),
        ("app", Identity(10, 20, (20, 30), "/home/app")),
        ("10", Identity(10, 20, (20, 30), "/home/app")),
        ("app:wheel", Identity(10, 30, (30,), "/home/app")),
        ("77:88", Identity(77, 88, (88,), "/")),
        ("77", Identity(77, 0, (0,), "/")),
        ("1000", Identity(7, 7, (7,), "/odd")),
    ],
)
def test_users_are_looked_up_in_the_image(user, expected):
    assert identity(user, PASSWD, GROUP) == expected


def test_owners_of_copies():
    assert owner("app", PASSWD, GROUP) == (10, 20)
    assert owner("5", PASSWD, GROUP) == (5, 5)
    assert owner("5:staff", PASSWD, GROUP) == (5, 20)
    for bad in ("nobody", "0:nogroup"):
        with pytest.raises(ValueError, match="the image has no"):
            owner(bad, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("mode", "change", "directory", "result"),
    [
        (0o644, "755", False, 0o755),
        (0o644, "u=rwX,go=rX", False, 0o644),
        (0o700, "u=rwX,go=rX", True, 0o755),
        (0o644, "+x", False, 0o755),
        (0o777, "go-w", False, 0o755),
        (0o755, "u+s", False, 0o4755),
        (0o755, "a+t", True, 0o1755),
    ],
)
def test_modes(mode, change, directory, result):
    assert chmod(mode, change, directory=directory) == result


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no mode"):
        chmod(0o644, "8", directory=False)


def test_a_step_gets_no_more_capabilities_than_there_are():
    made = configuration(
        Container(["x"], {}, "/", Identity(0, 0), "/r", "/c", {"CAP_CHOWN", "CAP_SYS_ADMIN"})
    )
    assert made["process"]["capabilities"]["effective"] == ["CAP_CHOWN"]
    assert "CAP_SYS_ADMIN" not in CAPABILITIES
