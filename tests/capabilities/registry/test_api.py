"""The end-points of the distribution specification 1.1, one by one."""

import asyncio
import base64
import json

import pytest
from tests.capabilities.registry.conftest import Direct, image

from underway.base.home import Home, Settings
from underway.capabilities.registry.backend.credentials import ensure_credentials
from underway.capabilities.registry.backend.storage import Storage
from underway.wire import oci

A, B = b"first blob", b"second blob, somewhat longer"
MISSING = "sha256:" + "0" * 64


def code(response):
    (error,) = json.loads(response.body)["errors"]
    return response.status, error["code"]


def start(direct, repository="app"):
    begun = direct.call("POST", f"/v2/{repository}/blobs/uploads/")
    assert begun.status == 202
    return begun.headers["location"]


# -- end-1 and who may ask ------------------------------------------------------------------------


def test_the_base_answers_that_this_is_a_registry(direct):
    answer = direct.call("GET", "/v2/")
    assert answer.status == 200
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("given", ["", "Basic", "Basic !", "Bearer x", "Basic YWRtaW46YWRtaW4="])
def test_strangers_are_asked_to_log_in(direct, given):
    answer = direct.call("GET", "/v2/app/tags/list", authorization=given)
    assert code(answer) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"].startswith('Basic realm="')


def test_the_password_is_made_once_and_kept_from_other_users(tmp_path):
    home, settings = Home(tmp_path), Settings()
    made = ensure_credentials(home, settings)
    assert ensure_credentials(home, settings) == made
    assert len(made[1]) >= 24
    assert home.registry_auth.stat().st_mode & 0o777 == 0o600
    auths = json.loads(home.registry_auth.read_bytes())["auths"]
    assert base64.b64decode(auths["127.0.0.1:5000"]["auth"]).decode() == ":".join(made)


def test_the_password_stays_when_the_port_changes(tmp_path):
    home = Home(tmp_path)
    made = ensure_credentials(home, Settings())
    assert ensure_credentials(home, Settings(registry_port=5001)) == made
    assert set(json.loads(home.registry_auth.read_bytes())["auths"]) == {"127.0.0.1:5001"}


# -- end-2, end-4 to end-6: blobs -----------------------------------------------------------------


def test_a_blob_in_one_request_comes_back_whole(direct):
    digest = oci.digest_of(A)
    made = direct.call("POST", f"/v2/app/blobs/uploads/?digest={digest}", A)
    assert made.status == 201
    assert made.headers["location"] == f"/v2/app/blobs/{digest}"
    got = direct.call("GET", made.headers["location"])
    assert (got.status, got.body) == (200, A)
    assert got.headers["docker-content-digest"] == digest
    head = direct.call("HEAD", made.headers["location"])
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(A)))


def test_a_blob_in_two_requests(direct):
    location = start(direct)
    done = direct.call("PUT", f"{location}?digest={oci.digest_of(A)}", A)
    assert done.status == 201
    assert direct.call("GET", done.headers["location"]).body == A


def test_a_blob_in_chunks(direct):
    location = start(direct)
    first = direct.call("PATCH", location, B[:10], content_range="0-9", content_length="10")
    assert (first.status, first.headers["range"]) == (202, "0-9")
    status = direct.call("GET", first.headers["location"])
    assert (status.status, status.headers["range"]) == (204, "0-9")
    last = f"10-{len(B) - 1}"
    second = direct.call("PATCH", status.headers["location"], B[10:], content_range=last)
    assert second.headers["range"] == f"0-{len(B) - 1}"
    done = direct.call("PUT", f"{second.headers['location']}?digest={oci.digest_of(B)}")
    assert direct.call("GET", done.headers["location"]).body == B


def test_the_last_chunk_may_come_with_the_closing_request(direct):
    location = start(direct)
    direct.call("PATCH", location, B[:10], content_range="0-9")
    last = f"10-{len(B) - 1}"
    done = direct.call("PUT", f"{location}?digest={oci.digest_of(B)}", B[10:], content_range=last)
    assert done.status == 201


@pytest.mark.parametrize(
    ("content_range", "expected"),
    [
        ("5-14", (416, "BLOB_UPLOAD_INVALID")),
        ("20-29", (416, "BLOB_UPLOAD_INVALID")),
        ("junk", (416, "BLOB_UPLOAD_INVALID")),
        ("19-10", (416, "BLOB_UPLOAD_INVALID")),
        ("10-12", (400, "SIZE_INVALID")),
        ("10-99", (400, "SIZE_INVALID")),
    ],
)
def test_a_chunk_out_of_place_changes_nothing(direct, content_range, expected):
    location = start(direct)
    direct.call("PATCH", location, B[:10], content_range="0-9")
    assert code(direct.call("PATCH", location, B[10:20], content_range=content_range)) == expected
    assert direct.call("GET", location).headers["range"] == "0-9"
    done = direct.call("PUT", f"{location}?digest={oci.digest_of(B)}", B[10:])
    assert done.status == 201


def test_content_with_another_digest_is_thrown_away(direct):
    location = start(direct)
    wrong = direct.call("PUT", f"{location}?digest={oci.digest_of(A)}", B)
    assert code(wrong) == (400, "DIGEST_INVALID")
    assert code(direct.call("GET", location)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert direct.call("HEAD", f"/v2/app/blobs/{oci.digest_of(A)}").status == 404
    assert list((direct.home.registry / "uploads").iterdir()) == []


@pytest.mark.parametrize("digest", ["junk", "sha256:abc", "md5:" + "0" * 32, ""])
def test_a_malformed_digest_is_refused(direct, digest):
    location = start(direct)
    assert code(direct.call("PUT", f"{location}?digest={digest}", A)) == (400, "DIGEST_INVALID")
    if digest:
        made = direct.call("POST", f"/v2/app/blobs/uploads/?digest={digest}", A)
        assert code(made) == (400, "DIGEST_INVALID")
        assert direct.call("GET", f"/v2/app/blobs/{digest}").status in (400, 404)
    assert len(list((direct.home.registry / "uploads").iterdir())) == 1


def test_sha512_is_served_too(direct):
    import hashlib

    digest = f"sha512:{hashlib.sha512(A).hexdigest()}"
    made = direct.call("POST", f"/v2/app/blobs/uploads/?digest={digest}", A)
    assert made.status == 201
    assert direct.call("GET", f"/v2/app/blobs/{digest}").body == A


def test_two_requests_cannot_write_to_one_upload_at_once(direct):
    location = start(direct)

    async def go():
        arrived, release = asyncio.Event(), asyncio.Event()

        async def slow():
            yield A[:4]
            arrived.set()
            await release.wait()
            yield A[4:]

        async with asyncio.TaskGroup() as group:
            first = group.create_task(direct.acall("PATCH", location, slow()))
            await arrived.wait()
            second = await direct.acall("PUT", f"{location}?digest={oci.digest_of(A)}", A)
            release.set()
        return first.result(), second

    first, second = asyncio.run(go())
    assert (first.status, second.status) == (202, 416)
    assert direct.call("PUT", f"{location}?digest={oci.digest_of(A)}").status == 201


def test_a_sender_that_breaks_off_can_go_on_where_the_registry_stands(direct):
    location = start(direct)

    async def breaking():
        yield B[:10]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        direct.call("PATCH", location, breaking())
    stands = int(direct.call("GET", location).headers["range"].partition("-")[2])
    rest = B[stands + 1 :] if stands else B
    done = direct.call("PUT", f"{location}?digest={oci.digest_of(B)}", rest)
    assert done.status == 201


def test_an_upload_can_be_cancelled(direct):
    location = start(direct)
    assert direct.call("DELETE", location).status == 204
    for method in ("GET", "DELETE", "PATCH"):
        assert code(direct.call(method, location)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert code(direct.call("PATCH", "/v2/app/blobs/uploads/..%2f..%2fauth")) == (
        404,
        "BLOB_UPLOAD_UNKNOWN",
    )


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=0-4", 206, A[:5], "bytes 0-4/10"),
        ("bytes=6-", 206, A[6:], "bytes 6-9/10"),
        ("bytes=-4", 206, A[-4:], "bytes 6-9/10"),
        ("bytes=5-99", 206, A[5:], "bytes 5-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=0-1,4-5", 200, A, None),
        ("lines=1-2", 200, A, None),
    ],
)
def test_parts_of_a_blob(direct, asked, status, body, told):
    digest = direct.push_blob("app", A)["digest"]
    got = direct.call("GET", f"/v2/app/blobs/{digest}", range=asked)
    assert (got.status, got.body, got.headers.get("content-range")) == (status, body, told)


def test_an_empty_blob(direct):
    digest = direct.push_blob("app", b"")["digest"]
    got = direct.call("GET", f"/v2/app/blobs/{digest}")
    assert (got.status, got.body, got.headers["content-length"]) == (200, b"", "0")


def test_a_blob_belongs_to_the_repositories_it_was_pushed_to(direct):
    digest = direct.push_blob("app", A)["digest"]
    assert code(direct.call("GET", f"/v2/other/blobs/{digest}")) == (404, "BLOB_UNKNOWN")


def test_a_blob_is_mounted_from_another_repository(direct):
    digest = direct.push_blob("app", A)["digest"]
    made = direct.call("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=app")
    assert made.status == 201
    assert direct.call("GET", made.headers["location"]).body == A
    absent = direct.call("POST", f"/v2/other/blobs/uploads/?mount={MISSING}&from=app")
    assert absent.status == 202
    nowhere = direct.call("POST", f"/v2/third/blobs/uploads/?mount={digest}&from=../app")
    assert nowhere.status == 202
    assert direct.call("POST", f"/v2/third/blobs/uploads/?mount={digest}").status == 202


def test_a_deleted_blob_is_gone_from_its_repository_alone(direct):
    digest = direct.push_blob("app", A)["digest"]
    direct.push_blob("other", A)
    assert direct.call("DELETE", f"/v2/app/blobs/{digest}").status == 202
    assert code(direct.call("DELETE", f"/v2/app/blobs/{digest}")) == (404, "BLOB_UNKNOWN")
    assert direct.call("GET", f"/v2/other/blobs/{digest}").body == A


# -- end-3, end-7, end-9: manifests ---------------------------------------------------------------


def test_a_manifest_by_tag_and_by_digest(direct):
    digest = direct.push_image("app", "v1", A, B)
    for reference in ("v1", digest):
        got = direct.call("GET", f"/v2/app/manifests/{reference}")
        assert got.status == 200
        assert got.headers["content-type"] == oci.MANIFEST
        assert got.headers["docker-content-digest"] == digest
        head = direct.call("HEAD", f"/v2/app/manifests/{reference}")
        assert head.headers["content-length"] == str(len(got.body))
        assert head.body == b""
    assert oci.digest_of(got.body) == digest


def test_a_tag_moves_and_the_older_manifest_stays(direct):
    first = direct.push_image("app", "v1", A)
    second = direct.push_image("app", "v1", B)
    assert direct.call("GET", "/v2/app/manifests/v1").headers["docker-content-digest"] == second
    assert direct.call("GET", f"/v2/app/manifests/{first}").status == 200


def test_a_manifest_whose_parts_are_missing_is_refused(direct):
    config = direct.push_blob("app", b"{}")
    absent = {"mediaType": oci.LAYER, "digest": MISSING, "size": 3}
    data = json.dumps(image(config, [absent])).encode()
    put = direct.call("PUT", "/v2/app/manifests/v1", data, content_type=oci.MANIFEST)
    assert code(put) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert MISSING in json.loads(put.body)["errors"][0]["message"]
    index = {"schemaVersion": 2, "manifests": [{**absent, "mediaType": oci.MANIFEST}]}
    put = direct.call(
        "PUT", "/v2/app/manifests/v1", json.dumps(index).encode(), content_type=oci.INDEX
    )
    assert code(put) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert direct.call("GET", "/v2/app/manifests/v1").status == 404


def test_a_layer_kept_elsewhere_need_not_be_here(direct):
    config = direct.push_blob("app", b"{}")
    foreign = {"digest": MISSING, "size": 3, "urls": ["https://example.com/layer"]}
    direct.push_manifest("app", "v1", image(config, [foreign]))


@pytest.mark.parametrize("kind", [oci.DOCKER_MANIFEST, oci.MANIFEST])
def test_indexes_and_dockers_own_types(direct, kind):
    config, layer = direct.push_blob("app", b"{}"), direct.push_blob("app", A)
    content = {**image(config, [layer]), "mediaType": kind}
    child = direct.push_manifest("app", "one", content, kind)
    listing = oci.DOCKER_LIST if kind == oci.DOCKER_MANIFEST else oci.INDEX
    entry = {"mediaType": kind, "digest": child, "size": 1}
    index = {"schemaVersion": 2, "mediaType": listing, "manifests": [entry]}
    direct.push_manifest("app", "all", index, listing)
    assert direct.call("GET", "/v2/app/manifests/all").headers["content-type"] == listing


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"{", oci.MANIFEST),
        (b"[]", oci.MANIFEST),
        (b"{}", oci.MANIFEST),
        (b'{"schemaVersion":1}', oci.MANIFEST),
        (b'{"schemaVersion":2}', "text/plain"),
        (b'{"schemaVersion":2}', ""),
        (b'{"schemaVersion":2,"mediaType":"application/x"}', oci.MANIFEST),
        (b'{"schemaVersion":2,"layers":7}', oci.MANIFEST),
        (b'{"schemaVersion":2,"layers":[{}]}', oci.MANIFEST),
        (b'{"schemaVersion":2,"config":{"digest":"x","size":1}}', oci.MANIFEST),
        (b'{"schemaVersion":2,"manifests":[],"layers":[]}', oci.INDEX),
        (b'{"schemaVersion":2,"manifests":[]}', oci.MANIFEST),
        (b'{"schemaVersion":2,"subject":{"digest":"x"}}', oci.MANIFEST),
    ],
)
def test_a_malformed_manifest_is_refused(direct, data, kind):
    put = direct.call("PUT", "/v2/app/manifests/v1", data, content_type=kind)
    assert code(put) == (400, "MANIFEST_INVALID")


def test_a_manifest_larger_than_four_mebibytes_is_refused(direct):
    data = b'{"schemaVersion":2,"annotations":{"a":"' + b"x" * oci.MANIFEST_LIMIT + b'"}}'
    put = direct.call("PUT", "/v2/app/manifests/v1", data, content_type=oci.MANIFEST)
    assert code(put) == (413, "SIZE_INVALID")


def test_a_manifest_under_another_digest_or_a_bad_tag_is_refused(direct):
    data = b'{"schemaVersion":2}'
    for reference, expected in [
        (MISSING, "DIGEST_INVALID"),
        ("-tag", "MANIFEST_INVALID"),
        ("x" * 129, "MANIFEST_INVALID"),
    ]:
        put = direct.call("PUT", f"/v2/app/manifests/{reference}", data, content_type=oci.MANIFEST)
        assert code(put) == (400, expected)


def test_deleting_a_tag_keeps_the_manifest_and_deleting_that_takes_its_tags(direct):
    digest = direct.push_image("app", "v1", A)
    direct.push_image("app", "v2", A)
    assert direct.call("DELETE", "/v2/app/manifests/v1").status == 202
    assert code(direct.call("GET", "/v2/app/manifests/v1")) == (404, "MANIFEST_UNKNOWN")
    assert direct.call("GET", "/v2/app/manifests/v2").status == 200
    assert direct.call("DELETE", f"/v2/app/manifests/{digest}").status == 202
    assert direct.call("GET", "/v2/app/manifests/v2").status == 404
    assert direct.call("GET", f"/v2/app/manifests/{digest}").status == 404
    assert code(direct.call("DELETE", f"/v2/app/manifests/{digest}")) == (404, "MANIFEST_UNKNOWN")
    assert json.loads(direct.call("GET", "/v2/app/tags/list").body)["tags"] == []


# -- end-8: listings ------------------------------------------------------------------------------


def follow(direct, path, key):
    """Every page, by the links between them."""
    pages = []
    while path:
        answer = direct.call("GET", path)
        pages.append(json.loads(answer.body)[key])
        link = answer.headers.get("link", "")
        path = link[1 : link.index(">")] if link else ""
        assert not link or link.endswith('; rel="next"')
    return pages


def test_tags_are_listed_in_order_page_by_page(direct):
    for tag in ("c", "a", "b", "B"):
        direct.push_image("app", tag, A)
    assert follow(direct, "/v2/app/tags/list", "tags") == [["B", "a", "b", "c"]]
    assert follow(direct, "/v2/app/tags/list?n=3", "tags") == [["B", "a", "b"], ["c"]]
    assert follow(direct, "/v2/app/tags/list?n=2", "tags") == [["B", "a"], ["b", "c"]]
    assert follow(direct, "/v2/app/tags/list?last=a", "tags") == [["b", "c"]]
    assert follow(direct, "/v2/app/tags/list?n=0", "tags") == [[]]
    assert json.loads(direct.call("GET", "/v2/app/tags/list").body)["name"] == "app"
    assert code(direct.call("GET", "/v2/none/tags/list")) == (404, "NAME_UNKNOWN")
    for bad in ("x", "-1", "²", ""):
        assert direct.call("GET", f"/v2/app/tags/list?n={bad}").status == 400


def test_the_catalog_lists_repositories_page_by_page(direct):
    for repository in ("b/c/d", "a", "b", "docker.io/library/x"):
        direct.push_image(repository, "v1", A)
    expected = ["a", "b", "b/c/d", "docker.io/library/x"]
    assert follow(direct, "/v2/_catalog", "repositories") == [expected]
    assert follow(direct, "/v2/_catalog?n=3", "repositories") == [expected[:3], expected[3:]]


# -- end-12: referrers ----------------------------------------------------------------------------


def test_referrers_are_listed_filtered_and_forgotten(direct):
    subject = direct.push_image("app", "v1", A)
    about = {"mediaType": oci.MANIFEST, "digest": subject, "size": 1}
    config = direct.push_blob("app", b"{}")
    sbom = image(config, [], subject=about, artifactType="x/sbom", annotations={"by": "me"})
    data = json.dumps(sbom).encode()
    digest = oci.digest_of(data)
    made = direct.call("PUT", f"/v2/app/manifests/{digest}", data, content_type=oci.MANIFEST)
    assert made.headers["oci-subject"] == subject
    direct.push_manifest("app", "sig", image(config, [], subject=about))

    listed = direct.call("GET", f"/v2/app/referrers/{subject}")
    assert listed.headers["content-type"] == oci.INDEX
    found = {each["digest"]: each for each in json.loads(listed.body)["manifests"]}
    assert found[digest] == {
        "mediaType": oci.MANIFEST, "digest": digest, "size": len(data),
        "artifactType": "x/sbom", "annotations": {"by": "me"},
    }  # fmt: skip
    assert {each["artifactType"] for each in found.values()} == {"x/sbom", oci.CONFIG}
    chosen = direct.call("GET", f"/v2/app/referrers/{subject}?artifactType=x/sbom")
    assert [each["digest"] for each in json.loads(chosen.body)["manifests"]] == [digest]
    assert chosen.headers["oci-filters-applied"] == "artifactType"
    direct.call("DELETE", f"/v2/app/manifests/{digest}")
    left = json.loads(direct.call("GET", f"/v2/app/referrers/{subject}").body)["manifests"]
    assert digest not in [each["digest"] for each in left]


def test_nothing_refers_to_what_is_not_there(direct):
    none = direct.call("GET", f"/v2/app/referrers/{MISSING}")
    assert (none.status, json.loads(none.body)["manifests"]) == (200, [])
    assert code(direct.call("GET", "/v2/app/referrers/junk")) == (400, "DIGEST_INVALID")


# -- the rest -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["App", "a//b", "a/../b", "-a", "a_", "_catalog/x", "a..b", "x" * 256, "a/_tags"]
)
def test_malformed_names_are_refused(direct, name):
    answer = direct.call("GET", f"/v2/{name}/manifests/v1")
    # Empty and dot segments of a path are no names either, however they are read.
    assert (answer.status, b"errors" in answer.body) in ((400, True), (404, True))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/"),
        ("PUT", "/v2/app/tags/list"),
        ("POST", f"/v2/app/blobs/{MISSING}"),
        ("GET", "/v2/app/blobs/uploads/"),
        ("PATCH", "/v2/app/manifests/v1"),
        ("GET", "/v2/app"),
        ("GET", "/v1/search"),
    ],
)
def test_what_the_specification_does_not_have_is_unsupported(direct, method, path):
    assert code(direct.call(method, path)) == (405, "UNSUPPORTED")


def test_everything_is_there_after_a_restart(direct):
    digest = direct.push_image("app", "v1", A)
    location = start(direct)
    direct.call("PATCH", location, B[:10])
    again = Direct(direct.home)
    assert again.call("GET", "/v2/app/manifests/v1").headers["docker-content-digest"] == digest
    assert again.call("GET", location).headers["range"] == "0-9"
    assert again.call("PUT", f"{location}?digest={oci.digest_of(B)}", B[10:]).status == 201


def test_a_blob_lost_from_the_disk_is_unknown_and_not_an_error_of_the_server(direct):
    data = A + b"x" * 20_000
    digest = direct.push_blob("app", data)["digest"]
    (file,) = (direct.home.registry / "blobs").rglob(f"{digest.partition(':')[2]}.*")
    file.unlink()
    assert code(direct.call("GET", f"/v2/app/blobs/{digest}")) == (404, "BLOB_UNKNOWN")
    direct.push_blob("app", data)
    assert direct.call("GET", f"/v2/app/blobs/{digest}").body == data


def test_a_tag_that_another_process_moves_or_deletes_is_not_answered_from_memory(direct):
    first = direct.push_image("app", "v1", b"a")
    second = direct.push_image("app", "v2", b"b")

    def digest():
        answer = direct.call("GET", "/v2/app/manifests/v1")
        return answer.headers.get("docker-content-digest"), answer.status

    assert digest() == digest() == (first, 200)
    other = Storage(direct.home.registry)  # as another process has it
    other.put_manifest("app", other.manifest("app", second), tags=["v1"])
    assert digest() == digest() == (second, 200)
    other.delete_tag("app", "v1")
    assert digest() == (None, 404)
    path = f"/v2/app/manifests/{first}"
    assert direct.call("GET", path).status == direct.call("GET", path).status == 200
    other.delete_manifest("app", first)
    assert direct.call("GET", path).status == 404


def test_an_upload_goes_on_after_a_restart(direct):
    location = start(direct)
    direct.call("PATCH", location, B[:10])
    again = Direct(direct.home)
    assert again.call("PATCH", location, B[10:], content_range=f"10-{len(B) - 1}").status == 202
    wrong = again.call("PUT", f"{start(again)}?digest={oci.digest_of(B)}", A)
    assert code(wrong) == (400, "DIGEST_INVALID")
    assert again.call("PUT", f"{location}?digest={oci.digest_of(B)}").status == 201
    assert again.call("GET", f"/v2/app/blobs/{oci.digest_of(B)}").body == B


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_several_tags_by_one_push_by_digest(direct, algorithm):
    config = direct.push_blob("app", b"{}")
    data = json.dumps(image(config, [])).encode()
    digest = oci.digest_of(data, algorithm)
    path = f"/v2/app/manifests/{digest}?tag=1&tag=1.2"
    made = direct.call("PUT", path, data, content_type=oci.MANIFEST)
    assert (made.status, made.headers["oci-tag"]) == (201, "1, 1.2")
    for reference in ("1", "1.2", digest):
        got = direct.call("GET", f"/v2/app/manifests/{reference}")
        assert (got.body, got.headers["docker-content-digest"]) == (data, digest)
    for more in ("?tag=..", "?" + "&".join(f"tag=t{number}" for number in range(101))):
        refused = direct.call(
            "PUT", f"/v2/app/manifests/{digest}{more}", data, content_type=oci.MANIFEST
        )
        assert code(refused) == (400, "MANIFEST_INVALID")


def test_a_blob_is_mounted_from_anywhere_in_its_project(direct):
    direct.push_blob("team/app", A)
    for repository, expected in (("team/copy", 201), ("elsewhere/app", 202)):
        path = f"/v2/{repository}/blobs/uploads/?mount={oci.digest_of(A)}"
        assert direct.call("POST", path).status == expected
    assert direct.call("GET", f"/v2/team/copy/blobs/{oci.digest_of(A)}").body == A
