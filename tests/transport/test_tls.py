"""Certificates, TLS on the front, and requests over the network."""

import asyncio
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
import uvloop
import yaml
from cryptography import x509

from underway.base.clock import FakeClock
from underway.base.errors import BadRequest, NotFound, ServiceUnavailable
from underway.base.home import Home, Settings
from underway.client import kubeconfig
from underway.transport import pki
from underway.transport.client import HttpTransport
from underway.transport.front import serve
from underway.wire.http import Request, Response, json_response


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    pki.ensure_pki(home, Settings(), ["underway.test", "10.1.2.3"])
    return home


def openssl(*arguments):
    return subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=True, timeout=20
    ).stdout


@pytest.mark.peer
def test_openssl_verifies_every_certificate_and_sees_its_names(home):
    for name in ("apiserver", "kubelet-server", "admin", "node", "apiserver-kubelet-client"):
        openssl("verify", "-x509_strict", "-CAfile", home.pki / "ca.crt", home.pki / f"{name}.crt")
    text = openssl("x509", "-in", home.pki / "apiserver.crt", "-noout", "-ext", "subjectAltName")
    for name in ("localhost", "127.0.0.1", "kubernetes.default.svc.cluster.local", "10.96.0.1"):
        assert name in text
    assert "underway.test" in text
    assert "10.1.2.3" in text
    admin = openssl("x509", "-in", home.pki / "admin.crt", "-noout", "-subject")
    assert "system:masters" in admin
    openssl("pkey", "-in", home.pki / "sa.key", "-check", "-noout")


def test_keys_are_private_and_a_second_run_changes_nothing(home):
    before = {path.name: path.read_bytes() for path in home.pki.iterdir()}
    pki.ensure_pki(home, Settings(), ["underway.test", "10.1.2.3"])
    assert {path.name: path.read_bytes() for path in home.pki.iterdir()} == before
    for path in home.pki.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_certificates_are_renewed_before_they_end_and_when_their_names_change(tmp_path):
    home = Home(tmp_path)
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def serials(moment, names=()):
        pki.ensure_pki(home, Settings(), names, FakeClock(moment))
        return {
            path.stem: x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            for path in home.pki.glob("*.crt")
        }

    first = serials(start)
    assert serials(start + timedelta(days=300)) == first
    changed = serials(start + timedelta(days=300), ["new.test"])
    assert {name for name in first if first[name] != changed[name]} == {
        "apiserver",
        "kubelet-server",
    }
    later = serials(start + timedelta(days=336), ["new.test"])
    assert {name for name in first if first[name] == later[name]} == {
        "ca",
        "front-proxy-ca",
        "apiserver",
        "kubelet-server",
    } - {name for name in ("apiserver", "kubelet-server") if first[name] != changed[name]}
    (home.pki / "ca.key").unlink()
    again = serials(start + timedelta(days=336), ["new.test"])
    kept = {name for name in later if again[name] == later[name]}
    assert kept == {"front-proxy-ca", "front-proxy-client"}  # of an authority of their own


def test_a_broken_key_file_is_named(tmp_path):
    home = Home(tmp_path)
    home.pki.mkdir()
    (home.pki / "ca.key").write_text("nonsense")
    with pytest.raises(BadRequest, match=r"ca\.key is no private key"):
        pki.ensure_pki(home, Settings())


def contexts(home, client="admin"):
    files = home.pki
    server = pki.server_context(files / "apiserver.crt", files / "apiserver.key", files / "ca.crt")
    if not client:
        return server, pki.client_context(files / "ca.crt")
    return server, pki.client_context(
        files / "ca.crt", files / f"{client}.crt", files / f"{client}.key"
    )


async def who(request):
    return json_response({"cn": request.peer.common_name, "o": list(request.peer.organizations)})


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_the_clients_certificate_names_the_peer(home, runner):
    async def main():
        server_tls, client_tls = contexts(home)
        _, anonymous_tls = contexts(home, client="")
        async with await serve(who, tls=server_tls) as server:
            url = f"https://127.0.0.1:{server.port}"
            async with HttpTransport(url, tls=client_tls) as transport:
                answer = await transport(Request("GET", "/"))
                assert answer.json() == {"cn": "kubernetes-admin", "o": ["system:masters"]}
            async with HttpTransport(url, tls=anonymous_tls) as transport:
                assert (await transport(Request("GET", "/"))).json() == {"cn": "", "o": []}

    runner(main())


def test_a_foreign_authoritys_certificate_is_refused(home, tmp_path):
    other = Home(tmp_path)
    pki.ensure_pki(other, Settings())

    async def main():
        server_tls, _ = contexts(home)
        async with await serve(who, tls=server_tls) as server:
            url = f"https://127.0.0.1:{server.port}"
            wrong_ca = pki.client_context(other.pki / "ca.crt")
            async with HttpTransport(url, tls=wrong_ca) as transport:
                with pytest.raises(ServiceUnavailable, match="not trusted"):
                    await transport(Request("GET", "/"))
            wrong_cert = pki.client_context(
                home.pki / "ca.crt", other.pki / "admin.crt", other.pki / "admin.key"
            )
            async with HttpTransport(url, tls=wrong_cert) as transport:
                with pytest.raises(ServiceUnavailable):
                    await transport(Request("GET", "/"))

    asyncio.run(main())


def test_streams_errors_and_bodies_pass_through_the_transport(home):
    async def events(count):
        for n in range(count):
            yield b'{"n":%d}\n' % n
            await asyncio.sleep(0)

    async def handler(request):
        if request.path == "/watch":
            return Response(headers={"content-type": "application/json"}, body=events(3))
        if request.path == "/list":
            return json_response({"items": ["x" * 100] * 10_000})
        if request.path == "/blob":
            return Response(headers={"content-type": "application/octet-stream"}, body=events(3))
        if request.path == "/upload":
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
            return json_response(size)
        raise NotFound(f"no {request.path}?{request.query}")

    async def upload():
        for _ in range(20):
            yield b"x" * 100_000

    async def main():
        server_tls, client_tls = contexts(home)
        async with (
            await serve(handler, tls=server_tls) as server,
            HttpTransport(
                f"https://localhost:{server.port}", tls=client_tls, token="secret"
            ) as transport,
        ):
            watch = await transport(Request("GET", "/watch", "watch=true"))
            assert not isinstance(watch.body, bytes)
            assert b"".join([chunk async for chunk in watch.body]).count(b"\n") == 3
            listed = await transport(Request("GET", "/list"))
            assert len(listed.json()["items"]) == 10_000
            assert "content-encoding" not in listed.headers
            blob = await transport(Request("GET", "/blob"))
            assert not isinstance(blob.body, bytes)
            assert len(await blob.read()) == 24
            assert (await transport(Request("POST", "/upload", body=upload()))).json() == 2_000_000
            assert (await transport(Request("POST", "/upload", body=b"abc"))).json() == 3
            missing = await transport(Request("GET", "/a%2Fb", "x=%20y"))
            assert missing.json()["message"] == "no /a%2Fb?x=%20y"
            assert missing.status == 404

    asyncio.run(main())


def test_many_watches_fit_beside_ordinary_requests(home):
    async def forever():
        yield b"first\n"
        await asyncio.Event().wait()

    async def handler(request):
        return Response(body=forever()) if request.query else json_response("ok")

    async def main():
        async with (
            await serve(handler) as server,
            HttpTransport(f"http://127.0.0.1:{server.port}") as transport,
        ):
            watches = [await transport(Request("GET", "/", "watch=1")) for _ in range(200)]
            for watch in watches:
                assert await anext(watch.body) == b"first\n"
            assert (await transport(Request("GET", "/"))).json() == "ok"
            for watch in watches:
                await watch.body.aclose()

    asyncio.run(main())


def test_a_server_that_is_not_there_or_breaks_off_is_unavailable():
    async def main():
        async def vanish(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()

        listener = await asyncio.start_server(vanish, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with HttpTransport(f"http://127.0.0.1:{port}") as transport:
            with pytest.raises(ServiceUnavailable, match="broke"):
                await transport(Request("GET", "/"))
            listener.close()
            with pytest.raises(ServiceUnavailable, match="cannot connect"):
                await transport(Request("GET", "/"))

    asyncio.run(main())


@pytest.mark.peer
def test_curl_uploads_with_an_expectation_and_a_client_certificate(home, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(b"x" * 3_000_000)

    async def handler(request):
        size = len(await request.read(1 << 30))
        return json_response([request.peer.common_name, request.method, size])

    async def main():
        server_tls, _ = contexts(home)
        async with await serve(handler, tls=server_tls) as server:
            for extra in (["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]):
                curl = await asyncio.create_subprocess_exec(
                    *["curl", "-sS", "--http1.1", "--cacert", str(home.pki / "ca.crt")],
                    *["--cert", str(home.pki / "node.crt"), "--key", str(home.pki / "node.key")],
                    *[*extra, "-T", str(big), f"https://localhost:{server.port}/up"],
                    stdout=asyncio.subprocess.PIPE,
                )
                out, _ = await asyncio.wait_for(curl.communicate(), 30)
                assert out == b'["system:node:underway","PUT",3000000]'

    asyncio.run(main())


def test_a_written_kubeconfig_leads_back_to_the_server_as_that_user(home, tmp_path):
    path = tmp_path / "conf" / "kubeconfig"
    files = home.pki

    async def main():
        server_tls, _ = contexts(home)
        async with await serve(who, tls=server_tls) as server:
            kubeconfig.write(
                path,
                server=f"https://127.0.0.1:{server.port}",
                ca_pem=(files / "ca.crt").read_bytes(),
                cert_pem=(files / "node.crt").read_bytes(),
                key_pem=(files / "node.key").read_bytes(),
                name="underway",
            )
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            transport = kubeconfig.transport(path)
            answer = await transport(Request("GET", "/"))
            assert answer.json()["cn"] == "system:node:underway"
            await transport.aclose()
            client = kubeconfig.load(path)
            assert (await client.request("GET", "/")).json()["o"] == ["system:nodes"]
            await client.aclose()

    asyncio.run(main())


def test_files_next_to_a_kubeconfig_and_tokens_are_read(home, tmp_path):
    (tmp_path / "ca.pem").write_bytes((home.pki / "ca.crt").read_bytes())
    (tmp_path / "token").write_text("sesame\n")
    path = tmp_path / "config"

    async def handler(request):
        return json_response(request.headers.get("authorization"))

    async def main():
        server_tls, _ = contexts(home)
        async with await serve(handler, tls=server_tls) as server:
            url = f"https://127.0.0.1:{server.port}"
            config = {
                "current-context": "a",
                "contexts": [
                    {"name": "a", "context": {"cluster": "c", "user": "file"}},
                    {"name": "b", "context": {"cluster": "lax", "user": "basic"}},
                ],
                "clusters": [
                    {"name": "c", "cluster": {"server": url, "certificate-authority": "ca.pem"}},
                    {"name": "lax", "cluster": {"server": url, "insecure-skip-tls-verify": True}},
                ],
                "users": [
                    {"name": "file", "user": {"tokenFile": "token"}},
                    {"name": "basic", "user": {"username": "u", "password": "p"}},
                ],
            }
            path.write_text(yaml.safe_dump(config))
            for context, expected in ((None, "Bearer sesame"), ("b", "Basic dTpw")):
                client = kubeconfig.load(path, context)
                assert (await client.request("GET", "/")).json() == expected
                await client.aclose()

    asyncio.run(main())


def test_what_a_kubeconfig_lacks_is_named(tmp_path):
    path = tmp_path / "config"
    with pytest.raises(NotFound, match="no kubeconfig at"):
        kubeconfig.load(path)
    path.write_text("kind: Pod")
    with pytest.raises(BadRequest, match="is no kubeconfig"):
        kubeconfig.load(path)
    path.write_text("current-context: gone")
    with pytest.raises(NotFound, match="no context named 'gone'"):
        kubeconfig.load(path)


def test_contexts_of_broken_files_say_which(tmp_path):
    with pytest.raises(BadRequest, match="missing"):
        pki.client_context(tmp_path / "missing")
    with pytest.raises(BadRequest, match="PEM text"):
        pki.client_context(b"nonsense")
    assert isinstance(pki.client_context(None), ssl.SSLContext)
