"""The commands, and the service of TUF repositories, certificates and the log."""

import asyncio
import base64
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.capabilities.signing.conftest import run, write
from tests.capabilities.signing.test_keyless import SLSA, SUBJECTS, token

from underway.base.errors import BadRequest, Forbidden, NotFound, UnderwayError
from underway.base.home import Home, Settings
from underway.capabilities.signing.backend.pkcs11 import TokenKeys
from underway.capabilities.signing.backend.tuf_repository import TufRepository
from underway.capabilities.signing.cli import images, tuf
from underway.capabilities.signing.cli import keys as keys_cli
from underway.capabilities.signing.cli import trust as trust_cli
from underway.capabilities.signing.manifest import CAPABILITY
from underway.capabilities.signing.routes import signing
from underway.capabilities.signing.rules import keys
from underway.kit.registry import load
from underway.transport import front, pki
from underway.wire import dsse
from underway.wire.http import Request

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


def invoke(home, command, *argv, code=0):
    environment = {"UNDERWAY_HOME": str(home.root)}
    done = CliRunner().invoke(command, [str(each) for each in argv], env=environment)
    if isinstance(done.exception, UnderwayError):
        raise done.exception
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout


def test_everything_the_manifest_names_is_there_and_helps():
    for name, target in CAPABILITY.commands.items():
        text = CliRunner().invoke(load(target), ["--help"]).stdout
        assert f"underway {name}" in text, name
    for target in (*CAPABILITY.provides.values(), *CAPABILITY.controllers):
        assert callable(load(target))
    assert all(callable(load(route.app)) for route in CAPABILITY.routes)


def test_sign_attest_and_verify_an_image(world, tmp_path):
    assert "nothing is signed" in invoke(world.home, images.verify, world.reference, code=1)
    assert "signature sha256:" in invoke(world.home, images.sign, world.reference)
    invoke(world.home, images.sign, world.reference, "--notation")
    value = json.loads(invoke(world.home, images.verify, world.reference, "-o", "json"))
    assert value["verified"] is True
    assert {each["form"] for each in value["signatures"]} == {"cosign", "bundle", "notation"}
    predicate = write(tmp_path / "p.json", '{"passed":3}')
    typed = ["--type", "https://example.com/tests/v1"]
    invoke(world.home, images.attest, world.reference, *typed, "--predicate", predicate)
    assert "example.com/tests" in invoke(
        world.home, images.verify, world.reference, "--attestations"
    )
    foreign = write(tmp_path / "other.pub", keys.public_pem(keys.generate().public_key()))
    told = invoke(world.home, images.verify, world.reference, "--key", foreign, code=1)
    assert "none of the trusted keys" in told


def test_a_service_account_attests_without_a_key(world, tmp_path):
    predicate = write(tmp_path / "p.json", "{}")
    common = [world.reference, "--type", SLSA, "--predicate", predicate, "--keyless"]
    invoke(world.home, images.attest, *common, "--identity-token", token(world.home))
    who = "https://kubernetes.io/namespaces/builds/serviceaccounts/ci"
    issuer = "https://kubernetes.default.svc.cluster.local"
    told = ["--identity", who, "--issuer", issuer, "--attestations"]
    assert who in invoke(world.home, images.verify, world.reference, *told)
    told[1] = who + "x"
    refused = invoke(world.home, images.verify, world.reference, *told, code=1)
    assert "not among the trusted identities" in refused
    with pytest.raises(BadRequest, match="needs a service account's token"):
        invoke(world.home, images.attest, *common)


def test_keys_are_made_listed_exported_and_imported(tmp_path):
    home = Home(tmp_path / "home")
    invoke(home, keys_cli.keys, "generate", "release", "--algorithm", "ed25519")
    assert "release" in invoke(home, keys_cli.keys, "list")
    assert "BEGIN PUBLIC KEY" in invoke(home, keys_cli.keys, "export")
    secret = write(tmp_path / "secret", "word\n")
    pem = invoke(home, keys_cli.keys, "export", "release", "--private", "--passphrase-file", secret)
    assert "ENCRYPTED SIGSTORE PRIVATE KEY" in pem
    file = write(tmp_path / "k.key", pem)
    invoke(home, keys_cli.keys, "import", "again", file, "--passphrase-file", secret)
    listed = invoke(home, keys_cli.keys, "list").splitlines()
    ids = {line.split()[0]: line.split()[-1] for line in listed}
    assert ids["again"] == ids["release"] != ids["platform"]
    with pytest.raises(BadRequest, match="leaves encrypted"):
        invoke(home, keys_cli.keys, "export", "release", "--private")


def test_trust_is_given_and_taken(tmp_path):
    home = Home(tmp_path / "home")
    pub = write(tmp_path / "p.pub", keys.public_pem(keys.generate().public_key()))
    invoke(home, trust_cli.trust, "add", "partner", pub)
    invoke(home, trust_cli.trust, "add-identity", "me@example.com", "--issuer", "https://idp")
    listed = invoke(home, trust_cli.trust, "list")
    assert "partner" in listed
    assert "me@example.com by https://idp" in listed
    invoke(home, trust_cli.trust, "remove", "partner")
    invoke(home, trust_cli.trust, "remove-identity", "me@example.com", "--issuer", "https://idp")
    assert len(invoke(home, trust_cli.trust, "list").splitlines()) == 1
    with pytest.raises(NotFound):
        invoke(home, trust_cli.trust, "remove", "partner")
    with pytest.raises(BadRequest, match="no public key"):
        invoke(home, trust_cli.trust, "add", "bad", write(tmp_path / "bad", "x"))


def serve(home, during):
    """Run a function against the service over TLS."""

    async def go():
        context = pki.server_context(home.pki / "apiserver.crt", home.pki / "apiserver.key")
        handler = signing.app(home, None)
        async with await front.serve(handler, port=0, tls=context) as server:
            return await asyncio.to_thread(during, f"https://127.0.0.1:{server.port}")

    return asyncio.run(go())


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    pki.ensure_pki(made, Settings())
    return made


def test_a_tuf_repository_made_by_commands_is_served_and_got(home, tmp_path):
    file = write(tmp_path / "app", "content")
    invoke(home, tuf.tuf, "init", "main", "--keys", "root=3", "--threshold", "root=2")
    invoke(home, tuf.tuf, "delegate", "releases", "--path", "releases/*", "--keys", "2")
    invoke(home, tuf.tuf, "add", "releases/app", file, "--role", "releases")
    assert "published" in invoke(home, tuf.tuf, "publish")
    invoke(home, tuf.tuf, "rotate", "root")
    root = write(tmp_path / "root.json", invoke(home, tuf.tuf, "root"))
    value = json.loads(invoke(home, tuf.tuf, "status", "-o", "json"))
    assert {each["name"] for each in value["roles"]} >= {"root", "releases"}
    assert "2/3" in invoke(home, tuf.tuf, "status")

    def get(url):
        argv = [
            "get", "releases/app", "--url", f"{url}/tuf/main", "--root", root,
            "--dir", tmp_path / "got", "--ca", home.pki / "ca.crt",
        ]  # fmt: skip
        return invoke(home, tuf.tuf, *argv)

    got = Path(serve(home, get).strip())
    assert got.read_text() == "content"
    with pytest.raises(BadRequest, match="nothing is trusted"):
        invoke(home, tuf.tuf, "get", "x", "--url", "http://127.0.0.1:1/y")
    with pytest.raises(BadRequest, match="ROLE=N"):
        invoke(home, tuf.tuf, "init", "other", "--keys", "root")


def test_the_conformance_client_exits_with_one_where_metadata_does_not_hold(home, tmp_path):
    TufRepository(home).init()
    root = write(tmp_path / "root.json", TufRepository(home).root())
    common = ["client", "--metadata-dir", tmp_path / "m", "--metadata-url", "http://127.0.0.1:1"]
    invoke(home, tuf.tuf, *common, "init", root)
    assert (tmp_path / "m" / "root.json").exists()
    invoke(home, tuf.tuf, *common, "refresh", code=1)


def call(home, method, path, value=None):
    path, _, query = path.partition("?")
    body = b"" if value is None else json.dumps(value).encode()
    response = asyncio.run(signing.app(home, None)(Request(method, path, query, {}, body)))
    return response.status, json.loads(asyncio.run(response.read()) or b"null")


def test_the_service_gives_no_file_outside_of_a_repository(home):
    TufRepository(home).init()
    (home.signing / "tuf" / "main" / "metadata" / ".secret").write_text("x")
    for path in ("/tuf/main/keys/x.key", "/tuf/main/metadata/..%2fkeys", "/tuf/../x/metadata/y",
                 "/tuf/main/metadata/../keys/x", "/tuf/main/metadata/.secret", "/nowhere"):  # fmt: skip
        assert call(home, "GET", path)[0] == 404, path
    assert call(home, "POST", "/tuf/main/metadata/1.root.json")[0] == 405


def test_the_log_takes_only_entries_whose_signatures_hold(home):
    key = keys.generate()
    envelope = dsse.Envelope(dsse.PAYLOAD_TYPE, dsse.statement(SUBJECTS, SLSA, {}))
    good = keys.sign(key, envelope.signed_bytes)
    pem = base64.b64encode(keys.public_pem(key.public_key())).decode()

    def proposal(signature):
        signed = dsse.Envelope(
            envelope.payload_type, envelope.payload, (dsse.Signature("", signature),)
        )
        content = {"envelope": dsse.encode(signed).decode(), "verifiers": [pem]}
        return {"apiVersion": "0.0.1", "kind": "dsse", "spec": {"proposedContent": content}}

    status, made = call(home, "POST", "/api/v1/log/entries", proposal(good))
    assert status == 201
    ((_, entry),) = made.items()
    assert entry["logIndex"] == 0
    for bad in (proposal(b"x"), {"kind": "other"}, {"kind": "dsse"}, {"kind": "dsse", "spec": 1}):
        assert call(home, "POST", "/api/v1/log/entries", bad)[0] == 400
    assert call(home, "GET", "/api/v1/log")[1]["treeSize"] == 1
    ((_, again),) = call(home, "GET", "/api/v1/log/entries?logIndex=0")[1].items()
    assert (again["body"], again["logIndex"]) == (entry["body"], 0)
    assert call(home, "GET", "/api/v1/log/entries?logIndex=7")[0] == 404
    assert call(home, "GET", "/api/v1/log/proof?firstSize=1")[1] == {"hashes": []}


def test_a_certificate_wants_a_token_and_possession_of_the_key(home):
    key, other = keys.generate(), keys.generate()
    subject = b"system:serviceaccount:builds:ci"

    def request(signer, shown):
        return {
            "credentials": {"oidcIdentityToken": shown},
            "publicKeyRequest": {
                "publicKey": {"content": keys.public_pem(key.public_key()).decode()},
                "proofOfPossession": base64.b64encode(keys.sign(signer, subject)).decode(),
            },
        }

    status, made = call(home, "POST", "/api/v2/signingCert", request(key, token(home)))
    assert status == 201
    assert len(made["signedCertificateEmbeddedSct"]["chain"]["certificates"]) == 2
    assert call(home, "POST", "/api/v2/signingCert", request(other, token(home)))[0] == 400
    assert call(home, "POST", "/api/v2/signingCert", request(key, "a.b.c"))[0] == 401
    assert call(home, "POST", "/api/v2/signingCert", {})[0] == 400


@pytest.mark.peer
@pytest.mark.skipif(not SOFTHSM.exists(), reason="needs softhsm2")
def test_a_key_on_a_pkcs11_token_signs_and_never_comes_out(world, tmp_path, monkeypatch):
    config = write(tmp_path / "softhsm.conf", f"directories.tokendir = {tmp_path}/tokens\n")
    (tmp_path / "tokens").mkdir()
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    run(
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        "uw",
        "--pin",
        "1234",
        "--so-pin",
        "12345678",
    )
    store = TokenKeys(SOFTHSM, "uw", "1234")
    public = store.generate("release")
    assert store.names() == ["release"]
    assert keys.key_id(store.public("release")) == keys.key_id(public)
    keys.verify(public, store.sign("release", b"data"), b"data")
    signer = world.signer(store=store, key="release")
    made = signer.sign(world.reference)
    assert made.key_id == keys.key_id(public)
    with pytest.raises(Forbidden, match="PIN"):
        TokenKeys(SOFTHSM, "uw", "9999").names()
    with pytest.raises(NotFound, match="no key nobody"):
        store.sign("nobody", b"")
    with pytest.raises(NotFound, match="no token other"):
        TokenKeys(SOFTHSM, "other", "1234").names()


_LOADED = """
import sys
from underway.capabilities.signing.manifest import CAPABILITY
from underway.capabilities.signing.cli import images, keys, trust, tuf
print([m for m in ('cryptography', 'tuf', 'httpx', 'nacl', 'pkcs11') if m in sys.modules])
"""


def test_the_commands_load_no_heavy_library_before_they_run():
    assert run(sys.executable, "-c", _LOADED).stdout.strip() == "[]"
