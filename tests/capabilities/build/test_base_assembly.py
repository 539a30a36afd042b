"""Base images assembled from packages: of an archive made and signed here, and of Debian's own."""

import datetime
import email.utils
import hashlib
import io
import json
import os
import random
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from underway.base.clock import SystemClock
from underway.base.errors import BadRequest, NotFound, ServiceUnavailable
from underway.base.home import Home
from underway.capabilities.build.backend import bases
from underway.capabilities.build.backend.debian import archives, assembly
from underway.capabilities.build.backend.debian.archives import Archive
from underway.capabilities.build.backend.debian.linkcache import soname_of
from underway.capabilities.build.backend.debian.package import read
from underway.capabilities.build.backend.debian.unpacking import Tree
from underway.capabilities.build.backend.shelf import Shelf
from underway.capabilities.build.cli_base import base
from underway.capabilities.build.rules import declaration

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners and mounts need root"),
    pytest.mark.skipif(not shutil.which("apt-get"), reason="packages come from Debian's archives"),
]
HEAD = "apiVersion: base.underway.dev/v1alpha1\nkind: BaseImage\nmetadata: {name: x}\n"


def quiet(_):
    pass


def tar_of(entries, mode="w:xz"):
    """A tar of (name, kind, content or target) with hostile names as they are."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = kind, 0o755, 1_600_000_000
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = content
            data = content.encode() if kind == tarfile.REGTYPE else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def deb(name, entries, *, version="1", depends="", extra="", postinst="", plain=False):
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@x>\n"
    control += f"Depends: {depends}\n" if depends else ""
    control += f"{extra}Description: x\n"
    members = [("./control", tarfile.REGTYPE, control)]
    members += [("./postinst", tarfile.REGTYPE, postinst)] if postinst else []
    blob = b"!<arch>\n"
    mode, ending = ("w:", "") if plain else ("w:xz", ".xz")
    parts = {
        "debian-binary": b"2.0\n",
        f"control.tar{ending}": tar_of(members, mode),
        f"data.tar{ending}": tar_of(entries, mode),
    }
    for member, data in parts.items():
        blob += f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        blob += data + b"\n" * (len(data) % 2)
    return blob, control


def file(path, content="x\n"):
    return (f"./{path}", tarfile.REGTYPE, content)


def folder(path):
    return (f"./{path}", tarfile.DIRTYPE, "")


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """A key ring of its own, and its public half as a file."""
    ring = tmp_path_factory.mktemp("g")
    environment = {**os.environ, "GNUPGHOME": str(ring)}
    ring.chmod(0o700)
    making = [
        "gpg",
        "--batch",
        "--passphrase",
        "",
        "--quick-generate-key",
        "t@x",
        "ed25519",
        "sign",
    ]
    subprocess.run(making, env=environment, check=True, capture_output=True)
    public = ring / "public.gpg"
    subprocess.run(["gpg", "--export", "-o", public], env=environment, check=True)
    public.chmod(0o644)
    yield environment, public
    subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=True)


class Mirror:
    """An archive as a directory, signed or not."""

    def __init__(self, root, key):
        self.root, (self._environment, self._public) = root, key
        self._index = ""

    def add(self, blob, control):
        name = control.split("\n")[0].removeprefix("Package: ")
        path = self.root / f"pool/{name}_{hashlib.sha256(blob).hexdigest()[:6]}_all.deb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
        digest = hashlib.sha256(blob).hexdigest()
        self._index += f"{control.rstrip()}\nFilename: pool/{path.name}\nSize: {len(blob)}\nSHA256: {digest}\n\n"
        return path

    def drop(self):
        self._index = ""

    def publish(self, *, signed=True, valid_days=7):
        index = self.root / "dists/stable/main/binary-amd64/Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(self._index)
        data = index.read_bytes()
        now = SystemClock().now() - datetime.timedelta(days=10)
        until = email.utils.format_datetime(
            now + datetime.timedelta(days=10 + valid_days), usegmt=True
        )
        release = (
            f"Origin: x\nSuite: stable\nCodename: stable\nArchitectures: amd64\nComponents: main\n"
            f"Date: {email.utils.format_datetime(now, usegmt=True)}\nValid-Until: {until}\nSHA256:\n"
            f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/Packages\n"
        )
        target = self.root / "dists/stable/InRelease"
        if not signed:
            target.write_text(release)
            return self.source
        signing = ["gpg", "--batch", "--yes", "--clearsign", "-o", target]
        subprocess.run(
            signing, env=self._environment, input=release.encode(), check=True, capture_output=True
        )
        return self.source

    @property
    def source(self):
        return Archive(f"copy:{self.root}", "stable", "main", str(self._public))


@pytest.fixture
def mirror(tmp_path, key):
    made = Mirror(tmp_path / "mirror", key)
    made.add(*deb("lib-a", [folder("usr"), folder("usr/lib"), file("usr/lib/a")]))
    made.add(*deb(
        "tool-a", [folder("bin"), file("bin/tool", "#!/bin/sh\n"), folder("etc"), file("etc/tool.conf")],
        depends="lib-a",
        postinst="#!/bin/sh\ntouch /ran\n"
        "update-alternatives --install /usr/bin/t t /bin/tool 5\n",
    ))  # fmt: skip
    return made


def chain_of(text):
    return [declaration.resolve(HEAD + text, "x.yaml", "", lambda _: ("", ""))]


def locked(chain, source, tmp_path):
    return assembly.lock(chain, [source], tmp_path / "apt", quiet, settings="")


def assembled(chain, lock, source, home):
    shelf, stock = Shelf(Home(home)), archives.Packages(home / "debs")
    image = bases.Image()
    for at, one in enumerate(chain):
        image = assembly.assemble(
            one, at, lock, image, assembly.Stock([source], stock), shelf, 1_900_000_000.0, quiet
        )
    return image, shelf.layers.path(image.layers[-1].diff_id)


SPEC = (
    "spec:\n  packages: [tool-a]\n  users: [{name: me, uid: 7}]\n"
    "  paths:\n    - {path: /data/x, content: hi, mode: 0640, owner: me}\n"
    "    - {path: /link, type: symlink, target: data}\n    - {path: /etc/tool.conf, type: absent}\n"
    "  environment: {A: b}\n  entrypoint: [tool]\n  ports: [80, 53/udp]\n  volumes: [/data]\n"
)


def test_an_image_is_the_same_in_two_homes_and_runs_no_script(mirror, tmp_path):
    chain, source = chain_of(SPEC), mirror.publish()
    lock = locked(chain, source, tmp_path)
    assert [each.name for each in lock.packages()] == ["lib-a", "tool-a"]
    one, tree = assembled(chain, lock, source, tmp_path / "one")
    two, _ = assembled(chain, lock, source, tmp_path / "two")
    assert one.layers == two.layers
    assert not (tree / "ran").exists()
    assert (tree / "bin").readlink() == Path("usr/bin")
    assert (tree / "usr/bin/tool").read_text() == "#!/bin/sh\n"
    assert (tree / "usr/bin/t").readlink() == Path("/etc/alternatives/t")
    status = (tree / "data/x").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, 7, 7)
    assert (tree / "link").readlink() == Path("data")
    assert not (tree / "etc/tool.conf").exists()
    assert (tree / "var/lib/dpkg/status.d/tool-a").read_text().startswith("Package: tool-a\n")
    assert one.config["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert "A=b" in one.config["Env"]


def test_a_package_that_does_not_exist_is_named_with_file_and_line(mirror, tmp_path):
    source = mirror.publish()
    with pytest.raises(NotFound, match=r"x\.yaml:7: .*no-such-thing"):
        locked(chain_of("spec:\n  packages:\n    - lib-a\n    - no-such-thing\n"), source, tmp_path)


def test_packages_that_cannot_stand_together_are_refused_with_apts_reason(mirror, tmp_path):
    mirror.add(*deb("hostile", [file("x")], extra="Conflicts: lib-a\n"))
    source = mirror.publish()
    with pytest.raises(BadRequest, match="hostile"):
        locked(chain_of("spec: {packages: [tool-a, hostile]}\n"), source, tmp_path)


def test_an_index_that_was_changed_after_signing_is_refused(mirror, tmp_path):
    source = mirror.publish()
    index = mirror.root / "dists/stable/main/binary-amd64/Packages"
    index.write_text(index.read_text().replace("Version: 1", "Version: 2"))
    with pytest.raises(ServiceUnavailable, match=r"(?i)hash sum mismatch|unexpected size"):
        locked(chain_of(SPEC), source, tmp_path)


@pytest.mark.parametrize(
    ("how", "said"),
    [({"signed": False}, "not signed|NOSPLIT|signature"), ({"valid_days": -2}, "(?i)expired")],
)
def test_an_unsigned_or_expired_release_is_refused(mirror, tmp_path, how, said):
    source = mirror.publish(**how)
    with pytest.raises(ServiceUnavailable, match=said):
        locked(chain_of(SPEC), source, tmp_path)


def test_a_release_signed_by_another_key_is_refused(mirror, tmp_path):
    source = mirror.publish()
    other = Archive(source.uri, source.suite, "main", archives.KEYRING)
    with pytest.raises(ServiceUnavailable, match=r"NO_PUBKEY|not signed|public key"):
        locked(chain_of(SPEC), other, tmp_path)


def test_a_package_that_was_changed_is_refused_on_its_way_and_on_the_shelf(mirror, tmp_path):
    chain, source = chain_of(SPEC), mirror.publish()
    lock = locked(chain, source, tmp_path)
    path = mirror.root / lock.packages()[1].filename
    good = path.read_bytes()
    path.write_bytes(good.replace(b"debian-binary", b"debian-binarY"))
    with pytest.raises(ServiceUnavailable, match=r"(?i)hash sum mismatch"):
        assembled(chain, lock, source, tmp_path / "one")
    path.write_bytes(good)
    assembled(chain, lock, source, tmp_path / "one")
    digest = next(each.sha256 for each in lock.packages() if each.name == "tool-a")
    (tmp_path / "two/debs").mkdir(parents=True)
    (tmp_path / f"two/debs/{digest}.deb").write_bytes(good + b"x")
    with pytest.raises(ServiceUnavailable, match="was locked"):
        assembled(chain, lock, source, tmp_path / "two")


def test_what_stands_below_stays_and_is_shared(mirror, tmp_path):
    below, source = chain_of("spec: {packages: [lib-a]}\n"), mirror.publish()
    first = locked(below, source, tmp_path)
    chain = [*below, *chain_of(SPEC)]
    lock = assembly.lock(chain, [source], tmp_path / "apt", quiet, below=first, settings="")
    assert [each.name for each in lock.layers[1].packages] == ["tool-a"]
    image, tree = assembled(chain, lock, source, tmp_path / "one")
    assert len(image.layers) == 2
    assert not (tree / "usr/lib/a").exists()
    assert assembled(below, first, source, tmp_path / "two")[0].layers[0] == image.layers[0]


def test_a_base_kept_from_before_an_update_is_made_anew(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv(bases.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(archives, "of_machine", lambda _suite: [mirror.source])
    (tmp_path / "below.yaml").write_text(HEAD + "spec: {packages: [lib-a]}\n")
    (tmp_path / "top.yaml").write_text(HEAD + "base: below.yaml\nspec: {packages: [tool-a]}\n")
    stand_ins = bases.base_images(Home(tmp_path / "home"))
    below = bases.chain_of(str(tmp_path / "below.yaml"))
    mirror.publish()
    assert "lib-a 1 all" in (stand_ins.kept(below, quiet) / bases.PACKAGES_FILE).read_text()
    mirror.drop()
    mirror.add(*deb("lib-a", [file("usr/lib/a", "new")], version="2"))
    mirror.add(*deb("tool-a", [file("bin/tool")], depends="lib-a (>= 2)"))
    mirror.publish()
    made = stand_ins.kept(bases.chain_of(str(tmp_path / "top.yaml")), quiet)
    assert (made / bases.PACKAGES_FILE).read_text() == "lib-a 2 all\ntool-a 1 all\n"


def test_the_commands_lock_build_and_verify_and_refuse_a_lock_that_does_not_fit(
    mirror, tmp_path, monkeypatch
):
    monkeypatch.setenv("UNDERWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(bases.CACHE_VARIABLE, str(tmp_path / "cache"))
    source = mirror.publish()
    monkeypatch.setattr(archives, "of_machine", lambda _suite: [source])
    app, lock, out = tmp_path / "app.yaml", tmp_path / "app.lock.json", tmp_path / "out"
    app.write_text(HEAD + SPEC)

    def run(*words):
        return CliRunner().invoke(base, [*map(str, words)])

    assert "2 packages" in run("lock", app).stdout
    assert str(source.uri).encode() not in lock.read_bytes()
    before = lock.read_bytes()
    built = run("build", app, "-t", "app:1", "--output", f"type=oci,dest={out},tar=false", "-q")
    assert built.exit_code == 0, built.output
    assert lock.read_bytes() == before
    digest = built.stdout.strip()
    assert digest in (out / "index.json").read_text()
    sbom = json.loads(Path(f"{out}.cdx.json").read_bytes())
    assert {each["name"] for each in sbom["components"]} == {"debian", "lib-a", "tool-a"}
    checked = json.loads(run("verify", app, "-o", "json", "-q").stdout)
    assert (checked["digest"], checked["again"], checked["packages"]) == (digest, digest, 2)
    app.write_text(HEAD + SPEC.replace("A: b", "A: c"))
    refused = run("build", app, "-q").exception
    assert isinstance(refused, BadRequest)
    assert "another state" in refused.message


HOSTILE = {
    "above": [file("../outside")],
    "absolute-link": [("./x", tarfile.LNKTYPE, "../../etc/passwd")],
    "missing-link": [("./x", tarfile.LNKTYPE, "./nowhere")],
    "device": [("./dev", tarfile.CHRTYPE, "")],
    "circle": [("./a", tarfile.SYMTYPE, "b"), ("./b", tarfile.SYMTYPE, "a"), file("a/x")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_package_that_leads_out_of_the_tree_is_refused(name, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(BadRequest, match="evil"):
        Tree(root).unpack([read(deb("evil", HOSTILE[name])[0], "evil 1")])
    assert not (tmp_path / "outside").exists()


def test_links_to_directories_are_followed_within_the_tree_only(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    entries = [
        ("./abs", tarfile.SYMTYPE, str(outside)), file("abs/x"),
        ("./up", tarfile.SYMTYPE, "../../../../.." + str(outside)), file("up/y"),
    ]  # fmt: skip
    Tree(root).unpack([read(deb("evil", entries)[0], "evil 1")])
    assert list(outside.iterdir()) == []
    assert (root / str(outside).lstrip("/") / "x").is_file()
    assert (root / str(outside).lstrip("/") / "y").is_file()


def test_two_packages_with_the_same_file_are_refused_unless_one_replaces(tmp_path):
    def unpack(root, *packages):
        root.mkdir()
        tree = Tree(root)
        tree.unpack(read(each[0], name) for each, name in packages)
        return (root / "f").read_text()

    one, two = deb("one", [file("f", "1")]), deb("two", [file("f", "2")])
    heir = deb("heir", [file("f", "3")], extra="Replaces: one (<< 2)\n")
    with pytest.raises(BadRequest, match=r"/f is in one too"):
        unpack(tmp_path / "a", (one, "one"), (two, "two"))
    assert unpack(tmp_path / "b", (one, "one"), (heir, "heir")) == "3"
    assert unpack(tmp_path / "c", (heir, "heir"), (one, "one")) == "3"


@pytest.mark.parametrize("cut", [4, 30, 200, -40])
def test_a_broken_package_is_refused(cut, tmp_path):
    blob, _ = deb("cut", [file("f", "1" * 5000)])
    with pytest.raises(BadRequest, match="cut"):
        Tree(tmp_path).unpack([read(blob[:cut], "cut 1")])


def damaged(data, seed):
    chance = random.Random(seed)  # repeatable, not secret
    mutable = bytearray(data)
    for _ in range(chance.choice((1, 3, 20))):
        mutable[chance.randrange(len(mutable))] = chance.choice((0, 0xFF, chance.randrange(256)))
    return bytes(mutable[: chance.randrange(1, len(mutable) + 1)] if seed % 3 == 0 else mutable)


def test_no_damage_to_a_package_gives_anything_but_a_refusal(tmp_path):
    blob, _ = deb(
        "frail", [folder("usr"), file("usr/a", "1" * 99), file("usr/b")], postinst="x", plain=True
    )
    refusals, unpacked = [], 0
    for seed in range(400):
        root = tmp_path / str(seed)
        root.mkdir()
        try:
            Tree(root).unpack([read(damaged(blob, seed), "frail 1")])
            unpacked += 1
        except BadRequest as error:
            refusals.append(error.message)
    assert unpacked
    assert refusals
    assert [each for each in refusals if "frail" not in each] == []


def test_no_damage_to_a_library_disturbs_the_linkers_cache(tmp_path):
    found = next(Path("/lib").glob("*-linux-gnu/libz.so.1")).resolve()
    head, library = found.read_bytes(), tmp_path / "libx.so"
    assert soname_of(found)[0] == "libz.so.1"
    for seed in range(300):
        library.write_bytes(damaged(head[:4096], seed) + head[4096:])
        soname_of(library)


@pytest.mark.peer
@pytest.mark.timeout(300)
def test_debians_files_are_those_that_dpkg_unpacks(tmp_path, yard):
    """Type, mode, owner, time and content; what we add or leave out is what the table says."""
    stand_ins, chain = bases.base_images(yard.home), bases.chain_of("debian#slim")
    folder_ = stand_ins.kept(chain, quiet)
    lock = bases.read_lock((folder_ / bases.LOCK_FILE).read_bytes(), "lock")
    image, _ = bases.layouts.read(folder_ / "layout", Shelf(yard.home))
    ours = Shelf(yard.home).layers.path(image.layers[0].diff_id)
    theirs = tmp_path / "theirs"
    for name in ("bin", "sbin", "lib", "lib64"):
        (theirs / "usr" / name).mkdir(parents=True)
        (theirs / name).symlink_to(f"usr/{name}")
    packages = stand_ins.packages()
    packages.fetch(lock.packages(), archives.of_machine("bookworm"), quiet)
    for each in lock.packages():
        subprocess.run(["dpkg-deb", "-x", packages.path(each), theirs], check=True)
    keep, left_out = ("copyright",), ("man", "locale", "doc", "groff", "info", "lintian", "linda")
    wrong = []
    for path in sorted(theirs.rglob("*")):
        name = str(path.relative_to(theirs))
        parts = name.split("/")
        kept = path.is_file() and not path.is_symlink() and parts[-1] in keep
        if parts[:2] == ["usr", "share"] and set(parts[2:3]) & set(left_out) and not kept:
            continue
        if name.removeprefix("usr/") in ("bin", "sbin", "lib", "lib64"):
            continue  # made by this test
        one, other = path.lstat(), (ours / name).lstat()
        same = (one.st_mode, one.st_uid, one.st_gid) == (other.st_mode, other.st_uid, other.st_gid)
        if path.is_symlink():
            same &= path.readlink() == (ours / name).readlink()
        elif path.is_file():
            same &= path.read_bytes() == (ours / name).read_bytes()
            same &= int(one.st_mtime) == int(other.st_mtime)
        if not same:
            wrong.append(name)
    # base-files' script makes these of what its package has.
    explained = {"var/mail", "var/run", "var/lock", "var/log/wtmp", "run/lock", "etc/machine-id",
                 "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"}  # fmt: skip
    assert set(wrong) <= explained
    listed = subprocess.run(
        ["dpkg-query", f"--admindir={ours}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\n"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(listed.stdout.split("\n")[:-1]) == sorted(
        f"{each.name} {each.version}" for each in lock.packages()
    )
    audit = ["dpkg", f"--admindir={ours}/var/lib/dpkg", "--audit"]
    assert subprocess.run(audit, capture_output=True, text=True, check=True).stdout == ""
    cache = f"{ours}/etc/ld.so.cache"
    mine = subprocess.run(["ldconfig", "-p", "-C", cache], capture_output=True, check=True).stdout
    (tmp_path / "cache").touch()
    making = ["ldconfig", "-X", "-r", str(ours), "-C", "/tmp/ld.so.cache"]
    try:
        subprocess.run(making, capture_output=True, check=True)
        made = (ours / "tmp/ld.so.cache").rename(tmp_path / "cache")
    finally:
        (ours / "tmp/ld.so.cache").unlink(missing_ok=True)
    theirs_too = subprocess.run(["ldconfig", "-p", "-C", made], capture_output=True, check=True)
    told = [set(out.split(b"\n")[1:]) for out in (mine, theirs_too.stdout)]
    assert {line for line in told[0] if b"=>" in line} == {
        line for line in told[1] if b"=>" in line
    }
