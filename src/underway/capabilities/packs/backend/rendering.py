"""The files that a source lacks, as text from templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import PurePosixPath

import jinja2

from underway.capabilities.packs.model import MARKER, Options, Plan
from underway.capabilities.packs.rules.golang import BINARY

FOLDER = ".underway"
USER_ID = 10_001  # beyond the accounts of any base image

_IGNORED = {
    "python": ("**/__pycache__", "**/*.pyc", ".venv", "venv", ".pytest_cache", ".mypy_cache"),
    "node": ("node_modules", "npm-debug.log"),
    "go": ("**/*.go", "go.mod", "go.sum"),
    "java": ("target", "build", ".gradle"),
    "rust": ("target",),
    "dotnet": ("**/bin", "**/obj"),
    "php": ("vendor",),
    "ruby": ("vendor/bundle", "log", "tmp", ".bundle"),
    "static": (),
}
_NGINX_TEMPLATES = ("static.Dockerfile", "node-site.Dockerfile")
_CHART = (
    "Chart.yaml", "values.yaml", "production.yaml", ".helmignore", "templates/_helpers.tpl",
    "templates/deployment.yaml", "templates/service.yaml", "templates/ingress.yaml",
    "templates/hpa.yaml", "templates/pdb.yaml",
)  # fmt: skip


def image_files(plan: Plan, name: str) -> dict[str, str]:
    """What the image's build needs, by path below the source."""
    files: dict[str, str] = {}
    values = _image_values(plan, name)
    if plan.template:
        files["Dockerfile"] = _render(plan.template, values)
        files[".dockerignore"] = _render("dockerignore", values)
        if values["own_port"]:
            files[f"{FOLDER}/nginx.conf"] = _render("nginx.conf", values)
    if plan.go_package:
        files[f"{FOLDER}/.gitignore"] = f"{PurePosixPath(BINARY).name}\n"
    return files


def deployment_files(name: str, port: int, options: Options) -> dict[str, str]:
    """The manifests, the overlays or the chart, by path below the source.

    Manifests lie where ``underway ship`` looks for them; ``$(IMAGE)`` stands for the image.
    """
    values = {
        "name": name, "port": port, "service": options.service, "features": options.features,
        "image": "$(IMAGE)", "host": options.host,
    }  # fmt: skip
    if options.deploy == "helm":
        return {f"charts/{each}": _render_chart(each, values) for each in _CHART}
    if options.deploy == "kustomize":
        values["image"] = name
        files = {
            f"base/{part}.yaml": _render(f"{part}.yaml", values)
            for part in ("deploy", *options.features)
        }
        files["base/kustomization.yaml"] = _render("kustomize/base.yaml", values)
        files["overlays/production/kustomization.yaml"] = _render("kustomize/overlay.yaml", values)
        return files
    return {
        f"{FOLDER}/{part}.yaml": _render(f"{part}.yaml", values)
        for part in ("deploy", *options.features)
    }


def feature_files(name: str, options: Options) -> dict[str, str]:
    """The manifests of the features alone, by file name."""
    values = {"name": name, "features": options.features, "host": options.host}
    return {f"{each}.yaml": _render(f"{each}.yaml", values) for each in options.features}


def pipeline_files(name: str, options: Options) -> dict[str, str]:
    """A workflow that builds, pushes and deploys what lies in the default branch."""
    if not options.pipeline:
        return {}
    values = {"name": name, "deploy": options.deploy}
    return {f".github/workflows/{name}.yaml": _render("github.yaml", values)}


def dockerfile_templates(language: str) -> dict[str, str]:
    """The Dockerfiles written for a language, as templates by name."""
    loader = _environment(False).loader
    assert loader is not None
    wanted = {
        name
        for name in loader.list_templates()
        if name.endswith(".Dockerfile") and name.partition(".")[0].partition("-")[0] == language
    }
    return {name: loader.get_source(_environment(False), name)[0] for name in sorted(wanted)}


def _image_values(plan: Plan, name: str) -> dict[str, object]:
    served = plan.template in _NGINX_TEMPLATES
    return {
        **plan.values,
        "marker": MARKER,
        "name": name,
        "port": plan.port,
        "command": json.dumps(list(plan.command)),
        "go_package": plan.go_package,
        # Below 1024 a port needs privileges; nginx and Apache drop their own.
        "user": USER_ID if plan.port >= 1024 and not served and plan.language != "php" else 0,
        "own_port": served and plan.port != 80,
        "ignored": _IGNORED.get(plan.language, ()),
    }


@cache
def _environment(charts: bool) -> jinja2.Environment:
    # A chart's files hold Go templates, whose braces stay as they are.
    marks = {"variable_start_string": "[[", "variable_end_string": "]]",
             "block_start_string": "[%", "block_end_string": "%]"} if charts else {}  # fmt: skip
    return jinja2.Environment(
        loader=jinja2.PackageLoader("underway.capabilities.packs", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined if charts else jinja2.Undefined,
        autoescape=False,  # noqa: S701  # these are no web pages
        **marks,
    )


def _render(template: str, values: Mapping[str, object]) -> str:
    return _environment(False).get_template(template).render(values)


def _render_chart(file: str, values: Mapping[str, object]) -> str:
    return _environment(True).get_template(f"chart/{file}").render(values)
