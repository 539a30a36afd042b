"""in-toto layouts and links: ours beside in-toto's own programs, and the attacks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from underway.capabilities.provenance.backend import links
from underway.capabilities.provenance.cli.provenance import provenance
from underway.capabilities.provenance.rules import artifacts, layouts, metadata, verification
from underway.capabilities.provenance.rules.artifacts import Refused
from underway.capabilities.provenance.rules.metadata import Link
from underway.capabilities.provenance.rules.verification import Terms

NOW = datetime.now(UTC)  # noqa: TID251  # in-toto's own programs read the machine's clock


@pytest.fixture(scope="module")
def theirs(peers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What in-toto's own library made."""
    root = tmp_path_factory.mktemp("theirs")
    script = Path(__file__).with_name("in_toto_peer.py")
    subprocess.run([peers / "python", script, root], check=True, timeout=120)
    return root


def verify(root: Path, layout: str, product: Path, **terms: object) -> verification.Verified:
    owner = dict([links.read_key(root / "alice.pub")])
    chosen: dict = {
        "now": NOW,
        "allowed_inspections": ("untouched",),
        "inspect": lambda step: links.inspect(product, step),
        **terms,
    }
    found = links.read_metadata(root / f"{layout}.layout")
    return verification.verify(found, owner, links.Directory(root), Terms(**chosen))


@pytest.mark.peer
@pytest.mark.parametrize("form", ["closed", "closed.dsse"])
def test_links_and_layouts_of_in_toto_verify(theirs: Path, form: str) -> None:
    found = verify(theirs, form, theirs / "work")
    assert found.steps == ("write", "package")
    assert set(found.summary.products) == {"app.py", "app.tar"}


@pytest.mark.peer
def test_in_toto_verifies_links_made_here(peers: Path, theirs: Path, tmp_path: Path) -> None:
    key = links.StepKey(tmp_path / "step.key")
    product = {"image": {"sha256": "0" * 64}}
    (tmp_path / metadata.link_file("ship", key.id)).write_bytes(
        key.metablock(Link("ship", {}, product, ("underway", "ship", '\u00e9 "\\')))
    )
    (tmp_path / metadata.link_file("check", key.id)).write_bytes(
        key.envelope(Link("check", product, product))
    )
    owner = links.key_object(key.pem)
    steps = [
        {"_type": "step", "name": name, "pubkeys": [key.id], "threshold": 1,
         "expected_command": [], "expected_materials": [*materials, ["DISALLOW", "*"]],
         "expected_products": [["CREATE" if name == "ship" else "ALLOW", "image"],
                               ["DISALLOW", "*"]]}
        for name, materials in (("ship", []), ("check", [
            ["MATCH", "image", "WITH", "PRODUCTS", "FROM", "ship"]]))
    ]  # fmt: skip
    layout = {
        "_type": "layout", "expires": "2126-01-01T00:00:00Z", "readme": "",
        "keys": {key.id: {"keyid": key.id, **owner}}, "steps": steps, "inspect": [],
    }  # fmt: skip
    signature = key._key.sign(metadata.canonical(layout))
    (tmp_path / "root.layout").write_bytes(metadata.metablock(layout, [(key.id, signature)]))
    (tmp_path / "owner.pub").write_text(key.pem)
    done = subprocess.run(
        [peers / "in-toto-verify", "--layout", "root.layout", "--verification-keys", "owner.pub"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours = CliRunner().invoke(
        provenance,
        ["layout", "verify", str(tmp_path / "root.layout"), "--key", str(tmp_path / "owner.pub"),
         "--links", str(tmp_path)],
    )  # fmt: skip
    assert ours.exit_code == 0, ours.output


@pytest.mark.peer
def test_a_tampered_product_passes_an_open_layout_there_and_is_refused_here(
    peers: Path, theirs: Path
) -> None:
    product = theirs / "delivered"
    product.mkdir(exist_ok=True)
    (product / "app.tar").write_text("evil\n")
    command = [peers / "in-toto-verify", "--layout", theirs / "open.layout",
               "--verification-keys", theirs / "alice.pub", "--link-dir", theirs]  # fmt: skip
    done = subprocess.run(command, cwd=product, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    with pytest.raises(Refused, match="the list is open"):
        verify(theirs, "open", product)
    linted = CliRunner().invoke(provenance, ["layout", "lint", str(theirs / "open.layout")])
    assert linted.exit_code == 1
    assert '["DISALLOW", "*"]' in linted.output


@pytest.mark.peer
def test_a_tampered_product_is_refused_under_a_closed_layout(theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("one\n")
    (tmp_path / "app.tar").write_text("evil\n")
    with pytest.raises(Refused, match=r"untouched: materials app\.tar"):
        verify(theirs, "closed", tmp_path)


@pytest.mark.peer
def test_inspections_run_only_where_allowed(theirs: Path) -> None:
    with pytest.raises(Refused, match="would run `true`, which is not allowed"):
        verify(theirs, "closed", theirs / "work", allowed_inspections=())


@pytest.mark.peer
def test_an_expired_layout_is_refused(theirs: Path) -> None:
    with pytest.raises(Refused, match="expired"):
        verify(theirs, "closed", theirs / "work", now=NOW + timedelta(days=31))


@pytest.mark.peer
def test_a_layout_signed_by_another_is_refused(theirs: Path) -> None:
    found = links.read_metadata(theirs / "closed.layout")
    owner = dict([links.read_key(theirs / "bob.pub")])
    with pytest.raises(Refused, match="not signed by key"):
        verification.verify(found, owner, links.Directory(theirs), Terms(NOW))


@pytest.mark.peer
def test_one_stolen_key_does_not_meet_a_threshold_of_two(theirs: Path, tmp_path: Path) -> None:
    for path in theirs.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    carol, _ = links.read_key(theirs / "carol.pub")
    (tmp_path / metadata.link_file("write", carol)).unlink()
    with pytest.raises(Refused, match="write: 1 of 2 links"):
        verify(tmp_path, "closed", theirs / "work")


@pytest.mark.peer
def test_a_link_replayed_for_another_step_is_refused(theirs: Path, tmp_path: Path) -> None:
    for path in theirs.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (package,) = tmp_path.glob("package.*.link")
    carol, _ = links.read_key(theirs / "carol.pub")
    (tmp_path / metadata.link_file("write", carol)).write_bytes(package.read_bytes())
    with pytest.raises(Refused, match="not signed by its key"):
        verify(tmp_path, "closed", theirs / "work")


class Memory:
    """Links in a dictionary."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read(self, name: str) -> metadata.Metadata | None:
        data = self.files.get(name)
        return None if data is None else metadata.decode(data)

    def below(self, name: str) -> Memory:
        prefix = f"{name}/"
        return Memory({
            path[len(prefix):]: data for path, data in self.files.items() if path.startswith(prefix)
        })  # fmt: skip


def signed_layout(key: links.StepKey, *names: str) -> bytes:
    """A closed layout of steps that pass on one file."""
    steps = []
    for index, name in enumerate(names):
        before = [] if not index else [["MATCH", "*", "WITH", "PRODUCTS", "FROM", names[index - 1]]]
        after = (
            [["CREATE", "f"]]
            if not index
            else [["MATCH", "*", "WITH", "PRODUCTS", "FROM", names[0]]]
        )
        steps.append({
            "name": name, "pubkeys": [key.id], "threshold": 1,
            "expected_materials": [*before, ["DISALLOW", "*"]],
            "expected_products": [*after, ["DISALLOW", "*"]],
        })  # fmt: skip
    signed = {
        "_type": "layout", "expires": "2126-01-01T00:00:00Z", "steps": steps, "inspect": [],
        "keys": {key.id: links.key_object(key.pem)},
    }  # fmt: skip
    return metadata.metablock(signed, [(key.id, key._key.sign(metadata.canonical(signed)))])


F = {"f": {"sha256": "1" * 64}}


def test_sublayouts_stand_for_the_chain_below_them(tmp_path: Path) -> None:
    key = links.StepKey(tmp_path / "key")
    name = lambda step: metadata.link_file(step, key.id)  # noqa: E731  # short
    files = {
        name("outer"): signed_layout(key, "a", "b"),
        f"outer.{key.id[:8]}/{name('a')}": key.envelope(Link("a", {}, F)),
        f"outer.{key.id[:8]}/{name('b')}": key.metablock(Link("b", F, F)),
        name("last"): key.envelope(Link("last", F, F)),
    }
    root = metadata.decode(signed_layout(key, "outer", "last"))
    owner = {key.id: links.key_object(key.pem)}
    found = verification.verify(root, owner, Memory(files), Terms(NOW))
    assert found.summary.products == F
    files[f"outer.{key.id[:8]}/{name('b')}"] = key.metablock(Link("b", F, {"f": {"sha256": "2"}}))
    with pytest.raises(Refused, match="b: products f: not accounted for"):
        verification.verify(root, owner, Memory(files), Terms(NOW))


def test_a_layout_within_itself_ends(tmp_path: Path) -> None:
    key = links.StepKey(tmp_path / "key")

    class Endless(Memory):
        def below(self, name: str) -> Memory:
            return self

    again = Endless({metadata.link_file("a", key.id): signed_layout(key, "a")})
    root = metadata.decode(signed_layout(key, "a"))
    with pytest.raises(Refused, match="8 deep"):
        verification.verify(root, {key.id: links.key_object(key.pem)}, again, Terms(NOW))


def closed() -> layouts.Layout:
    rule = artifacts.parse
    step = layouts.Step("a", (rule(["DISALLOW", "*"]),),
                        (rule(["CREATE", "f"]), rule(["DISALLOW", "*"])), ("k",))  # fmt: skip
    key = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00" * 32}}
    return layouts.Layout(NOW + timedelta(days=9), {"k": key}, (step,), ())


Change = Callable[[layouts.Step], layouts.Step]


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: replace(s, threshold=0), "threshold of 0"),
    (lambda s: replace(s, threshold=2), "1 keys can never meet 2"),
    (lambda s: replace(s, key_ids=("z",)), "not among the layout's keys"),
    (lambda s: replace(s, key_ids=()), "nobody may"),
    (lambda s: replace(s, products=s.products[:1]), "the list is open"),
    (lambda s: replace(s, products=(artifacts.parse(["ALLOW", "*"]), *s.products)),
     "lets every file through"),
    (lambda s: replace(s, products=(
        artifacts.parse(["MATCH", "*", "WITH", "PRODUCTS", "FROM", "x"]), *s.products)),
     "there is no step x"),
    (lambda s: replace(s, products=(artifacts.parse(["REQUIRE", "*.py"]), *s.products)),
     "no pattern"),
])  # fmt: skip
def test_lint_finds_holes(change: Change, message: str) -> None:
    layout = closed()
    assert not [e for e in layouts.lint(layout, NOW) if e.severity == layouts.ERROR]
    broken = replace(layout, steps=(change(layout.steps[0]),))
    errors = [each for each in layouts.lint(broken, NOW) if each.severity == layouts.ERROR]
    assert any(message in each.message for each in errors), errors


def test_an_inspection_by_a_shell_is_a_hole() -> None:
    closing = (artifacts.parse(["DISALLOW", "*"]),)
    shell = layouts.Step("look", closing, closing, run=("/bin/sh", "-c", "true"))
    found = layouts.lint(replace(closed(), inspections=(shell,)), NOW)
    assert [each.message for each in found if each.severity == layouts.ERROR] == [
        "sh runs anything"
    ]


@pytest.mark.parametrize("words", [[], ["MATCH", "*"], ["ALLOW"], ["ALLOW", "a", "b"], ["DROP", "*"],
                                   ["MATCH", "*", "WITH", "THINGS", "FROM", "a"]])  # fmt: skip
def test_malformed_rules_are_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match="no artifact rule"):
        artifacts.parse(words)


def test_match_looks_in_prefixes() -> None:
    rule = artifacts.parse(
        ["MATCH", "*", "IN", "dist/", "WITH", "PRODUCTS", "IN", "out", "FROM", "a"])  # fmt: skip
    digest = {"sha256": "1"}
    link = Link("b", {"dist/x": digest, "dist/y": digest, "x": digest})
    other = Link("a", {}, {"out/x": digest, "out/y": {"sha256": "2"}})
    left = artifacts.apply("b", "materials", [rule], link, {"a": other})
    assert left == {"dist/y", "x"}


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(), each, max_size=4),
))  # fmt: skip
def test_canonical_json_tells_values_apart(value: object) -> None:
    again = metadata.canonical(msgspec.json.decode(msgspec.json.encode(value)))
    assert metadata.canonical(value) == again


@given(st.binary(max_size=200))
def test_garbage_is_no_metadata(data: bytes) -> None:
    with pytest.raises(ValueError):
        metadata.decode(data)


def test_a_pattern_made_to_be_slow_is_not() -> None:
    assert not artifacts.matches_path("*a" * 200 + "b", "a" * 5000)


def test_allowing_an_inspection_waives_nothing_else(tmp_path: Path) -> None:
    key = links.StepKey(tmp_path / "key")
    signed = msgspec.json.decode(signed_layout(key, "a"))["signed"]
    signed["steps"][0]["threshold"] = 0
    signature = key._key.sign(metadata.canonical(signed))
    root = metadata.decode(metadata.metablock(signed, [(key.id, signature)]))
    terms = Terms(NOW, allowed_inspections=("a",))
    with pytest.raises(Refused, match="threshold of 0"):
        verification.verify(root, {key.id: links.key_object(key.pem)}, Memory({}), terms)
