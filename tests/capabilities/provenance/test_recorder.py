"""What is recorded of a shipped image: links, SLSA provenance, notes; read back by others."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.capabilities.provenance.keys import SLSA, Key

from underway.base.home import Home
from underway.capabilities.provenance.backend import showing
from underway.capabilities.provenance.backend.grafeas import GrafeasStore
from underway.capabilities.provenance.backend.links import LinkStore
from underway.capabilities.provenance.backend.recorder import PlatformRecorder
from underway.capabilities.provenance.rules import notes
from underway.kit.ports import ScanSummary, ShippedImage, Signed, Vulnerability
from underway.wire import dsse

DIGEST = f"sha256:{'a' * 64}"
BASE = f"sha256:{'b' * 64}"
IMAGE = ShippedImage(
    f"127.0.0.1:5000/default/shop:1@{DIGEST}", DIGEST,
    {"digest": f"sha256:{'c' * 64}", "repository": "https://git.example/shop", "commit": "d" * 40},
    {"application": "shop"}, {"docker.io/library/python:3.12": BASE},
    "2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z",
)  # fmt: skip
FOUND = (Vulnerability("CVE-1", "High", "zlib", "1.2", "1.3"),
         Vulnerability("CVE-1", "High", "zlib-dev", "1.2"),
         Vulnerability("CVE-2", "Unknown", "bash", "5"))  # fmt: skip
SCAN = ScanSummary(DIGEST, "complete", 5, {"High": 2}, 1, "", f"sha256:{'e' * 64}", FOUND)


class Signer:
    """Signs statements with a real key and keeps the envelopes."""

    def __init__(self) -> None:
        self.key = Key()
        self.envelopes: list[bytes] = []

    def attest(self, reference: str, kind: str, predicate: Mapping[str, object]) -> Signed:
        digest = reference.rpartition("@")[2]
        _, _, envelope = self.key.attestation(digest, dict(predicate), kind)
        self.envelopes.append(envelope)
        return Signed(f"sha256:{len(self.envelopes)}", "key")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_notes_of_what_was_built_found_and_deployed(home: Home) -> None:
    recorder = PlatformRecorder(home, Signer())
    for _ in range(2):  # noting it again adds nothing
        recorder.record(IMAGE, SCAN)
        recorder.deployed(IMAGE.reference, "default/shop")
    found = list(GrafeasStore(home.provenance / "grafeas.db").each("occurrences", "underway"))
    assert sorted(each["kind"] for each in found) == [
        "ATTESTATION", "BUILD", "DEPLOYMENT", "DISCOVERY", "SBOM_REFERENCE",
        "VULNERABILITY", "VULNERABILITY",
    ]  # fmt: skip
    assert {each["resourceUri"] for each in found} == {
        f"https://127.0.0.1:5000/default/shop@{DIGEST}"
    }
    first = next(each for each in found if each["noteName"].endswith("CVE-1"))
    assert [i["fixAvailable"] for i in first["vulnerability"]["packageIssue"]] == [True, False]
    counts = notes.vulnerability_summary(e for e in found if e["kind"] == "VULNERABILITY")["counts"]
    assert {each["severity"]: each["totalCount"] for each in counts} == {
        "HIGH": "1", "SEVERITY_UNSPECIFIED": "1"}  # fmt: skip


def test_links_of_build_and_ship_are_kept_and_handed_out(home: Home, tmp_path: Path) -> None:
    PlatformRecorder(home, None).record(IMAGE, None)
    kept = LinkStore(home.provenance).read(DIGEST)
    assert [metadata.signed["name"] for _, metadata in kept] == ["build", "ship"]
    assert set(kept[0][1].signed["materials"]) == {"source", "docker.io/library/python:3.12"}
    written = showing.export_links(home, DIGEST, tmp_path / "out")
    assert [path.suffix for path in written] == [".link", ".link", ".pub"]
    assert (home.provenance / "step.key").stat().st_mode & 0o77 == 0


def test_without_a_signer_nothing_is_attached(home: Home) -> None:
    assert PlatformRecorder(home, None).record(IMAGE, SCAN) == ()


@pytest.mark.peer
def test_the_attestations_are_statements_of_in_toto(
    home: Home, peers: Path, tmp_path: Path
) -> None:
    signer = Signer()
    attached = PlatformRecorder(home, signer).record(IMAGE, SCAN)
    assert len(attached) == len(signer.envelopes) == 3
    payloads = [dsse.decode(each).payload.decode() for each in signer.envelopes]
    (tmp_path / "payloads.json").write_text(json.dumps(payloads))
    check = """
import json, sys
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
kinds = []
for payload in json.load(open(sys.argv[1])):
    made = json_format.Parse(payload, statement_pb2.Statement())
    Statement.copy_from_pb(made).validate()
    kinds.append(made.predicate_type)
    if made.predicate_type.endswith("provenance/v1"):
        said = json_format.ParseDict(json_format.MessageToDict(made.predicate),
                                     provenance_pb2.Provenance())
        assert said.build_definition.build_type
        assert len(said.build_definition.resolved_dependencies) == 3
print(json.dumps(kinds))
"""
    done = subprocess.run([peers / "python", "-c", check, tmp_path / "payloads.json"],
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    link = "https://in-toto.io/attestation/link/v0.3"
    assert json.loads(done.stdout) == [SLSA, link, link]


@pytest.mark.peer
def test_the_notes_are_messages_of_grafeas(home: Home, peers: Path, tmp_path: Path) -> None:
    recorder = PlatformRecorder(home, Signer())
    recorder.record(IMAGE, SCAN)
    recorder.deployed(IMAGE.reference, "default/shop")
    store = GrafeasStore(home.provenance / "grafeas.db")
    kept = {table: list(store.each(table, "underway")) for table in ("notes", "occurrences")}
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    check = """
import json, sys
from google.protobuf import json_format
from grafeas.grafeas_v1 import types
kept = json.load(open(sys.argv[1]))
for each in kept["notes"]: json_format.ParseDict(each, types.Note.pb()())
for each in kept["occurrences"]: json_format.ParseDict(each, types.Occurrence.pb()())
"""
    done = subprocess.run([peers / "python", "-c", check, tmp_path / "kept.json"],
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
