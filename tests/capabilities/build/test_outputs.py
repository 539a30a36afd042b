"""What ``underway build`` takes and gives besides a Dockerfile and a digest."""

import io
import json
import os
import subprocess
import tarfile

import pytest
from click.testing import CliRunner

from underway.base.errors import BadRequest, Conflict, NotFound
from underway.capabilities.build.backend import garbage
from underway.capabilities.build.cli import build
from underway.capabilities.build.cli_builds import builds, seconds, size
from underway.linux.images import ImageStore
from underway.linux.layers import LayerStore

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and mounts need root"),
]
SECRET = "hunter2-tr0ub4dor"  # what must not be found anywhere


def underway_build(yard, *arguments, stdin=None, **environment):
    environment = {"UNDERWAY_HOME": str(yard.home.root), **environment}
    return CliRunner().invoke(build, list(arguments), env=environment, input=stdin)


def names(root):
    return sorted(path.name for path in root.iterdir())


def inspect(name):
    shown = subprocess.run(["skopeo", "inspect", name], check=True, capture_output=True)
    return json.loads(shown.stdout)


def test_each_kind_of_output_holds_the_image(yard, tmp_path):
    yard.put("Dockerfile", "FROM scratch\nCOPY --chmod=600 f /d/f\nCOPY f /d/g\n")
    yard.put("f", "text")
    out = tmp_path / "out"
    done = underway_build(
        yard, str(yard.context), "-t", "one:1", "-t", "two:2",
        "-o", f"type=oci,dest={out}/oci.tar", "-o", f"type=docker,dest={out}/docker.tar",
        "-o", f"type=tar,dest={out}/files.tar", "-o", str(out / "files"),
        "--output", f"type=oci,tar=false,dest={out}/layout",
        "--metadata-file", str(tmp_path / "meta"), "--iidfile", str(tmp_path / "iid"),
        "--progress=quiet", "--platform", "linux/amd64",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    digest = done.output.strip()
    assert (tmp_path / "iid").read_text() == digest
    meta = json.loads((tmp_path / "meta").read_text())
    assert meta["containerimage.digest"] == meta["containerimage.descriptor"]["digest"] == digest
    assert meta["image.name"] == "docker.io/library/one:1,docker.io/library/two:2"
    assert inspect(f"oci:{out}/layout:1")["Digest"] == digest
    assert inspect(f"oci-archive:{out}/oci.tar:2")["Digest"] == digest
    assert len(inspect(f"docker-archive:{out}/docker.tar:two:2")["Layers"]) == 2
    assert ((out / "files/d/f").read_text(), (out / "files/d/f").stat().st_mode & 0o777) == (
        "text", 0o600,
    )  # fmt: skip
    with tarfile.open(out / "files.tar") as archive:
        assert archive.getnames() == ["d", "d/f", "d/g"]
    assert not list(out.glob(".*"))
    assert yard.image("docker.io/library/two:2").digest == digest


def test_a_tar_goes_to_standard_output(yard):
    yard.put("Dockerfile", "FROM scratch\nCOPY f /f\n")
    yard.put("f", "text")
    done = underway_build(yard, str(yard.context), "-q", "-o", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout_bytes)) as archive:
        assert archive.getnames() == ["f"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--platform", "windows/amd64"], "not linux/ARCHITECTURE"),
        (["--cache-to", "type=s3,bucket=x"], "registry, local and inline"),
        (["--cache-from", "type=registry"], "needs ref="),
        (["--allow", "everything"], "security.insecure"),
        (["--ssh", "default=/no/such"], "no agent's socket"),
        (["--attest", "type=poem"], "sbom, provenance"),
        (["--step-timeout", "soon"], "no duration"),
        (["-o", "type=oci,dest=x,compression=lzma"], "gzip or zstd"),
        (["--annotation", "x"], "NAME=VALUE"),
        (["--load", "--push"], "choose one"),
        (["-o", "type=zip,dest=x"], "the types are"),
        (["-o", "type=oci"], "needs dest"),
        (["-o", "type=registry"], "without a tag"),
        (["--build-context", "x"], "must be NAME=PATH"),
        (["--build-context", "x=/no/such"], "is no directory"),
        (["--build-context", "x=https://y"], "not supported"),
        (["--secret", "id=x,src=/no/such"], "exists"),
        (["--secret", "id=x,env=NO_SUCH"], "exists"),
    ],
)
def test_what_cannot_be_done_is_refused(yard, arguments, message):
    yard.put("Dockerfile", "FROM scratch\n")
    done = underway_build(yard, str(yard.context), *arguments)
    assert isinstance(done.exception, BadRequest)
    assert message in done.exception.message


def test_dockerfile_and_context_come_from_standard_input(yard):
    yard.put("f", "text")
    done = underway_build(
        yard,
        str(yard.context),
        "-f",
        "-",
        "-t",
        "a:1",
        "--no-push",
        stdin="FROM scratch\nCOPY f /\n",
    )
    assert done.exit_code == 0, done.output
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("f"))
        text = b"FROM scratch\nCOPY . /\n"
        info = tarfile.TarInfo("sub/My.Dockerfile")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    done = underway_build(
        yard, "-", "-f", "sub/My.Dockerfile", "-t", "b:1", "--no-push", stdin=packed.getvalue()
    )
    assert done.exit_code == 0, done.output
    assert yard.look(names, "docker.io/library/b:1") == ["f", "sub"]


def test_named_contexts_stand_for_directories_layouts_and_images(yard, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/x").write_text("one")
    yard.put("base/Dockerfile", "FROM busybox\nRUN echo based > /b\n")
    layout = f"{tmp_path}/layout"
    underway_build(yard, str(yard.context / "base"), "-o", f"type=oci,tar=false,dest={layout}")
    yard.put("Dockerfile", "FROM base\nCOPY --from=more x /x\nCOPY --from=other /bin/sh /sh2\n")
    contexts = [
        "--build-context", f"more={tmp_path}/more",
        "--build-context", f"base=oci-layout://{layout}",
        "--build-context", "other=docker-image://busybox",
    ]  # fmt: skip
    arguments = [str(yard.context), "-t", "n:1", "--no-push", *contexts]
    done = underway_build(yard, *arguments)
    assert done.exit_code == 0, done.output
    name = "docker.io/library/n:1"
    assert (yard.read("/x", name), yard.read("/b", name)) == ("one", "based\n")
    os.utime(tmp_path / "more/x", (1, 1))
    again = underway_build(yard, *arguments, "--no-cache")
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    (tmp_path / "more/x").write_text("two")
    underway_build(yard, *arguments)
    assert yard.read("/x", name) == "two"


def test_each_dockerfile_may_have_its_own_ignore_file(yard):
    yard.write(a="1", b="2")
    yard.put("One.Dockerfile", "FROM scratch\nCOPY a* b* /\n")
    yard.put("One.Dockerfile.dockerignore", "b\n")
    yard.put(".dockerignore", "a\n")
    arguments = [str(yard.context), "-f", str(yard.context / "One.Dockerfile"), "--no-push"]
    done = underway_build(yard, *arguments, "-t", "i:1")
    assert isinstance(done.exception, NotFound)  # b is left out, as its own file says
    yard.put("One.Dockerfile", "FROM scratch\nCOPY [ab] /\n")
    underway_build(yard, *arguments, "-t", "i:1")
    assert yard.look(names, "docker.io/library/i:1") == ["a"]


def test_parents_keep_what_stands_behind_the_mark_and_are_part_of_the_key(yard):
    for name in ("a/x/f", "b/x/f"):
        yard.put(name, "same")
    text = "FROM scratch\nCOPY --link --parents {} /d/\n"

    def placed(word):
        yard.build(text.format(word))
        return yard.look(lambda r: [str(p.relative_to(r)) for p in r.rglob("f")])

    assert placed("a/x/f") == ["d/a/x/f"]
    assert placed("b/x/f") == ["d/b/x/f"]
    assert placed("./a/./x/f") == ["d/x/f"]
    assert placed("a/./x") == ["d/x/f"]


def test_what_is_most_likely_not_meant_is_warned_about(yard):
    yard.build("FROM busybox AS Base\nENV X=$NONE P=$PATH\nCMD echo\n")
    warnings = [line for line in yard.told if line.startswith("warning")]
    assert [line.rpartition("(")[2] for line in warnings] == [
        "StageNameCasing)", "JSONArgsRecommended)", "UndefinedVar)",
    ]  # fmt: skip
    assert "Dockerfile:2: $NONE" in warnings[2]


def test_secrets_reach_no_layer_history_cache_or_log(yard, tmp_path):
    (tmp_path / "file").write_text(f"{SECRET}\n")
    yard.put(
        "Dockerfile",
        "FROM busybox\n"
        "RUN --mount=type=secret,id=f --mount=type=secret,id=v,env=V "
        'cat /run/secrets/f && echo "$V" && test "$V" = "$(cat /run/secrets/f)"\n'
        "RUN --mount=type=secret,id=f ! test -s /run/secrets/none; env > /env\n"
        "RUN test ! -e /run/secrets\n",
    )
    secrets = ["--secret", f"id=f,src={tmp_path}/file", "--secret", "id=v,env=TOKEN"]
    arguments = [str(yard.context), *secrets, "-o", f"type=oci,dest={tmp_path}/image.tar"]
    done = underway_build(yard, *arguments, TOKEN=SECRET)
    assert done.exit_code == 0, done.output
    assert done.output.count("  ***\n") == 2
    yard.put(
        "Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=f cat /run/secrets/f; exit 3\n"
    )
    failed = underway_build(yard, *arguments, TOKEN=SECRET)
    assert "***" in failed.exception.message
    for text in (done.output, failed.output, failed.exception.message):
        assert SECRET not in text
    wanted = SECRET.encode()
    for path in (*yard.home.root.rglob("*"), tmp_path / "image.tar"):
        assert SECRET not in path.name
        if path.is_file() and not path.is_symlink():
            assert wanted not in path.read_bytes(), path
    for blob in (yard.home.builds / "blobs").iterdir():
        plain = subprocess.run(["gzip", "-dc", blob], capture_output=True, check=True).stdout
        assert wanted not in plain


def test_another_secret_does_not_change_what_the_cache_knows(yard, tmp_path):
    text = "FROM busybox\nRUN --mount=type=secret,id=f cat /run/secrets/f | wc -c > /n\n"
    for content, cached in (("one", 0), ("other", 1)):
        (tmp_path / "f").write_text(content)
        assert yard.build(text, secrets={"f": tmp_path / "f"}).steps_cached == cached
    assert yard.read("/n") == "3\n"


def prune(yard, *arguments):
    done = CliRunner().invoke(
        builds, ["prune", *arguments], env={"UNDERWAY_HOME": str(yard.home.root)}
    )
    if done.exception:
        raise done.exception
    return done.output


def test_pruning_removes_what_nothing_needs_and_keeps_images_whole(yard):
    kept, gone = "FROM busybox\nRUN echo kept > /k\n", "FROM busybox\nRUN echo gone > /g\n"
    yard.build(kept, tag="kept:1")
    yard.build(gone, tag="gone:1")
    blobs = yard.home.builds / "blobs"
    before = len(list(blobs.iterdir()))
    assert "removed 0 steps" in prune(yard, "--older-than", "1h")
    assert yard.build(gone, tag="gone:1").steps_cached == 1
    out = prune(yard, "--all", "--image", "gone:1")
    assert "removed 2 steps, 1 images, 1 unpacked layers" in out
    assert len(list(blobs.iterdir())) == before - 1
    assert yard.read("/k", "docker.io/library/kept:1") == "kept\n"
    assert yard.image("docker.io/library/gone:1") is None
    assert yard.build(gone, tag="gone:1").steps_cached == 0
    assert yard.read("/g", "docker.io/library/gone:1") == "gone\n"
    shown = CliRunner().invoke(builds, ["usage"], env={"UNDERWAY_HOME": str(yard.home.root)})
    assert "docker.io/library/gone:1" in shown.output


def test_layers_a_pod_may_run_from_are_kept_without_a_name(yard):
    yard.build("FROM busybox\nRUN echo pod > /p\n", tag="pod:1")
    layers, name = LayerStore(yard.home.layers), "docker.io/library/pod:1"
    image = yard.image(name)
    documents = yard.home.builds / "images" / "sha256"
    manifest = (documents / image.digest[7:]).read_bytes()
    config = (documents / image.manifest["config"]["digest"][7:]).read_bytes()
    node = ImageStore(yard.home.layers / "images", layers)
    node.add(name, manifest, config)
    node.remove(name)
    prune(yard, "--all", "--image", "pod:1")
    assert all(map(layers.has, image.diff_ids))


def test_pruning_to_a_size_keeps_what_was_used_last(yard):
    big = "FROM busybox\nRUN head -c 300000 /dev/urandom > /{}\n"
    for name in ("old", "new"):
        yard.build(big.format(name), tag=f"{name}:1")
    for path in (yard.home.builds / "steps").glob("??/*"):
        os.utime(path, (1, 1))
    yard.build(big.format("new"), tag="new:1")
    prune(yard, "--keep-storage", "400kB")
    assert yard.build(big.format("new"), tag="new:1").steps_cached == 1
    assert yard.build(big.format("old"), tag="old:1").steps_cached == 0


def test_nothing_is_pruned_while_a_build_runs(yard):
    with garbage.in_use(yard.home), pytest.raises(Conflict, match="a build is running"):
        prune(yard, "--all")
    with pytest.raises(BadRequest, match="nothing to remove"):
        prune(yard)


def test_sizes_and_durations():
    assert (size("500MB"), size("2GiB"), size("10")) == (500_000_000, 2 << 30, 10)
    assert (seconds("90m"), seconds("7d")) == (5400, 604_800)
    for read, text in ((size, "x"), (seconds, "7")):
        with pytest.raises(BadRequest):
            read(text)
