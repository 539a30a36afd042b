import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from underway.api import kinds
from underway.api.defaults import apply_defaults
from underway.api.objects import meta
from underway.api.resources import DEPLOYMENTS, SERVICES
from underway.base.errors import BadRequest, NotFound
from underway.base.home import Home
from underway.capabilities.packs.backend.fitting import make
from underway.capabilities.packs.manifest import CAPABILITY
from underway.kit.ports import FittedSource
from underway.kit.registry import load
from underway.wire.dockerfile import parse

BASES = {"debian:bookworm-slim", "python:3.11-slim", "node:18-slim", "nginx", "scratch"}


def fit(root: Path, files: dict[str, str], port: int | None = None) -> FittedSource:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return make(Home(root / "home")).fit(root, "My App", port)


SOURCES = {
    "python": {"requirements.txt": "flask\ngunicorn", "app.py": "app = Flask(__name__)"},
    "pyproject": {"pyproject.toml": "[project]\ndependencies=['flask>=2']\n", "app.py": ""},
    "package": {"setup.py": "", "app.py": ""},
    "pipfile": {"Pipfile": "[packages]\n", "Pipfile.lock": "{}", "app.py": ""},
    "node": {"package.json": '{"main":"a.js","dependencies":{"x":"1"}}', "a.js": ""},
    "site": {"package.json": '{"scripts":{"build":"vite build"}}'},
    "static": {"index.html": "<h1>hello</h1>"},
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("port", [None, 81, 8081])
def test_what_is_written_is_a_dockerfile_on_a_known_base(tmp_path, source, port):
    fitted = fit(tmp_path, SOURCES[source], port)
    file = parse(fitted.dockerfile.read_text())
    assert {stage.base.image for stage in file.stages} <= BASES
    assert [path.relative_to(tmp_path).as_posix() for path in fitted.manifests] == [
        ".underway/deploy.yaml"
    ]
    assert port in (None, fitted.port)
    assert f"EXPOSE {fitted.port}\n" in fitted.dockerfile.read_text()
    assert "\n\n\n" not in fitted.dockerfile.read_text()


def test_the_manifests_are_valid(tmp_path):
    fitted = fit(tmp_path, SOURCES["python"])
    text = fitted.manifests[0].read_text()
    assert "$(IMAGE)" in text
    deployment, service = yaml.safe_load_all(text)
    for resource, obj in ((DEPLOYMENTS, deployment), (SERVICES, service)):
        meta(obj)["namespace"] = "default"
        apply_defaults(resource, obj)
        assert kinds.validate_create(resource, obj) == []
        assert meta(obj)["name"] == "my-app"
    assert service["spec"]["ports"][0]["targetPort"] == "web"


def test_requirements_are_installed_before_the_source_is_copied(tmp_path):
    text = fit(tmp_path, SOURCES["python"]).dockerfile.read_text()
    assert text.index("pip install") < text.index("COPY --chown=10001:10001 . .")
    assert "USER 10001:10001" in text


def test_a_port_below_1024_is_left_to_root(tmp_path):
    assert "USER" not in fit(tmp_path, SOURCES["python"], 80).dockerfile.read_text()


def test_a_site_on_another_port_gets_its_own_configuration(tmp_path):
    fit(tmp_path, SOURCES["static"], 8080)
    assert "listen 8080;" in (tmp_path / ".underway/nginx.conf").read_text()


def test_a_second_run_writes_nothing_and_says_the_same(tmp_path):
    first = fit(tmp_path, SOURCES["node"])
    names = {path.name for path in first.written}
    assert names == {"Dockerfile", ".dockerignore", "deploy.yaml"}
    second = make(Home(tmp_path)).fit(tmp_path, "My App", None)
    assert second.written == ()
    assert (second.language, second.port) == (first.language, first.port)


def test_files_that_are_there_are_kept(tmp_path):
    files = {"Dockerfile": "FROM redis\n", "k8s/a.yaml": "x: 1", "k8s/b.yml": "y: 1"}
    fitted = fit(tmp_path, files)
    assert fitted.written == ()
    assert fitted.language == "dockerfile"
    assert [path.name for path in fitted.manifests] == ["a.yaml", "b.yml"]
    assert (tmp_path / "Dockerfile").read_text() == "FROM redis\n"


def test_manifests_of_underway_come_before_those_of_k8s(tmp_path):
    files = {"Dockerfile": "FROM redis\n", "k8s/a.yaml": "", ".underway/b.yaml": ""}
    assert [path.name for path in fit(tmp_path, files).manifests] == ["b.yaml"]


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(NotFound, match="nowhere"):
        make(Home(tmp_path)).fit(tmp_path / "nowhere", "x", None)


def test_links_that_lead_nowhere_do_no_harm(tmp_path):
    (tmp_path / "broken.py").symlink_to("gone")
    assert fit(tmp_path, SOURCES["static"]).language == "static"


def test_large_files_are_not_read(tmp_path):
    (tmp_path / "app.py").write_text("port = 1234\n" + "#" * 300_000)
    assert make(Home(tmp_path)).fit(tmp_path, "x", None).port == 8000


GO = """package main

import (
	"net"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString("listening\\n")
	connection, _ := listener.Accept()
	connection.Write([]byte("go here"))
	connection.Close()
}
"""


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("go") is None, reason="no Go toolchain on this machine")
@pytest.mark.timeout(300)
def test_a_go_program_is_compiled_and_answers(tmp_path):
    fitted = fit(tmp_path, {"go.mod": "module x\n\ngo 1.18\n", "main.go": GO})
    assert fitted.language == "go"
    binary = tmp_path / ".underway/app"
    before = binary.read_bytes()
    again = make(Home(tmp_path)).fit(tmp_path, "x", None)
    assert (again.language, again.written) == ("go", ())
    assert binary.read_bytes() == before
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "PORT": str(port)}
    with subprocess.Popen([binary], env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"listening\n"
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                assert connection.recv(100) == b"go here"
        finally:
            process.kill()


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("go") is None, reason="no Go toolchain on this machine")
def test_a_go_program_that_does_not_compile_shows_the_compilers_words(tmp_path):
    with pytest.raises(BadRequest, match="undefined: nothing") as caught:
        fit(
            tmp_path,
            {"go.mod": "module x\n", "main.go": "package main\nfunc main() { nothing() }\n"},
        )
    assert "main.go:2" in caught.value.message
    assert not (tmp_path / "Dockerfile").exists()


def test_go_without_a_toolchain_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadRequest, match="not on PATH") as caught:
        fit(tmp_path, {"go.mod": "module x\n", "main.go": "package main\n"})
    assert "golang" in caught.value.hint


def test_the_manifest_names_what_exists():
    for target in (*CAPABILITY.commands.values(), *CAPABILITY.provides.values()):
        assert callable(load(target))
