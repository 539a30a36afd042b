"""Real applications, built from their published packages, from source to an answering URL."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from tests.platform.conftest import Platform

pytestmark = [pytest.mark.platform, pytest.mark.privileged, pytest.mark.timeout(600)]

GUESTBOOK = Path(__file__).parents[2] / "examples" / "guestbook"
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def fetch(url: str, data: dict[str, str] | None = None) -> str:
    body = urllib.parse.urlencode(data).encode() if data else None
    with _open(url, data=body, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def write(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", ".")
        path.write_text(content)
    return root


def test_python_application_from_pypi(platform: Platform, tmp_path: Path) -> None:
    root = write(
        tmp_path,
        requirements__txt="httpbin==0.10.2\ngunicorn==23.0.0\n",
        Procfile="web: gunicorn --bind 0.0.0.0:$PORT httpbin:app\n",
    )
    shipped = platform.ship(root, "--name", "httpbin")
    answer = json.loads(fetch(shipped["url"] + "get?shipped=yes"))
    assert answer["args"] == {"shipped": "yes"}
    assert shipped["passage"]["status"]["phase"] == "Succeeded"
    assert shipped["passage"]["status"]["proof"]["status"] == 200
    assert (root / "Dockerfile").exists()
    bases = shipped["passage"]["status"]["image"]["bases"]
    assert [base["origin"] for base in bases] == ["stand-in"]


def test_node_application_from_npm(platform: Platform, tmp_path: Path) -> None:
    package = {
        "name": "things",
        "private": True,
        "scripts": {"start": "json-server --host 0.0.0.0 --port ${PORT:-3000} db.json"},
        "dependencies": {"json-server": "0.17.4"},
    }
    root = write(
        tmp_path,
        package__json=json.dumps(package),
        db__json=json.dumps({"things": [{"id": 1, "name": "first"}]}),
    )
    shipped = platform.ship(root, "--name", "things", "--port", "3000")
    assert json.loads(fetch(shipped["url"] + "things/1"))["name"] == "first"


def test_static_site_from_npm(platform: Platform, tmp_path: Path) -> None:
    subprocess.run(
        ["npm", "pack", "--silent", "swagger-ui-dist@5.17.14"], cwd=tmp_path, check=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    archive = next(tmp_path.glob("*.tgz"))
    subprocess.run(["tar", "-xzf", str(archive)], cwd=tmp_path, check=True)
    site = tmp_path / "package"
    (site / "package.json").unlink()
    shipped = platform.ship(site, "--name", "docs")
    assert "swagger-ui" in fetch(shipped["url"])
    assert "SwaggerUIBundle" in fetch(shipped["url"] + "swagger-ui-bundle.js")


@pytest.fixture(scope="module")
def guestbook(platform: Platform) -> dict[str, object]:
    shipped: dict[str, object] = platform.ship(GUESTBOOK)
    return shipped


def test_web_with_its_database(platform: Platform, guestbook: dict[str, object]) -> None:
    url = str(guestbook["url"])
    page = fetch(url, {"name": "Ada", "message": "It keeps what it is told."})
    assert "It keeps what it is told." in page
    assert "It keeps what it is told." in fetch(url)


def test_shipping_the_same_again_changes_nothing(
    platform: Platform, guestbook: dict[str, object]
) -> None:
    def world() -> dict[str, str]:
        found = platform.get("deployments,replicasets,services,pods,passages", "-n", "default")
        return {
            f"{item['kind']}/{item['metadata']['name']}": item["metadata"].get("generation", "")
            for item in found["items"]
        }

    before = world()
    again = platform.ship(GUESTBOOK)
    assert again["passage"]["metadata"]["uid"] == guestbook["passage"]["metadata"]["uid"]  # type: ignore[index]
    assert (
        again["passage"]["metadata"]["resourceVersion"]
        == (
            guestbook["passage"]["metadata"]["resourceVersion"]  # type: ignore[index]
        )
    )
    assert world() == before


def test_explain_walks_from_the_pod_to_the_source(
    platform: Platform, guestbook: dict[str, object]
) -> None:
    pods = platform.get("pods", "-l", "app.kubernetes.io/name=guestbook")["items"]
    name = pods[0]["metadata"]["name"]
    found = json.loads(platform.underway("explain", f"pod/{name}", "-o", "json").stdout)
    assert found["agrees"]
    assert found["passage"]["spec"]["source"]["path"] == str(GUESTBOOK)
    assert len(found["passage"]["spec"]["source"].get("commit", "")) in (0, 40)
    assert [owner.split("/")[0] for owner in found["owners"]] == ["ReplicaSet", "Deployment"]
    text = platform.underway("explain", f"pod/{name}").stdout
    assert "is the image that runs" in text


def test_dockerfile_error_names_file_and_line(platform: Platform, tmp_path: Path) -> None:
    root = write(tmp_path, Dockerfile="FROM busybox\nRUNN echo\n")
    done = platform.underway("ship", str(root), "--name", "broken", check=False)
    assert done.returncode == 1
    assert "Dockerfile:2" in done.stderr
    assert "RUNN" in done.stderr
    assert platform.kubectl("get", "deployment", "broken", check=False).returncode == 1


def test_failing_build_step_shows_its_output(platform: Platform, tmp_path: Path) -> None:
    root = write(tmp_path, Dockerfile="FROM busybox\nRUN echo the reason; exit 7\n")
    done = platform.underway("ship", str(root), "--name", "broken", "--port", "80", check=False)
    assert done.returncode == 1
    assert "Dockerfile:2" in done.stderr
    assert "the reason" in done.stderr
    assert "7" in done.stderr


def test_container_that_crashes_is_reported_with_its_own_output(
    platform: Platform, tmp_path: Path
) -> None:
    root = write(
        tmp_path, Dockerfile='FROM busybox\nCMD ["sh", "-c", "echo no database; exit 3"]\n'
    )
    done = platform.underway("ship", str(root), "--name", "crasher", "--port", "80", check=False)
    assert done.returncode == 1
    assert "no database" in done.stderr
    assert "exit code 3" in done.stderr
    gone = platform.kubectl("get", "deployment,service", "crasher", check=False)
    assert gone.returncode == 1
    passages = platform.get("passages")["items"]
    failed = [item for item in passages if item["metadata"]["name"].startswith("crasher-")]
    assert [item["status"]["phase"] for item in failed] == ["Failed"]


def test_failed_update_leaves_the_old_version_running(platform: Platform, tmp_path: Path) -> None:
    page = 'FROM busybox\nRUN mkdir /www && echo one > /www/index.html\nCMD ["httpd", "-f", "-p", "8080", "-h", "/www"]\n'
    root = write(tmp_path, Dockerfile=page)
    url = platform.ship(root, "--name", "keeper", "--port", "8080")["url"]
    write(root, Dockerfile=page.replace('"httpd"', '"nothing-of-that-name"'))
    done = platform.underway("ship", str(root), "--name", "keeper", "--port", "8080", check=False)
    assert done.returncode == 1
    platform.kubectl("rollout", "status", "deployment/keeper", "--timeout=60s")
    assert fetch(url).strip() == "one"


def test_nothing_recognised_says_what_was_looked_for(platform: Platform, tmp_path: Path) -> None:
    write(tmp_path, notes__md="nothing here")
    done = platform.underway("ship", str(tmp_path), check=False)
    assert done.returncode == 1
    assert "package.json" in done.stderr


def test_go_application(platform: Platform, tmp_path: Path) -> None:
    if not shutil.which("go"):
        pytest.skip("no Go toolchain on this machine")
    write(
        tmp_path,
        go__mod="module example.org/hello\n\ngo 1.19\n",
        main__go=(
            'package main\n\nimport (\n\t"fmt"\n\t"net/http"\n\t"os"\n)\n\n'
            "func main() {\n"
            '\tport := os.Getenv("PORT")\n\tif port == "" {\n\t\tport = "8080"\n\t}\n'
            '\thttp.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {\n'
            '\t\tfmt.Fprintln(w, "hello from go")\n\t})\n'
            '\thttp.ListenAndServe(":"+port, nil)\n}\n'
        ),
    )
    shipped = platform.ship(tmp_path, "--name", "hello-go")
    assert fetch(shipped["url"]) == "hello from go\n"
    assert shipped["passage"]["spec"]["source"]["language"] == "go"
