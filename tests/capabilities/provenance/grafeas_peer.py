"""Run by the peers' Python: Grafeas' own client against the port, CA file and token given."""

import json
import sys
from pathlib import Path

import grpc
from google.api_core.exceptions import NotFound, Unauthenticated
from google.protobuf import field_mask_pb2
from grafeas import grafeas_v1
from grafeas.grafeas_v1.services.grafeas.transports import GrafeasGrpcTransport

port, ca, token = sys.argv[1:]
credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())
channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials)
client = grafeas_v1.GrafeasClient(transport=GrafeasGrpcTransport(channel=channel))
auth = [("authorization", f"Bearer {token}")]
MEMBERS = [
    "vulnerability", "build", "image", "package", "deployment", "discovery", "attestation",
    "upgrade", "compliance", "dsse_attestation", "vulnerability_assessment", "sbom_reference",
    "secret",
]  # fmt: skip
filled = {"package": {"name": "zlib"}, "upgrade": {"package": "zlib"}, "image": {"resource_url": "a"},
          "build": {"builder_version": "1"}, "deployment": {"resource_uri": ["a"]},
          "vulnerability": {"severity": "HIGH"}}  # fmt: skip
notes = {m.replace("_", "-"): grafeas_v1.Note({m: filled.get(m, {})}) for m in MEMBERS}
made = client.batch_create_notes(parent="projects/p", notes=notes, metadata=auth).notes
said = {"kinds": sorted(note.kind.name for note in made)}
occurrences = [
    grafeas_v1.Occurrence(
        resource_uri="https://a", note_name="projects/p/notes/vulnerability",
        vulnerability={"severity": "HIGH", "package_issue": [{
            "affected_package": "zlib", "affected_cpe_uri": "cpe:/a",
            "affected_version": {"kind": "NORMAL", "name": "1.2"},
            "fixed_version": {"kind": "MAXIMUM"}}]},
    )
    for _ in range(3)
]  # fmt: skip
client.batch_create_occurrences(parent="projects/p", occurrences=occurrences, metadata=auth)
request = {"parent": "projects/p", "filter": 'kind="VULNERABILITY"', "page_size": 2}
pages = list(client.list_occurrences(request=request, metadata=auth).pages)
said["pages"] = [len(page.occurrences) for page in pages]
one = pages[0].occurrences[0]
one.remediation = "update zlib"
mask = field_mask_pb2.FieldMask(paths=["remediation"])
said["updated"] = client.update_occurrence(
    name=one.name, occurrence=one, update_mask=mask, metadata=auth
).remediation
client.get_occurrence_note(name=one.name, metadata=auth)
client.delete_occurrence(name=one.name, metadata=auth)
try:
    client.get_occurrence(name=one.name, metadata=auth)
except NotFound as error:
    said["missing"] = type(error).__name__
try:
    client.get_note(name="projects/p/notes/build")
except Unauthenticated as error:
    said["unauthenticated"] = type(error).__name__
statement = {"type_": "https://in-toto.io/Statement/v1", "predicate_type": "https://slsa.dev/provenance/v1",
             "predicate": {"build_definition": {"build_type": "b"}}}  # fmt: skip
built = client.create_occurrence(
    parent="projects/p",
    occurrence={"resource_uri": "https://a", "note_name": "projects/p/notes/build",
                "build": {"in_toto_slsa_provenance_v1": statement}},
    metadata=auth,
)  # fmt: skip
said["provenance"] = client.get_occurrence(
    name=built.name, metadata=auth
).build.in_toto_slsa_provenance_v1.predicate_type
print(json.dumps(said))
