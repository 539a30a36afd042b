"""Manifests, overlays, charts, pipelines: judged by the tools that read them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from tests import peers

from underway.capabilities.packs.backend.fitting import Fitter, read_objects
from underway.capabilities.packs.cli import pack
from underway.capabilities.packs.model import FEATURES, Options
from underway.capabilities.packs.rules import safeguards


def source(root: Path) -> Path:
    (root / "app.py").write_text("")
    return root


def kinds_of(text: str) -> set[str]:
    return {each["kind"] for each in yaml.safe_load_all(text) if each}


def errors(objects: list[dict]) -> list[safeguards.Finding]:
    return [each for each in safeguards.check(objects) if each.level == "error"]


EVERYTHING = {"Deployment", "Service", "Ingress", "HorizontalPodAutoscaler", "PodDisruptionBudget"}


def test_features_become_manifests_that_ship_applies(tmp_path):
    options = Options(features=FEATURES, host="shop.example.org", service="ClusterIP")
    fitted = Fitter().fit(source(tmp_path), "shop", None, options)
    objects = read_objects(tmp_path)
    assert {each["kind"] for each in objects} == EVERYTHING
    assert len(fitted.manifests) == 4
    assert errors(objects) == []
    ingress = next(each for each in objects if each["kind"] == "Ingress")
    assert ingress["spec"]["rules"][0]["host"] == "shop.example.org"


@pytest.mark.peer
@pytest.mark.parametrize("version", ["32", "37"])
def test_helm_reads_the_chart(tmp_path, version):
    Fitter().fit(source(tmp_path), "shop", 9000, Options("helm", FEATURES))
    helm, charts = peers.helm(version), tmp_path / "charts"
    command = [helm, "lint", charts]
    linted = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert linted.returncode == 0, linted.stdout
    values = ["-f", charts / "production.yaml", "--set", "image.tag=v1"]
    command = [helm, "template", "live", charts, *values]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert kinds_of(made) == EVERYTHING
    assert errors([each for each in yaml.safe_load_all(made) if each]) == []
    assert 'image: "shop:v1"' in made
    assert "containerPort: 9000" in made


@pytest.mark.peer
def test_kubectl_reads_the_overlays(tmp_path):
    Fitter().fit(source(tmp_path), "shop", None, Options("kustomize", FEATURES))
    command = [peers.kubectl(), "kustomize", tmp_path / "overlays/production"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert kinds_of(made) == EVERYTHING
    assert "image: shop:latest" in made


@pytest.mark.parametrize(("deploy", "step"), [
    ("manifests", "kubectl apply -f -"), ("helm", "helm upgrade --install"),
    ("kustomize", "kubectl apply -k overlays/production"),
])  # fmt: skip
def test_the_pipeline_deploys_what_is_there(tmp_path, deploy, step):
    Fitter().fit(source(tmp_path), "shop", None, Options(deploy, pipeline="github"))
    workflow = yaml.safe_load((tmp_path / ".github/workflows/shop.yaml").read_text())
    assert workflow["env"]["IMAGE"] == "${{ vars.REGISTRY }}/shop"
    assert step in workflow["jobs"]["deploy"]["steps"][-1]["run"]


def test_a_dry_run_writes_nothing_and_names_everything(tmp_path):
    arguments = ["create", str(source(tmp_path)), "--name", "shop", "--dry-run", "-o", "json"]
    result = CliRunner().invoke(pack, arguments)
    found = json.loads(result.output)
    assert found["variables"] == {"NAME": "shop", "PORT": "8000", "LANGUAGE": "python"}
    assert str(tmp_path / "Dockerfile") in found["filesToWrite"]
    assert [each.name for each in tmp_path.iterdir()] == ["app.py"]


def test_update_adds_to_what_is_there(tmp_path):
    Fitter().fit(source(tmp_path), "shop", None)
    before = (tmp_path / ".underway/deploy.yaml").read_text()
    result = CliRunner().invoke(pack, ["update", str(tmp_path), "--with", "ingress"])
    assert result.output == "wrote .underway/ingress.yaml\n"
    assert {each["kind"] for each in read_objects(tmp_path)} == {"Deployment", "Service", "Ingress"}
    assert (tmp_path / ".underway/deploy.yaml").read_text() == before


def test_nothing_is_written_through_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "source"
    root.mkdir()
    (root / ".underway").symlink_to(outside)
    result = CliRunner().invoke(pack, ["create", str(source(root))])
    assert "outside of" in str(result.exception)
    assert not any(outside.iterdir())


def deployment(**container: object) -> dict:
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"x": "y"}},
            "template": {
                "metadata": {"labels": {"x": "y"}},
                "spec": {"containers": [{"name": "c", "image": "i:1", **container}]},
            },
        },
    }  # fmt: skip


PROBE = {"tcpSocket": {"port": 80}}
GOOD = {
    "readinessProbe": PROBE, "livenessProbe": PROBE,
    "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
}  # fmt: skip


@pytest.mark.parametrize(("container", "rules"), [
    (GOOD, {"pod-spread"}),
    ({**GOOD, "image": "i:latest"}, {"pod-spread", "container-image-tag"}),
    ({**GOOD, "image": "i"}, {"pod-spread", "container-image-tag"}),
    ({**GOOD, "image": "h:5000/i@sha256:" + "0" * 64}, {"pod-spread"}),
    ({}, {"pod-spread", "container-probes", "container-resources"}),
    ({**GOOD, "name": "NOT OK"}, {"pod-spread", "valid"}),
])  # fmt: skip
def test_safeguards_name_what_they_find(container, rules):
    assert {each.rule for each in safeguards.check([deployment(**container)])} == rules


@pytest.mark.parametrize(("spec", "bad"), [
    ({"maxUnavailable": 0}, True), ({"minAvailable": 2}, True), ({"minAvailable": "100%"}, True),
    ({"minAvailable": 1}, False), ({"maxUnavailable": 1}, False),
])  # fmt: skip
def test_a_budget_that_blocks_every_drain_is_an_error(spec, bad):
    budget = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"selector": {"matchLabels": {"x": "y"}}, **spec},
    }  # fmt: skip
    rules = {each.rule for each in errors([deployment(**GOOD), budget])}
    assert rules == ({"bad-disruption-budget"} if bad else set())


def test_validate_ends_with_one_where_there_is_an_error(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump_all([
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
         "spec": {"selector": {"x": "y"}, "ports": [{"port": 80}]}}
        for name in ("one", "two")
    ]))  # fmt: skip
    result = CliRunner().invoke(pack, ["validate", str(tmp_path)])
    assert result.exit_code == 1
    assert "error: service/two: another Service selects its pods" in result.output


def test_draft_toml_names_the_application_and_its_dockerfile(tmp_path, monkeypatch):
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/web").write_text("FROM redis\nEXPOSE 1234\n")
    (tmp_path / "draft.toml").write_text(
        '[environments]\n[environments.development]\nname = "dev"\nport = 1\n'
        '[environments.staging]\nname = "stage"\ndockerfile = "docker/web"\n'
    )
    monkeypatch.setenv("DRAFT_ENV", "staging")
    fitted = Fitter().fit(tmp_path, "", None)
    assert (fitted.dockerfile, fitted.port) == (tmp_path / "docker/web", 1234)
    assert read_objects(tmp_path)[0]["metadata"]["name"] == "stage"


@pytest.mark.parametrize(("text", "words"), [
    ("not toml", "draft.toml:"), ("[environments.production]\n", "no environment development"),
    ("[environments.development]\ndockerfile = '../x'\n", "outside"),
])  # fmt: skip
def test_errors_in_draft_toml_are_named(tmp_path, text, words):
    (tmp_path / "draft.toml").write_text(text)
    result = CliRunner().invoke(pack, ["create", str(source(tmp_path))])
    assert words in str(result.exception)


PACK = {
    "draft.yaml": "variables:\n- name: PORT\n  default: {value: 80}\n- name: VERSION\n  description: which one\n",
    "Dockerfile": "FROM redis:{{.VERSION}}\nEXPOSE {{PORT}}\n",
    "charts/Chart.yaml": "name: x\n",
    "charts/templates/a.yaml": 'p: {{ .Values.port }}\nq: {{ .Config.GetVariableValue "PORT" }}\n',
    "tasks.toml": "[pre-up]\n",
}


def test_a_draft_pack_is_taken_with_its_variables(tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    for name, text in PACK.items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    arguments = ["create", str(root), "--pack", str(tmp_path / "pack")]
    missing = CliRunner().invoke(pack, arguments)
    assert "VERSION (which one) has no default" in str(missing.exception)
    result = CliRunner().invoke(pack, [*arguments, "--variable", "VERSION=7"])
    assert result.exit_code == 0
    assert (root / "Dockerfile").read_text() == "FROM redis:7\nEXPOSE 80\n"
    assert (root / "charts/templates/a.yaml").read_text() == "p: {{ .Values.port }}\nq: 80\n"
    assert not (root / "tasks.toml").exists()


def test_list_and_info_tell_of_every_language():
    listed = json.loads(CliRunner().invoke(pack, ["list", "-o", "json"]).output)
    assert {"java", "rust", "php", "ruby", "dotnet"} <= {
        each["name"] for each in listed["supportedLanguages"]
    }
    for each in listed["supportedLanguages"]:
        told = json.loads(CliRunner().invoke(pack, ["info", each["name"], "-o", "json"]).output)
        assert told["templates"]
