import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.base.errors import BadRequest
from underway.capabilities.packs.model import Listing, Plan
from underway.capabilities.packs.rules import detect, dns_label


def of(files: dict[str, str], port: int | None = None) -> Plan:
    return detect(Listing(frozenset(files), files), port)


def test_static_sites_here_and_in_folders():
    assert of({"index.html": ""}).values["folder"] == "."
    found = of({"public/index.html": "", "README.md": ""})
    assert (found.language, found.values["folder"], found.port) == ("static", "public", 80)


def test_one_main_package_of_go():
    found = of({"go.mod": "", "main.go": 'package main\nhttp.ListenAndServe(":9090", nil)'})
    assert (found.go_package, found.port) == (".", 9090)
    found = of({"go.mod": "", "cmd/shop/main.go": "package main", "lib/a.go": "package lib"})
    assert found.go_package == "./cmd/shop"


def test_several_main_packages_of_go_are_named():
    files = {"go.mod": "", "cmd/a/main.go": "package main", "cmd/b/main.go": "package main"}
    with pytest.raises(BadRequest, match="cmd/a, cmd/b"):
        of(files)


def test_assets_of_go_are_copied():
    files = {"go.mod": "", "main.go": "package main", "templates/a.html": "", "docs/x": ""}
    assert of(files).values["assets"] == ["templates"]


def test_nothing_recognised_says_what_was_looked_for():
    with pytest.raises(BadRequest, match=r"looked for a Dockerfile.*package\.json"):
        of({"README.md": ""})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("My Shop_2", "my-shop-2"),
        ("--x--", "x"),
        ("3scale", "app-3scale"),
        ("", "app"),
        ("ümläut", "ml-ut"),
        ("a" * 80, "a" * 63),
    ],
)
def test_names_become_dns_labels(text, name):
    assert dns_label(text) == name


@given(st.text())
def test_every_name_becomes_a_dns_label(text):
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", dns_label(text))
