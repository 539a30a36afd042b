"""Warnings about Dockerfiles, by BuildKit's rule names."""

import pytest

from underway.base.errors import BadRequest
from underway.wire.dockerfile import parse
from underway.wire.dockerfile_lint import lint, undefined


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a AS Build", [("StageNameCasing", 1)]),
        ("FROM a as build", [("FromAsCasing", 1)]),
        ("from a as build\nrun x", []),
        ("FROM a\nrun x\nRUN y", [("ConsistentInstructionCasing", 2)]),
        ("FROM a AS scratch", [("ReservedStageName", 1)]),
        ("FROM --platform=$TARGETPLATFORM a", [("RedundantTargetPlatform", 1)]),
        ("FROM a\nMAINTAINER me", [("MaintainerDeprecated", 2)]),
        ("FROM a\nENV b c", [("LegacyKeyValueFormat", 2)]),
        ('FROM a\nLABEL "b c"=d', []),
        ("FROM a\nCMD x y", [("JSONArgsRecommended", 2)]),
        ('FROM a\nSHELL ["/bin/bash", "-c"]\nCMD x y', []),
        ('FROM a\nCMD ["x"]\nCMD ["y"]', [("MultipleInstructionsDisallowed", 2)]),
        ("FROM a\nARG DB_PASSWORD", [("SecretsUsedInArgOrEnv", 2)]),
        ("FROM a\nENV PUBLIC_KEY=x PASSWORD_FILE=/y", []),
        ("FROM a\nEXPOSE 80/TCP", [("ExposeProtoCasing", 2)]),
        ("FROM a\nWORKDIR app", [("WorkdirRelativePath", 2)]),
        ("FROM a\nWORKDIR /srv\nWORKDIR app", []),
        ("# check=skip=JSONArgsRecommended\nFROM a\nCMD x", []),
        ("# check=skip=all\nFROM a AS B\nCMD x", []),
    ],
)
def test_what_is_most_likely_not_meant_is_found(text, expected):
    assert [(f.rule, f.line) for f in lint(parse(text))] == expected


def test_findings_are_errors_where_the_file_says_so():
    with pytest.raises(BadRequest, match=r"Dockerfile:3: JSONArgsRecommended"):
        lint(parse("# check=error=true\nFROM a\nCMD x"))


def test_variables_nobody_sets_are_found():
    text = (
        "FROM a\nARG V=1\nENV W=$V X=$NONE\nCOPY $W/$OTHER /x\nRUN echo $SHELL_ONLY\n"
        "WORKDIR ${D:-/x}/$HOME\nENV Y=$X\n"
    )
    dockerfile = parse(text)
    found = undefined(dockerfile, dockerfile.stages[0], {"HOME"})
    assert [(f.line, f.message.split()[0]) for f in found] == [(3, "$NONE"), (4, "$OTHER")]


def rules_of(text):
    return [finding.rule for finding in lint(parse(text))]


def test_variables_of_from_must_be_declared_and_make_a_name():
    assert rules_of("FROM $BASE\n") == ["UndefinedArgInFrom"]
    assert rules_of("ARG BASE\nFROM $BASE\n") == ["InvalidDefaultArgInFrom"]
    assert rules_of("ARG TAG\nFROM a:$TAG\n") == ["InvalidDefaultArgInFrom"]
    assert rules_of("ARG TAG=1\nFROM a:$TAG\nFROM --platform=$BUILDPLATFORM ${B:-b}\n") == []


def test_a_stage_for_one_platform_only_says_so_in_its_name():
    assert rules_of("FROM --platform=linux/arm64 a\n") == ["FromPlatformFlagConstDisallowed"]
    assert rules_of("FROM --platform=linux/arm64 a AS build-arm64\n") == []
