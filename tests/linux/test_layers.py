"""Layers between tar streams and overlay directories, on the real kernel."""

import gzip
import hashlib
import io
import os
import stat
import tarfile
import threading
from pathlib import Path

import pytest
import zstandard

from underway.base.errors import BadRequest
from underway.linux import mounts
from underway.linux.layers import LayerStore, Mtimes

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and mounts need root"),
]

TAR = "application/vnd.oci.image.layer.v1.tar"
GZIP = TAR + "+gzip"
EPOCH = 1_577_836_800


def entry(name, data=None, **fields):
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    if data is not None:
        info.size = len(data)
    return info, data


def tar(*entries, **options):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data) if data is not None else None)
    return out.getvalue()


def directory(name, **fields):
    return entry(name, type=tarfile.DIRTYPE, **{"mode": 0o755, **fields})


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def unpack(store, data):
    return store.unpack(digest(data), [data], TAR)


@pytest.fixture
def store(tmp_path):
    return LayerStore(tmp_path / "layers")


def test_metadata_survives_unpacking(store):
    capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\xff\xfe\x00\x00\x00\x00\x00\x00"
    raw = capability.decode("utf-8", "surrogateescape")
    tree = unpack(
        store,
        tar(
            directory("d/", mode=0o1777, uid=5, mtime=50),
            entry("d/su", b"x" * 3000, mode=0o4755, uid=7, gid=8, mtime=1234),
            entry("d/hard", type=tarfile.LNKTYPE, linkname="d/su"),
            entry("d/soft", type=tarfile.SYMTYPE, linkname="/etc/passwd", uid=9, mtime=7),
            entry("d/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            entry("d/pipe", type=tarfile.FIFOTYPE),
            entry("cap", b"z", pax_headers={"SCHILY.xattr.security.capability": raw}),
            entry("long/" + "n" * 200 + "é", b"l"),
            format=tarfile.PAX_FORMAT,
        ),
    )
    status = (tree / "d/su").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o4755, 7, 8)
    assert status.st_mtime == 1234
    assert status.st_nlink == 2
    assert stat.S_IMODE((tree / "d").stat().st_mode) == 0o1777
    assert (tree / "d").stat().st_mtime == 50
    assert (tree / "d/soft").readlink() == Path("/etc/passwd")
    assert (tree / "d/soft").lstat().st_uid == 9
    assert (tree / "d/null").stat().st_rdev == os.makedev(1, 3)
    assert (tree / "d/pipe").is_fifo()
    assert os.getxattr(tree / "cap", "security.capability")[:12] == capability[:12]
    assert (tree / "long" / ("n" * 200 + "é")).read_bytes() == b"l"


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../out", b"x")],
        [entry("a/../../out", b"x")],
        [entry("link", type=tarfile.SYMTYPE, linkname="/tmp"), entry("link/out", b"x")],
        [entry("hard", type=tarfile.LNKTYPE, linkname="../../etc/passwd")],
        [entry("hard", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
        [
            entry("link", type=tarfile.SYMTYPE, linkname="/etc"),
            entry("hard", type=tarfile.LNKTYPE, linkname="link/passwd"),
        ],
        [entry("dev", type=tarfile.CHRTYPE)],
        [entry(".wh...", b"")],
        [entry("n" * 300, b"")],
    ],
)
def test_an_entry_that_leads_out_of_the_layer_is_refused(store, tmp_path, entries):
    data = tar(*entries)
    with pytest.raises(BadRequest):
        unpack(store, data)
    assert not store.has(digest(data))
    assert not list((tmp_path / "layers" / "scratch").iterdir())


def test_a_stream_that_is_not_the_promised_one_is_refused(store):
    data = tar(entry("a", b"x"))
    with pytest.raises(BadRequest, match="in truth"):
        store.unpack("sha256:" + "0" * 64, [data], TAR)
    with pytest.raises(BadRequest, match="tar"):
        store.unpack(digest(b"junk" * 300), [b"junk" * 300], TAR)
    with pytest.raises(BadRequest, match="gzip"):
        store.unpack(digest(data), [gzip.compress(data)[:-9]], GZIP)
    with pytest.raises(BadRequest):
        store.unpack("sha256:../../x", [data], TAR)


@pytest.mark.parametrize(
    ("kind", "pack"),
    [
        (GZIP, gzip.compress),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip.compress),
        (GZIP, lambda d: gzip.compress(d[:700]) + gzip.compress(d[700:])),
        (TAR + "+zstd", zstandard.ZstdCompressor().compress),
        (TAR, bytes),
    ],
)
def test_every_compression_unpacks_from_small_chunks(store, kind, pack):
    data = tar(entry("big", os.urandom(5000) + bytes(3_000_000)), entry("a", b"x"))
    packed = pack(data)
    chunks = [packed[i : i + 999] for i in range(0, len(packed), 999)]
    tree = store.unpack(digest(data), chunks, kind)
    assert (tree / "big").stat().st_size == 3_005_000
    assert store.has(digest(data))


def test_one_chunk_may_hold_much_more_than_fits_memory_at_once(store):
    data = tar(entry("zeros", bytes(40_000_000)))
    packed = gzip.compress(data)
    for cut in (len(packed), len(packed) - 8, len(packed) - 1, 20):
        tree = store.unpack(digest(data), [packed[:cut], packed[cut:]], GZIP)
        assert (tree / "zeros").stat().st_size == 40_000_000
        store.remove(digest(data))
        assert not store.has(digest(data))


def test_whiteouts_hide_what_lies_below(store, tmp_path):
    base = tar(
        directory("d"), entry("d/a", b"1"), entry("d/b", b"1"), directory("e"), entry("e/x", b"1")
    )
    above = tar(
        entry("d/.wh.a", b""), directory("e"), entry("e/.wh..wh..opq", b""), entry("e/y", b"")
    )
    again = tar(entry(".wh.d", b""), directory("d"), entry("d/new", b""))
    for data in (base, above, again):
        unpack(store, data)
    point = tmp_path / "at"
    point.mkdir()

    def look(*layers):
        store.mount([digest(d) for d in layers], point)
        found = sorted(str(p.relative_to(point)) for p in point.rglob("*"))
        mounts.unmount(point)
        return found

    assert mounts.with_own_mounts(lambda: look(base, above)) == ["d", "d/b", "e", "e/y"]
    assert mounts.with_own_mounts(lambda: look(base, above, again)) == ["d", "d/new", "e", "e/y"]
    assert not os.path.ismount(point)


def change_and_commit(store, tmp_path, base, change, since_s=0.0):
    def work():
        with store.scratch() as scratch:
            root = scratch.root / "root"
            root.mkdir()
            store.mount([base], root, scratch.upper, scratch.work, volatile=True)
            change(root)
            mounts.unmount(root)
            return store.commit(scratch.upper, tmp_path / "blobs", Mtimes(EPOCH, since_s))

    return mounts.with_own_mounts(work)


def tree_of(root):
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFCHR and status.st_rdev == 0:
            found[str(path.relative_to(root))] = "whiteout"
            continue
        content = path.read_bytes() if kind == stat.S_IFREG else b""
        links = status.st_nlink if kind == stat.S_IFREG else 0
        found[str(path.relative_to(root))] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_mtime, links, content),
            path.readlink() if path.is_symlink() else "",
            sorted(
                (n, os.getxattr(path, n))
                for n in os.listxattr(path, follow_symlinks=False)
                if n.startswith(("security.cap", "user."))
            ),
        )
    return found


def test_a_committed_layer_unpacks_to_the_same_tree_elsewhere(store, tmp_path):
    base = tar(
        directory("d"), entry("d/a", b"1"), directory("gone"), entry("gone/x", b"1"),
        directory("anew"), entry("anew/old", b"1"), entry("kept", b"1", mtime=99),
    )  # fmt: skip
    unpack(store, base)

    def change(root):
        (root / "d/a").unlink()
        (root / "gone/x").unlink()
        (root / "gone").rmdir()
        (root / "anew/old").unlink()
        (root / "anew").rmdir()
        (root / "anew").mkdir()
        (root / "anew/new").write_bytes(b"n" * 700)
        os.link(root / "anew/new", root / "linked")
        (root / "soft").symlink_to("x" * 150)
        os.setxattr(root / "linked", "user.note", b"\xff\n=")
        (root / "linked").chmod(0o4711)
        (root / ("ü" * 90)).write_text("name")
        os.utime(root / "linked", (5.5, 5.5))
        os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.chown(root / "kept", 70_000_000, 3)

    since = 1_700_000_000.0
    layer = change_and_commit(store, tmp_path, digest(base), change, since)
    assert digest(layer.blob.read_bytes()) == layer.digest
    assert layer.blob.stat().st_size == layer.size_bytes

    other = LayerStore(tmp_path / "other")
    unpack(other, base)
    other.unpack(layer.diff_id, [layer.blob.read_bytes()], layer.media_type)
    assert tree_of(other.path(layer.diff_id)) == tree_of(store.path(layer.diff_id))
    names = tarfile.open(layer.blob).getnames()  # noqa: SIM115
    assert {"d/.wh.a", ".wh.gone", "anew/.wh..wh..opq"} <= set(names)
    assert (store.path(layer.diff_id) / "anew/new").stat().st_mtime == 5
    assert (store.path(layer.diff_id) / "soft").lstat().st_mtime == EPOCH

    point = tmp_path / "at"
    point.mkdir()

    def look(which):
        which.mount([digest(base), layer.diff_id], point)
        try:
            return tree_of(point)
        finally:
            mounts.unmount(point)

    seen = mounts.with_own_mounts(lambda: look(other))
    assert seen == mounts.with_own_mounts(lambda: look(store))
    assert "gone" not in seen
    assert "anew/old" not in seen


def test_the_same_change_gives_the_same_digest(store, tmp_path):
    base = tar(directory("d"))
    unpack(store, base)

    def one(root):
        for name in ("b", "a", "c"):
            (root / "d" / name).write_text(name)

    def two(root):
        for name in ("c", "b", "a"):
            (root / "d" / name).write_text(name)
            os.utime(root / "d" / name, (1.8e9, 1.8e9))

    first = change_and_commit(store, tmp_path, digest(base), one)
    second = change_and_commit(store, tmp_path, digest(base), two)
    assert (first.digest, first.diff_id) == (second.digest, second.diff_id)


def test_many_layers_with_long_paths_mount(tmp_path):
    store = LayerStore(tmp_path / ("long" * 40) / "layers")
    layers = [tar(entry(f"f{i}", b"x"), entry("top", b"%d" % i)) for i in range(128)]
    for data in layers:
        unpack(store, data)
    point = tmp_path / "at"
    point.mkdir()

    def look():
        store.mount([digest(d) for d in layers], point)
        try:
            return (point / "top").read_text(), len(list(point.iterdir()))
        finally:
            mounts.unmount(point)

    assert mounts.with_own_mounts(look) == ("127", 129)
    with pytest.raises(BadRequest, match="layers"):
        store.mount([digest(layers[0])] * 181, point)


def test_two_who_unpack_at_once_get_one_layer(store):
    data = tar(*(entry(f"f{i}", b"x") for i in range(300)))
    failures = []

    def work():
        try:
            assert len(list(unpack(store, data).iterdir())) == 300
        except BaseException as error:  # noqa: BLE001  # shown below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_layer_of_an_earlier_boot_counts_only_when_settled(store, tmp_path):
    data = tar(entry("a", b"x"))
    unpack(store, data)
    mark = store.path(digest(data)).parent / "boot"
    mark.write_text("another boot")
    assert not store.has(digest(data))
    unpack(store, data)
    store.settle()
    assert not mark.exists()
    assert store.has(digest(data))


def test_what_a_killed_process_left_is_removed_but_not_what_is_in_use(store, tmp_path):
    left = tmp_path / "layers/scratch/dead"
    (left / "upper/x").mkdir(parents=True)
    with store.scratch() as mine, store.scratch():
        assert not left.exists()
        assert mine.upper.is_dir()


def test_nobody_sweeps_a_directory_that_another_has_just_made(store):
    failures = []

    def work():
        try:
            for _ in range(30):
                with store.scratch() as scratch:
                    (scratch.upper / "x").write_text("x")
        except BaseException as error:  # noqa: BLE001  # shown below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_what_is_mounted_by_a_thread_of_its_own_is_gone_afterwards(tmp_path):
    def work():
        mounts.mount("tmpfs", tmp_path, "tmpfs")
        assert mounts.mounts_below(tmp_path) == [tmp_path]
        raise ValueError("and it fails")

    with pytest.raises(ValueError, match="fails"):
        mounts.with_own_mounts(work)
    assert mounts.mounts_below(tmp_path) == []
