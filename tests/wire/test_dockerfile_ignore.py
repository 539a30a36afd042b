"""``.dockerignore`` rules."""

import pytest

from underway.base.errors import BadRequest
from underway.wire.dockerignore import IgnoreRules


@pytest.mark.parametrize(
    ("rules", "path", "ignored"),
    [
        ("*.md", "README.md", True),
        ("*.md", "docs/README.md", False),
        ("**/*.md", "docs/a/README.md", True),
        ("**/*.md", "README.md", True),
        ("node_modules", "node_modules/a/b.js", True),
        ("/dist/", "dist/x", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("temp?", "tempa", True),
        ("temp?", "temp/", False),
        ("[a-c].txt", "b.txt", True),
        ("[^a-c].txt", "b.txt", False),
        ("*\n!keep", "keep", False),
        ("*\n!keep", "other", True),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
        ("# comment\n\n  x  ", "x", True),
        ("..\n.", "x", False),
        ("a.c", "abc", False),
    ],
)
def test_rules_decide_by_the_last_match(rules, path, ignored):
    assert IgnoreRules.parse(rules).ignores(path) is ignored


def test_a_directory_is_pruned_only_when_nothing_is_taken_back():
    assert IgnoreRules.parse("a").prunes("a")
    assert not IgnoreRules.parse("a\n!a/b").prunes("a")


def test_a_malformed_pattern_names_its_line():
    with pytest.raises(BadRequest, match=r"\.dockerignore:2: 'a\[': a \[ is not closed"):
        IgnoreRules.parse("x\na[")
