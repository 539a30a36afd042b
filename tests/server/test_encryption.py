"""Secrets lie encrypted in the database, under keys that can be changed."""

import asyncio
import base64
import os
import shutil
import sqlite3

import pytest
from tests.server.running import configmap, running, serve

from underway.api.resources import CONFIGMAPS, SECRETS
from underway.base.errors import InternalError
from underway.server.encryption import KEY_FILE, SecretCodec
from underway.server.store import Key, Store

PASSWORD = "correct-horse-battery-staple"
ENCODED = base64.b64encode(PASSWORD.encode()).decode()


def secret(name, value=PASSWORD):
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
        "stringData": {"password": value},
    }


def key_line(name):
    return f"{name} {base64.b64encode(os.urandom(32)).decode()}\n"


def bytes_on_disk(root):
    return b"".join(file.read_bytes() for file in (root / "store").iterdir())


def plain(value):
    return any(text.encode() in value for text in (PASSWORD, ENCODED))


def values(root):
    with sqlite3.connect(root / "store" / "cluster.db") as database:
        found = database.execute("SELECT name, data FROM objects WHERE resource = 'secrets'")
        rows = dict(found.fetchall())
    database.close()
    return rows


async def make(server, admin):
    await admin.create(SECRETS, secret("db"))
    await admin.create(CONFIGMAPS, configmap("open", word="not-a-secret"), "default")


async def read(server, admin):
    found = await admin.get(SECRETS, "db", "default")
    assert found["data"] == {"password": ENCODED}
    return found["metadata"]["resourceVersion"]


def test_the_database_never_holds_a_secrets_bytes(tmp_path):
    async def scenario(server, admin):
        await make(server, admin)
        await admin.patch(SECRETS, "db", {"metadata": {"labels": {"a": "b"}}}, "default")
        assert not plain(bytes_on_disk(tmp_path))  # the log, while it runs
        await read(server, admin)

    serve(tmp_path, scenario)
    found = bytes_on_disk(tmp_path)
    assert not plain(found)
    assert b"not-a-secret" in found
    serve(tmp_path, read)
    assert (tmp_path / "pki" / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_the_same_secret_never_looks_the_same_twice(tmp_path):
    codec = SecretCodec.load(tmp_path / KEY_FILE)
    key = Key("secrets", "default", "a")
    first, second = codec.seal(key, b"{}"), codec.seal(key, b"{}")
    assert first != second
    assert codec.open(key, first) == codec.open(key, second) == b"{}"


def test_a_value_moved_to_another_row_is_refused(tmp_path):
    codec = SecretCodec.load(tmp_path / KEY_FILE)
    sealed = codec.seal(Key("secrets", "default", "a"), b"{}")
    with pytest.raises(InternalError, match="database was changed"):
        codec.open(Key("secrets", "default", "b"), sealed)


@pytest.mark.parametrize("cut", [0, 3, 12, 20])
def test_a_damaged_value_is_a_clear_error(tmp_path, cut):
    codec = SecretCodec.load(tmp_path / KEY_FILE)
    key = Key("secrets", "default", "a")
    sealed = codec.seal(key, b"{}")
    head = sealed.rindex(b":", 0, sealed.index(b"v1:") + 20) + 1
    with pytest.raises(InternalError, match='secrets "default/a"'):
        codec.open(key, sealed[: head + cut])


def test_plain_rows_of_an_earlier_database_are_read_and_sealed_at_the_start(tmp_path):
    path = tmp_path / "store" / "cluster.db"

    async def earlier():
        store = Store(path)
        store.open()
        for number in range(50):
            name = f"s{number}"
            made = {"metadata": {"name": name, "uid": name}, "data": {"password": ENCODED}}
            await store.create(Key("secrets", "default", name), made)
        version = store.resource_version
        await store.close()
        return version

    version = asyncio.run(earlier())
    assert plain(bytes_on_disk(tmp_path))

    async def now():
        store = Store(path, SecretCodec.load(tmp_path / KEY_FILE))
        store.open()
        assert not plain(bytes_on_disk(tmp_path))
        assert len(store.rows("secrets")) == 50
        assert store.rows("secrets")[0].decode()["data"] == {"password": ENCODED}
        assert store.resource_version == version
        await store.close()

    asyncio.run(now())
    assert not plain(bytes_on_disk(tmp_path))


def test_keys_are_rotated_by_putting_a_new_one_on_top(tmp_path):
    keys = tmp_path / "pki" / KEY_FILE
    serve(tmp_path, make)
    version = serve(tmp_path, read)
    old = keys.read_text()
    before = values(tmp_path)
    keys.write_text(key_line("second") + old)
    assert serve(tmp_path, read) == version
    after = values(tmp_path)
    assert all(value.startswith(b"underway:enc:aesgcm:v1:second:") for value in after.values())
    assert before.keys() == after.keys()
    keys.write_text(keys.read_text().splitlines()[0])  # the old key is needed no more
    assert serve(tmp_path, read) == version


def test_a_wrong_or_missing_key_is_a_clear_error_and_nothing_is_changed(tmp_path):
    keys = tmp_path / "pki" / KEY_FILE
    serve(tmp_path, make)
    right = keys.read_text()
    name = right.split()[0]
    for wrong, said in (
        (key_line(name), "not the one it was encrypted with"),
        (key_line("other"), f"the key {name}, which .* does not hold"),
        ("", "holds 0 encryption keys"),
        ("nonsense\n", "line 1 is no encryption key"),
        ("a b@d\n", "line 1 is no encryption key"),
        (f"{name} c2hvcnQ=\n", "line 1 is no encryption key"),
        (right + right, "is there twice"),
    ):
        keys.write_text(wrong)
        with pytest.raises(InternalError, match=said) as caught:
            serve(tmp_path, read)
        keys_there = [word for word in wrong.split() if len(word) == 44]
        assert not any(word in str(caught.value) for word in keys_there)
    keys.unlink()
    with pytest.raises(InternalError, match="does not hold"):
        serve(tmp_path, read)
    keys.write_text(right)
    serve(tmp_path, read)


def test_a_key_in_use_is_never_replaced_by_a_new_one(tmp_path):
    async def scenario():
        async with running(tmp_path):
            before = (tmp_path / "pki" / KEY_FILE).read_bytes()
            SecretCodec.load(tmp_path / "pki" / KEY_FILE)
            assert (tmp_path / "pki" / KEY_FILE).read_bytes() == before

    asyncio.run(scenario())
    assert [file.name for file in (tmp_path / "pki").glob(".*")] == []
    shutil.rmtree(tmp_path / "pki")
