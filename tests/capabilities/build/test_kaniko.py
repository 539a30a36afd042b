"""``underway kaniko`` in the kaniko executor's place: flags, files and exit codes."""

import asyncio
import base64
import functools
import http.server
import io
import json
import os
import subprocess
import tarfile
import threading

import msgspec
import pytest
from click.testing import CliRunner
from tests.capabilities.build.test_push import free_port

from underway.base.home import Settings
from underway.capabilities.build.cli_kaniko import kaniko
from underway.capabilities.registry.routes import app
from underway.kit.registry import Ports
from underway.transport import front, pki
from underway.transport.registry import credentials
from underway.wire.http import Request, Response

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root"),
]


def execute(yard, *arguments, stdin=None, **environment):
    environment = {"UNDERWAY_HOME": str(yard.home.root), "DOCKER_CONFIG": "/none", **environment}
    return CliRunner().invoke(kaniko, list(arguments), env=environment, input=stdin)


def run(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_a_build_writes_archive_layout_and_digest_files(yard, tmp_path):
    yard.put("Dockerfile", "FROM busybox AS one\nARG A\nRUN echo $A > /a\nFROM one\nRUN false\n")
    out = tmp_path / "out"
    done = execute(
        yard, f"--context=dir://{yard.context}", "--dockerfile", "Dockerfile", "-d", "r.test/a/b:1",
        "--destination=r.test/c:2", "--no-push", "--build-arg=A=hello", "--label", "k=v",
        "--target=one", "--cache=true", "--cache-repo=r.test/cache", "--single-snapshot",
        "--reproducible", "--snapshot-mode=redo", "--cleanup", "--use-new-run", "--cache-ttl=24h",
        f"--tar-path={out}/image.tar", f"--oci-layout-path={out}/layout",
        f"--digest-file={out}/digest", f"--image-name-with-digest-file={out}/names",
        f"--image-name-tag-with-digest-file={out}/tags", "--verbosity=debug",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.output.count("warning: cache r.test/cache") == 1
    digest = (out / "digest").read_text()
    assert (out / "names").read_text() == f"r.test/a/b@{digest}\nr.test/c@{digest}\n"
    assert (out / "tags").read_text() == f"r.test/a/b:1@{digest}\nr.test/c:2@{digest}\n"
    found = json.loads(run("skopeo", "inspect", f"docker-archive:{out}/image.tar:r.test/c:2"))
    assert found["Labels"]["k"] == "v"
    assert json.loads(run("skopeo", "inspect", f"oci:{out}/layout:1"))["Digest"] == digest
    assert yard.read("/a", "r.test/c:2") == "hello\n"


def test_usage_errors_and_failures_end_with_kanikos_exit_codes(yard):
    yard.put("Dockerfile", "FROM busybox\nRUN exit 7\n")
    context = f"--context={yard.context}"
    assert execute(yard, context, "--no-push").exit_code == 7
    for arguments, message in (
        ([context], "you must provide --destination"),
        ([context, "--no-push", "--nonsense"], "--nonsense"),
        ([context, "--no-push", "--snapshot-mode=x"], "full"),
        ([context, "--no-push", "--context-sub-path=none"], "none"),
        ([context, "--no-push", "--dockerfile=none"], "there is no"),
        (["--context=gs://bucket/x", "--no-push"], "gs:// are not supported"),
        (["--context=s3://bucket", "--no-push"], "must be s3://BUCKET/KEY"),
        ([context, "--no-push", "--custom-platform=linux/s390x"], "for linux/s390x"),
        ([context, "--no-push", "--compression=lzma"], "gzip or zstd"),
        ([context, "--no-push", "--compression-level=40"], "0 to 9, not 40"),
        ([context, "--no-push", "--registry-map=x"], "must be HOST=MIRROR"),
        ([context, "--no-push", "--tar-path=/x"], "needs a --destination"),
    ):
        done = execute(yard, *arguments)
        assert (done.exit_code, message in done.output) == (1, True), done.output


def test_without_cache_every_step_runs_anew(yard):
    yard.put("Dockerfile", "FROM busybox\nRUN echo ran-now\n")
    arguments = [f"--context={yard.context}", "--no-push"]
    execute(yard, *arguments)
    assert "  ran-now" in execute(yard, *arguments).output
    assert "  ran-now" not in execute(yard, *arguments, "--cache").output
    assert "  ran-now" in execute(yard, *arguments, "--cache=false").output


def test_contexts_come_as_archives_and_from_standard_input(yard, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in (("app/Dockerfile", b"FROM busybox\nCOPY f /f\n"), ("app/f", b"hi")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    (tmp_path / "c.tar.gz").write_bytes(packed.getvalue())
    arguments = ["--no-push", "--context-sub-path=app", "-d", "x:1"]
    for where, stdin in ((f"tar://{tmp_path}/c.tar.gz", None), ("tar://stdin", packed.getvalue())):
        done = execute(yard, "--context", where, *arguments, stdin=stdin)
        assert done.exit_code == 0, done.output
        assert yard.read("/f", "docker.io/library/x:1") == "hi"
    assert execute(yard, "--context", "tar://stdin", "--no-push", stdin=b"junk").exit_code == 1


@pytest.fixture
def repository(tmp_path):
    """A git repository served over HTTP: its ``host/path``."""
    work, bare = tmp_path / "work", tmp_path / "served" / "r.git"
    git = ["git", "-C", str(work), "-c", "user.name=x", "-c", "user.email=x@x"]
    work.mkdir()
    run("git", "init", "-q", "-b", "main", str(work))
    for number, text in ((1, "one"), (2, "two")):
        (work / "Dockerfile").write_text("FROM busybox\nCOPY f /f\n")
        (work / "f").write_text(text)
        run(*git, "add", ".")
        run(*git, "commit", "-qm", str(number))
        run(*git, "tag", f"v{number}")
    run("git", "clone", "-q", "--bare", str(work), str(bare))
    backend = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Git, directory=str(bare.parent))
    )
    thread = threading.Thread(target=backend.serve_forever)
    thread.start()
    yield f"127.0.0.1:{backend.server_port}/r.git"
    backend.shutdown()
    thread.join()
    backend.server_close()


class _Git(http.server.CGIHTTPRequestHandler):
    """git's own server program as CGI."""

    protocol_version = "HTTP/1.0"

    def _serve(self):
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("content-length") or 0)
        done = subprocess.run(
            ["git", "http-backend"],
            input=self.rfile.read(length),
            capture_output=True,
            check=True,
            env={
                **os.environ, "GIT_PROJECT_ROOT": self.directory, "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("content-type", ""),
                "CONTENT_LENGTH": str(length), "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
                "REMOTE_ADDR": "127.0.0.1", "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
            },
        ).stdout  # fmt: skip
        self.wfile.write(b"HTTP/1.0 200 OK\r\n" + done)

    do_GET = do_POST = _serve  # names the base class looks for

    def log_message(self, *_):
        pass


def test_git_contexts_and_add_of_repositories(yard, repository):
    for where, text in (
        (f"git://{repository}", "two"),
        (f"git://{repository}#refs/tags/v1", "one"),
    ):
        done = execute(yard, "--context", where, "--no-push", "-d", "g:1", GIT_PULL_METHOD="http")
        assert done.exit_code == 0, done.output
        assert yard.read("/f", "docker.io/library/g:1") == text
    gone = execute(yard, "-c", f"git://{repository}#nope", "--no-push", GIT_PULL_METHOD="http")
    assert gone.exit_code == 1
    assert "nope" in gone.output
    yard.build(f"FROM busybox\nADD http://{repository}#v1 /src\n")
    assert yard.read("/src/f") == "one"
    assert not yard.look(lambda root: (root / "src/.git").exists())
    yard.build(f"FROM busybox\nADD --keep-git-dir=true http://{repository} /src\n")
    assert yard.look(lambda root: (root / "src/.git/HEAD").exists())


def test_pushes_use_dockers_credentials_and_the_registrys_certificate(yard, tmp_path):
    yard.put("Dockerfile", "FROM busybox\nRUN echo 1 > /x\n")
    other = type(yard.home)(tmp_path / "other")
    settings = msgspec.structs.replace(Settings(), registry_port=free_port())
    other.save_settings(settings)
    pki.ensure_pki(other, settings)
    host = f"127.0.0.1:{settings.registry_port}"

    def work():
        target, ca = f"-d={host}/team/app:1", f"--registry-certificate={host}={other.pki}/ca.crt"
        arguments = [f"--context={yard.context}", target, f"--digest-file={tmp_path}/digest"]
        untrusted = execute(yard, *arguments)
        assert untrusted.exit_code == 1
        assert not (tmp_path / "digest").exists()
        assert execute(yard, *arguments, ca).exit_code == 1  # nobody signed in
        username, password = credentials(other.registry_auth, host)
        signed = base64.b64encode(f"{username}:{password}".encode()).decode()
        config = tmp_path / "docker"
        config.mkdir()
        (config / "config.json").write_text(json.dumps({"auths": {host: {"auth": signed}}}))
        for trust in (ca, "--skip-tls-verify"):
            done = execute(yard, *arguments, trust, DOCKER_CONFIG=str(config))
            assert done.exit_code == 0, done.output
            assert password not in done.output
        shown = run("skopeo", "inspect", "--tls-verify=false", "--authfile",
                    str(config / "config.json"), f"docker://{host}/team/app:1")  # fmt: skip
        assert json.loads(shown)["Digest"] == (tmp_path / "digest").read_text()

    async def main():
        tls = pki.server_context(other.pki / "apiserver.crt", other.pki / "apiserver.key")
        handler = app(other, Ports([], other))
        async with await front.serve(handler, port=settings.registry_port, tls=tls):
            await asyncio.to_thread(work)

    asyncio.run(main())


def test_a_registry_with_tokens_over_plain_http(yard):
    """A registry that hands out bearer tokens, as Docker Hub and GHCR do."""
    yard.put("Dockerfile", "FROM busybox\n")
    port, tokens, asked = free_port(), [], []

    async def registry(request: Request) -> Response:
        asked.append((request.method, request.path))
        if request.path == "/token":
            tokens.append(request.headers.get("authorization", ""))
            return Response(200, {"content-type": "application/json"}, b'{"token":"t0k"}')
        if request.headers.get("authorization", "") != "Bearer t0k":
            challenge = f'Bearer realm="http://127.0.0.1:{port}/token",service="s",scope="a"'
            return Response(401, {"www-authenticate": challenge}, b"")
        if request.method == "HEAD":
            return Response(404, {}, b"")
        if request.method == "POST":
            return Response(202, {"location": "/v2/upload"}, b"")
        return Response(201, {}, b"")

    def work():
        arguments = [f"--context={yard.context}", f"-d=127.0.0.1:{port}/a:1"]
        assert execute(yard, *arguments).exit_code == 1  # plain http is asked for by name only
        done = execute(yard, *arguments, "--insecure")
        assert done.exit_code == 0, done.output
        assert asked[-1] == ("PUT", "/v2/a/manifests/1")
        assert len(tokens) == 1

    async def main():
        async with await front.serve(registry, port=port):
            await asyncio.to_thread(work)

    asyncio.run(main())
