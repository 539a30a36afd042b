"""Declarations of base images: what they mean, what is wrong with them, and what is read from packages."""

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from underway.base.errors import BadRequest, NotFound
from underway.capabilities.build.backend.debian.archives import archives
from underway.capabilities.build.backend.debian.certificates import name_hash
from underway.capabilities.build.backend.debian.synthesis import TABLE, choices
from underway.capabilities.build.cli_base import base
from underway.capabilities.build.rules import debian, declaration

HEAD = "apiVersion: base.underway.dev/v1alpha1\nkind: BaseImage\nmetadata: {name: x}\n"
SHA = "a" * 64


def resolved(text, variant="", others=None):
    def read(name):
        return (others or {})[name], name

    return declaration.resolve(HEAD + text, "x.yaml", variant, read)


def test_includes_and_variants_add_to_lists_and_replace_single_values():
    others = {"common.yaml": HEAD + "spec: {packages: [a0, b0], cmd: [sh], environment: {A: '1'}}"}
    text = (
        "include: [common.yaml]\nspec:\n  packages: [c0]\n  cmd: [bash]\n  environment: {B: '2'}\n"
        "variants:\n  - {name: '', tags: latest}\n"
        "  - {name: slim, tags: slim, spec: {packages: [d0], exclude: [/doc/*]}}\n"
    )
    found = resolved(text, "slim", others)
    assert found.spec.packages == ["a0", "b0", "c0", "d0"]
    assert found.spec.cmd == ["bash"]
    assert found.spec.environment == {"A": "1", "B": "2"}
    assert found.where["a0"] == "common.yaml:4"
    assert found.where["d0"] == "x.yaml:11"
    assert resolved(text, "", others).spec.exclude == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spec:\n  packages: [a\n", r"x\.yaml:\d+: "),
        ("spec:\n  pakages: [a0]\n", r"x\.yaml:5: .*pakages"),
        ("spec:\n  users:\n    - {name: me, uid: many}\n", r"x\.yaml:6: .*uid"),
        ("spec:\n  packages:\n    - a0\n    - 'b; rm -rf'\n", r"x\.yaml:7: .*no package's name"),
        ("spec: {paths: [{path: /a/../../etc}]}\n", r"absolute, without \.\."),
        ("spec: {users: [{name: 'a:b', uid: 1}]}\n", "no name"),
        ("spec: {users: [{name: me, uid: 1, home: '/:0:0'}]}\n", "colon"),
        ("variants: [{name: a, tags: a}]\n", "no variant ''"),
        ("include: [x.yaml]\n", "circle"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(text, said):
    with pytest.raises(BadRequest, match=said):
        resolved(text, others={"x.yaml": HEAD + text})


def test_a_lock_that_leads_elsewhere_is_refused():
    package = debian.LockedPackage("a", "1", "all", "stable", "pool/a.deb", 1, SHA)
    lock = debian.Lock(
        debian.LOCK_VERSION, debian.LOCK_KIND, "amd64", 1, [], [debian.LockedLayer("a", [package])]
    )
    assert debian.read_lock(debian.write_lock(lock), "l") == lock
    text = debian.write_lock(lock).decode()
    for bad in (
        text.replace("pool/a.deb", "../a.deb"), text.replace("pool/a.deb", "pool/a b.deb"),
        text.replace(SHA, "../../etc/passwd"), text.replace(debian.LOCK_KIND, "Other"), "{",
    ):  # fmt: skip
        with pytest.raises(BadRequest):
            debian.read_lock(bad.encode(), "l")


def test_only_alternatives_that_stand_there_literally_are_taken():
    script = (
        "update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 \\\n"
        "   --slave /usr/bin/nawk nawk /usr/bin/mawk\n"
        "update-alternatives --install /usr/bin/$x $x /usr/lib/$x 10\n"
        "update-alternatives --remove cc /usr/bin/gcc || true\n"
        "update-alternatives --quiet --install /usr/bin/cc cc /usr/bin/gcc 20 || exit 1\n"
    )
    found = list(choices(script))
    assert [(each.name, each.priority) for each in found] == [("awk", 5), ("cc", 20)]
    assert found[0].slaves == {"nawk": ("/usr/bin/nawk", "/usr/bin/mawk")}


def test_every_synthesis_has_a_reason():
    assert all(reason for _, _, reason in TABLE)


def test_a_status_entry_keeps_the_control_files_lines():
    control = "Package: a\nVersion: 1\nArchitecture: all\nDescription: x\n more\n .\n end\n"
    text = debian.status_entry(control, [("/etc/a", "0" * 32)])
    one = debian.installed(text)[0]
    assert one["Status"] == "install ok installed"
    assert one["Description"] == "x\n more\n .\n end"
    assert one["Conffiles"].strip() == f"/etc/a {'0' * 32}"


def test_the_bill_of_materials_names_each_package_once_and_is_the_same_twice():
    package = {"Package": "libc6", "Version": "2.36-9+deb12u14", "Architecture": "amd64",
               "Source": "glibc (2.36-9)", "SHA256": SHA}  # fmt: skip
    one, two = (debian.cyclonedx("x", 0, "bookworm", [package]) for _ in range(2))
    assert one == two
    component = one["components"][1]
    assert component["purl"] == (
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-bookworm"
        "&upstream=glibc%402.36-9"
    )
    assert component["hashes"][0]["content"] == SHA


@pytest.mark.peer
def test_authorities_are_found_by_the_hash_that_openssl_computes(tmp_path):
    from cryptography import x509

    bundle = Path("/etc/ssl/certs/ca-certificates.crt").read_bytes()
    marker = b"-----BEGIN CERTIFICATE-----"
    for number, part in enumerate(bundle.split(marker)[1:40]):
        file = tmp_path / f"{number}.pem"
        file.write_bytes(marker + part)
        done = subprocess.run(
            ["openssl", "x509", "-noout", "-subject_hash", "-in", file],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        subject = x509.load_pem_x509_certificate(file.read_bytes()).subject
        assert name_hash(subject.public_bytes()) == done.stdout.strip()


def test_sources_of_other_suites_are_not_taken():
    assert archives("deb http://m/debian trixie main\n", "bookworm") == {}


def test_the_command_line_lists_and_explains(tmp_path):
    run = CliRunner().invoke
    listed = json.loads(run(base, ["list", "-o", "json"]).stdout)
    assert {"python#slim", "debian", "minimal"} <= {each["name"] for each in listed}
    file = tmp_path / "app.yaml"
    file.write_text(HEAD + "base: 'debian#slim'\nspec: {packages: [jq]}\n")
    told = run(base, ["info", str(file)])
    assert f"package jq  ({file}:5)" in told.stdout
    shown = json.loads(run(base, ["info", str(file), "-o", "json"]).stdout)
    assert [each["name"] for each in shown] == ["debian#slim", "x"]
    with pytest.raises(NotFound, match="no base nothing"):
        run(base, ["info", "nothing"], catch_exceptions=False)
