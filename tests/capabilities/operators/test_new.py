"""``underway operator new``: what it writes runs, and nothing is overwritten."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from underway.base.errors import BadRequest, Conflict
from underway.capabilities.operators.cli import operator
from underway.capabilities.operators.rules.project import plural_of, project

ARGUMENTS = ["new", "widget-operator", "--group", "example.com", "--kind", "Widget"]


def run(folder, *arguments):
    command = [*ARGUMENTS, "--folder", str(folder), *arguments]
    return CliRunner().invoke(operator, command, catch_exceptions=False)


def test_the_project_passes_its_own_tests_and_its_permissions_suffice(tmp_path):
    folder = tmp_path / "widget-operator"
    done = run(folder)
    assert done.exit_code == 0
    assert "wrote" in done.output
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "4 passed" in tested.stdout
    rbac = list(yaml.safe_load_all((folder / "deploy" / "rbac.yaml").read_text()))
    role = next(each for each in rbac if each["kind"] == "ClusterRole")
    allowed = {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert {"get", "list", "watch"} <= allowed["example.com", "widgets"]
    assert "update" in allowed["example.com", "widgets/status"]
    assert {"create", "patch", "list", "watch"} <= allowed["apps", "deployments"]
    assert ("apps", "statefulsets") not in allowed


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="not empty"):
        run(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]


def test_a_dry_run_shows_every_file_and_writes_none(tmp_path):
    folder = tmp_path / "new"
    shown = json.loads(run(folder, "--dry-run", "-o", "json").output)
    assert not folder.exists()
    files = shown["files"]
    crd = yaml.safe_load(files["deploy/crd.yaml"])
    assert crd["metadata"]["name"] == "widgets.example.com"
    replicas = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"][
        "properties"
    ]["replicas"]
    assert (replicas["minimum"], replicas["maximum"], replicas["default"]) == (0, 100, 1)
    assert {"pyproject.toml", "Dockerfile", "widget_operator/model.py"} <= set(files)
    run(folder)
    written = {
        str(each.relative_to(folder)): each.read_text()
        for each in folder.rglob("*")
        if each.is_file()
    }
    assert written == files


@pytest.mark.parametrize(
    ("name", "group", "kind", "version"),
    [
        ("Widget", "example.com", "Widget", "v1"),
        ("json", "example.com", "Widget", "v1"),
        ("widget", "example", "Widget", "v1"),
        ("widget", "apps.k8s.io", "Widget", "v1"),
        ("widget", "example.com", "widget", "v1"),
        ("widget", "example.com", "Widget", "1"),
        ("widget", "example.com", "Wid{{get", "v1"),
    ],
)
def test_names_that_cannot_work_are_refused_with_a_hint(name, group, kind, version):
    with pytest.raises(BadRequest) as refused:
        project(name, group, kind, version)
    assert refused.value.hint


def test_plurals_are_the_usual_ones():
    kinds = ("Widget", "Policy", "Proxy", "Box", "Gateway", "Branch")
    assert [plural_of(kind) for kind in kinds] == [
        "widgets",
        "policies",
        "proxies",
        "boxes",
        "gateways",
        "branches",
    ]
