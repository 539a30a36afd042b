"""Version orders against those who define them."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from underway.capabilities.scan.rules.versions import ORDERS, dpkg, maven, pep440

MAVEN = Path("/usr/share/maven/lib")


def compared(order: str, left: str, right: str) -> str:
    one, two = ORDERS[order](left), ORDERS[order](right)
    return "<" if one < two else "=" if one == two else ">"


# Each row stands in its order's ascending sequence.
ASCENDING = {
    "dpkg": ["1~~", "1~~a", "1~", "1", "1-0.1", "1-1~bpo1", "1-1", "1-1+b1", "1a", "1.0+dfsg", "1.1", "1.10", "0:2", "1:0.1", "2:0"],
    "rpm": ["1.0~rc1", "1.0", "1.0^20200101", "1.0a", "1.0.1", "1.1", "1.10", "1:0.1"],
    "apk": ["0.9_alpha1", "0.9_beta", "0.9_rc2", "0.9", "0.9-r1", "0.9_p1", "0.9_p1-r2", "0.9a", "0.9.001", "0.9.01", "0.9.1", "0.10"],
    "pep440": ["1.0.dev1", "1.0a1", "1.0rc1", "1.0", "1.0.post1", "1.1", "1!0.1"],
    "semver": ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "v1.0.1-0.20200101000000-abcdef", "1.0.1"],
    "maven": ["1-alpha-1", "1-beta", "1-milestone", "1-rc1", "1-SNAPSHOT", "1", "1-sp", "1-x", "1.1"],
    "gem": ["1.0.a", "1.0.b1", "1.0", "1.0.1", "1.1.pre", "1.1", "1.10"],
}  # fmt: skip


@pytest.mark.parametrize("order", ASCENDING)
def test_the_order_of_what_each_system_documents(order):
    for left, right in itertools.combinations(ASCENDING[order], 2):
        assert compared(order, left, right) == "<", (left, right)
        assert compared(order, right, left) == ">", (left, right)


@pytest.mark.parametrize(("order", "left", "right"), [
    ("dpkg", "0:1.0-0", "1.0"), ("dpkg", "1.", "1.0"), ("rpm", "1.0", "1_0"), ("rpm", "1.05", "1.5"),
    ("semver", "v1.2", "1.2.0+build"), ("maven", "1.0", "1-ga"), ("maven", "1.0.0", "1"),
    ("gem", "1", "1.0.0"), ("pep440", "1.0", "v1.0.0"),
])  # fmt: skip
def test_versions_that_are_the_same(order, left, right):
    assert compared(order, left, right) == "="


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("text", ["", " ", "é", "x" * 300])
def test_what_is_no_version_is_refused(order, text):
    with pytest.raises(ValueError, match=r"."):
        ORDERS[order](text)


@given(st.sampled_from(sorted(ORDERS)), st.text(max_size=40))
def test_any_text_is_a_version_or_refused(order, text):
    try:
        ORDERS[order](text)
    except ValueError:
        return


VERSION = st.from_regex(r"[0-9]{1,2}([.+~a-z0-9]{1,3}){0,4}(-[0-9a-z.+~]{1,4})?", fullmatch=True)


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("dpkg") is None, reason="no dpkg on this machine")
@settings(max_examples=400, deadline=None)
@given(VERSION, VERSION)
def test_dpkg_agrees(left, right):
    mine = "lt" if dpkg(left) < dpkg(right) else "eq" if dpkg(left) == dpkg(right) else "gt"
    command = ["dpkg", "--compare-versions", left, mine, right]
    assert subprocess.run(command, check=False, timeout=20).returncode == 0, (left, mine, right)


@given(
    st.from_regex(r"[0-9]{1,2}(\.[0-9]){0,2}(a|b|rc|\.post|\.dev)?[0-9]?", fullmatch=True),
    st.data(),
)
def test_packaging_agrees(left, data):
    right = data.draw(st.from_regex(r"[0-9](\.[0-9]){0,2}(a[0-9]|\.dev[0-9])?", fullmatch=True))
    assert (pep440(left) < pep440(right)) == (Version(left) < Version(right))


MAVEN_PARTS = ["1", "2", "10", "0", "01", "alpha", "a", "b", "milestone", "rc", "cr", "snapshot",
               "final", "ga", "sp", "x", ".", "-", ".", "-"]  # fmt: skip


@pytest.mark.peer
@pytest.mark.skipif(
    not (MAVEN / "maven-artifact-3.x.jar").exists() or shutil.which("java") is None,
    reason="no Maven on this machine",
)
@settings(max_examples=5, deadline=None)
@given(st.lists(st.lists(st.sampled_from(MAVEN_PARTS), min_size=1, max_size=6).map("".join),
                min_size=200, max_size=200))  # fmt: skip
def test_maven_agrees(versions):
    path = f"{MAVEN}/maven-artifact-3.x.jar:{MAVEN}/commons-lang3.jar"
    program = "org.apache.maven.artifact.versioning.ComparableVersion"
    done = subprocess.run(
        ["java", "-cp", path, program, *versions],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    said = re.findall(r"^ +\S+ (<|>|==) \S+$", done.stdout, re.MULTILINE)
    assert len(said) == len(versions) - 1
    for left, right, sign in zip(versions, versions[1:], said, strict=False):
        one, two = maven(left), maven(right)
        mine = "<" if one < two else "==" if one == two else ">"
        assert mine == sign, (left, right)
