"""Dockerfiles: what is read, what is refused and with which words."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from underway.base.errors import BadRequest
from underway.wire import dockerfile_instructions as ins
from underway.wire.dockerfile import parse
from underway.wire.dockerfile_words import expand, split
from underway.wire.dockerignore import IgnoreRules


def steps(body, head="FROM x\n"):
    return parse(head + body).stages[0].steps


def test_stages_continuations_comments_and_line_numbers():
    parsed = parse(
        "# syntax=docker/dockerfile:1\n"
        "ARG V=1 \\\n"
        "    W\n"
        "\n"
        "from --platform=$P debian:${V} as Build\n"
        "RUN a && \\\n"
        "  # a comment between\n"
        "\n"
        "  b \\  \n"
        "  && c\n"
        "  # indented comment\n"
        "FROM scratch\n"
        "COPY --from=build --chown=1:2 --chmod=755 /a /b/ /c/\n"
    )
    assert parsed.args[0].pairs == (("V", "1"), ("W", None))
    assert [(s.name, s.base.image, s.base.line) for s in parsed.stages] == [
        ("build", "debian:${V}", 5),
        ("", "scratch", 12),
    ]
    (run,) = parsed.stages[0].steps
    assert run.command.argv == ("a &&   b   && c",)
    assert run.line == 6
    copy = parsed.stages[1].steps[0]
    assert (copy.stage, copy.chown, copy.chmod) == ("build", "1:2", "755")
    assert (copy.sources, copy.destination) == (("/a", "/b/"), "/c/")


def test_the_escape_directive_changes_continuations():
    (run,) = parse("# escape=`\nFROM x\nRUN dir c:\\ `\n && b\n").stages[0].steps
    assert run.command.argv == ("dir c:\\  && b",)


def test_heredocs_belong_to_their_instruction():
    run, copy, other = steps(
        "RUN <<EOF bash\nset -e\n# kept\necho $x\nEOF\n"
        "COPY <<-'A' <<B /dest/\n\tone $x\n\tA\ntwo\nB\n"
        "RUN cat <<<word 'no <<HERE'\n"
    )
    assert run.at.heredocs == (ins.Heredoc("EOF", "set -e\n# kept\necho $x\n", expand=True),)
    assert [(h.name, h.content, h.expand) for h in copy.at.heredocs] == [
        ("A", "one $x\n", False),
        ("B", "two\n", True),
    ]
    assert not other.at.heredocs


def test_every_instruction_becomes_a_value():
    found = steps(
        'ENV A=1 B="two words" C=x\\ y\nENV old style value\nLABEL a.b=c\nWORKDIR /a b\n'
        'USER app:app\nEXPOSE 80 53/udp\nENTRYPOINT ["a", "b"]\nCMD serve --now\n'
        'SHELL ["/bin/bash", "-c"]\nVOLUME ["/a b"]\nVOLUME /c /d\n'
        "HEALTHCHECK --interval=1m30s --retries=2 CMD curl localhost\nHEALTHCHECK NONE\n"
        "STOPSIGNAL SIGQUIT\nONBUILD RUN make\nMAINTAINER me <a@b>\n"
        "RUN --mount=type=cache,target=/c --mount=type=bind,from=b,src=/x,dst=/y,ro make\n"
        "ADD --checksum=sha256:1 http://h/f /f\nARG X\n"
    )
    kinds = [type(step).__name__ for step in found]
    assert kinds[:9] == "Env Env Label Workdir User Expose Entrypoint Cmd Shell".split()  # noqa: SIM905
    assert kinds[9:13] == ["Volume", "Volume", "Healthcheck", "Healthcheck"]
    assert kinds[13:] == ["Stopsignal", "Onbuild", "Maintainer", "Run", "Copy", "Arg"]
    assert found[0].pairs == (("A", "1"), ("B", '"two words"'), ("C", "x\\ y"))
    assert found[1].pairs == (("old", "style value"),)
    assert found[6].command == ins.Command(("a", "b"), shell=False)
    assert found[7].command == ins.Command(("serve --now",), shell=True)
    assert found[9].paths == ("/a b",)
    assert (found[11].interval_ns, found[11].retries) == (90 * 10**9, 2)
    assert found[12].command is None
    assert found[16].mounts[1] == {
        "type": "bind", "from": "b", "source": "/x", "target": "/y", "readonly": "true",
    }  # fmt: skip
    assert found[17].add
    assert found[17].checksum == "sha256:1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM x\n\nRUNN a", "Dockerfile:3: unknown instruction: RUNN (did you mean RUN?)"),
        ("RUN a", "Dockerfile:1: RUN stands before the first FROM"),
        ("", "Dockerfile: there is no FROM"),
        ("FROM", "Dockerfile:1: FROM needs an argument"),
        ("FROM a b", "Dockerfile:1: FROM must be FROM IMAGE or FROM IMAGE AS NAME"),
        ("FROM a AS b\nFROM c AS B", "Dockerfile:2: two stages are called b"),
        ("FROM x\nCOPY a", "Dockerfile:2: COPY needs at least a source and a destination"),
        ("FROM x\nCOPY a b c", "ends with /"),
        ("FROM x\nCOPY --fro=b a c", "Dockerfile:2: COPY has no flag --fro"),
        ("FROM x\nENV a=b c", "no ="),
        ("FROM x\nENV a", "has no value"),
        ("FROM x\nENV a='b", "Dockerfile:2: a ' is not closed"),
        ("FROM x\nRUN <<E\na", "Dockerfile:2: the here-document E is not ended"),
        ("FROM x\nSHELL bash", "JSON list"),
        ("FROM x\nCMD [1]", "strings only"),
        ("FROM x\nHEALTHCHECK curl", "HEALTHCHECK CMD COMMAND"),
        ("FROM x\nHEALTHCHECK --interval=5 CMD a", "duration"),
        ("FROM x\nONBUILD FROM y", "ONBUILD cannot hold FROM"),
        ("FROM x\nONBUILD RUNN y", "RUN?"),
        ("FROM x\nRUN --mount=type=cash a", "types are"),
        ("FROM x\nRUN --mount=type=cache a", "needs a target"),
        ("# escape=x\nFROM x", "escape directive"),
    ],
)
def test_errors_name_file_and_line(text, message):
    with pytest.raises(BadRequest) as caught:
        parse(text)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("$a-${a}_$b", "1-1_"),
        ("${u:-x$a} ${e:-x} ${e-x}", "x1 x "),
        ("${a:+y} ${u:+y} ${e+y}", "y  y"),
        ("'$a' \"$a\" \\$a", "$a 1 $a"),
        ('"a \\" \\x"', 'a " \\x'),
        ("a\\ b", "a b"),
        ("${p#*/} ${p##*/} ${p%/*} ${p%%/*}", "b/c.txt c.txt a/b a"),
        ("${p/\\//-} ${p//\\//-}", "a-b/c.txt a-b-c.txt"),
        ("${u:-${v:-deep}}", "deep"),
        ("100$ $", "100$ $"),
    ],
)
def test_variables_expand(word, value):
    assert expand(word, {"a": "1", "e": "", "p": "a/b/c.txt"}) == value


def test_what_cannot_be_expanded_is_an_error():
    for word in ("${a", "${}", "${a!b}", "${u:?must be set}", '"a'):
        with pytest.raises(ValueError):
            expand(word, {"a": "1"})
    deep = "x"
    for _ in range(50):
        deep = "${u:-" + deep + "}"
    with pytest.raises(ValueError, match="deeply"):
        expand(deep, {})


def test_used_variables_are_told_and_heredocs_keep_their_quotes():
    seen = []
    assert expand("'$a' \\n \\$a", {"a": "1"}, keep_quotes=True, used=seen.append) == "'1' \\n $a"
    assert seen == ["a"]
    assert split("a 'b c' d\\ e") == ["a", "'b c'", "d\\ e"]


PIECES = st.sampled_from(
    [
        "FROM x", "RUN a", "COPY ", "--from=", "<<E", "E", "\\", "\n", "# escape=`\n", "${", "}", "$a",
        '"', "'", "[", "]", ",", "ENV ", "a=b", "ARG ", "HEALTHCHECK CMD ", "ONBUILD ", " ", ":-", "/",
        "--mount=type=cache,target=/", "%", "#", "*", "é", "\t", "SHELL ", "EXPOSE ",
    ]
)  # fmt: skip


@example("\\")
@example("FROM x\n\\\n")
@example("RUN \x1c")
@example("[--x]\n[b-a]\n[]]")
@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_read_or_refused(text):
    for source in (text, "FROM x\n" + text):
        try:
            parse(source)
        except BadRequest as error:
            assert error.message.startswith("Dockerfile")  # noqa: PT017  # it need not raise
    with contextlib.suppress(ValueError):
        expand(text, {"a": "value"})
    with contextlib.suppress(BadRequest):
        IgnoreRules.parse(text).ignores("a/b/c")
