"""The official conformance suite, against the registry behind TLS with tokens.

The suite is a Go program: the directory ``conformance`` of opencontainers/distribution-spec. The
environment variable ``OCI_CONFORMANCE`` names that directory, or the program built from it.
"""

import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from underway.capabilities.registry.backend.hub import Hub
from underway.transport.registry import credentials

# Everything the suite can ask for, beyond what it asks for by itself.
EVERYTHING = {
    "OCI_VERSION": "dev",
    "OCI_API_BLOBS_UPLOAD_CANCEL": "true",
    "OCI_API_BLOBS_DIGEST_HEADER": "true",
    "OCI_API_MANIFESTS_DIGEST_HEADER": "true",
    "OCI_API_MANIFESTS_TAG_PARAM": "true",
    "OCI_DATA_SPARSE": "true",
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    place = Path(os.environ.get("OCI_CONFORMANCE") or "/nonexistent")
    if place.is_file():
        return place
    if not place.is_dir():
        pytest.skip("OCI_CONFORMANCE does not name the suite of opencontainers/distribution-spec")
    if not shutil.which("go"):
        pytest.skip("needs Go to build the suite")
    program = tmp_path_factory.mktemp("suite") / "conformance"
    subprocess.run(["go", "build", "-o", program, "."], cwd=place, check=True, timeout=300)
    return program


@pytest.mark.peer
def test_the_official_suite_passes_with_every_option_on(suite, served, tmp_path):
    Hub(served.home).projects.create("conformance", sparse=True)
    username, password = credentials(served.home.registry_auth, served.host)
    settings = {
        **EVERYTHING,
        "OCI_REGISTRY": served.host,
        "OCI_TLS": "enabled",
        "SSL_CERT_FILE": str(served.home.pki / "ca.crt"),
        "OCI_USERNAME": username,
        "OCI_PASSWORD": password,
        "OCI_RESULTS_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [suite],
        env={**os.environ, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    report = ElementTree.parse(tmp_path / "junit.xml").getroot()
    wrong = [
        f"{case.get('name')}: {case.findtext('system-out')}"
        for case in report.iter("testcase")
        if case.get("status") != "passed"
    ]
    assert wrong == []
    assert done.returncode == 0, done.stdout[-2000:]
    assert int(report.get("tests")) > 800
    assert not int(report.get("failures", 0)) + int(report.get("skipped", 0))
