"""kaniko's other commands: ``login``, ``push`` and the warmer.

Source: kaniko README (pushing to registries, ``cmd/warmer``).
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import click

from underway.base.errors import BadRequest

_NONE: dict[str, Any] = {
    "insecure": False, "insecure_registries": (), "skip_tls_verify": False, "unverified": (),
    "certificates": (), "client_certificates": (), "insecure_pull": False,
    "skip_tls_verify_pull": False, "mirrors": (), "registry_maps": (),
}  # fmt: skip


@click.command()
@click.argument("registry")
@click.option("-u", "--username", required=True)
@click.option("-p", "--password", default="", help="Better: --password-stdin.")
@click.option("--password-stdin", is_flag=True)
def login(registry: str, username: str, password: str, password_stdin: bool) -> None:
    """Keep the password of a registry in Docker's config.json."""
    import msgspec

    from underway.base.files import write_atomic
    from underway.capabilities.build.backend.outputs import DOCKER_HUB_KEY, docker_config

    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise BadRequest("a password is needed", hint="--password-stdin reads it")
    file = docker_config()
    try:
        content = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        content = {}
    except (OSError, msgspec.MsgspecError) as error:
        raise BadRequest(f"{file} is no config.json: {error}") from error
    known = registry.removeprefix("https://").strip("/")
    key = DOCKER_HUB_KEY if known in ("docker.io", "index.docker.io") else known
    auth = base64.b64encode(f"{username}:{password}".encode()).decode()
    content.setdefault("auths", {})[key] = {"auth": auth}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, msgspec.json.format(msgspec.json.encode(content)), mode=0o600)
    click.echo(f"logged in at {known}", err=True)


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("-d", "--destination", "destinations", multiple=True, required=True)
@click.option("--insecure", is_flag=True)
@click.option("--skip-tls-verify", is_flag=True)
@click.option("--insecure-registry", "insecure_registries", multiple=True, metavar="HOST")
@click.option("--skip-tls-verify-registry", "unverified", multiple=True, metavar="HOST")
@click.option("--registry-certificate", "certificates", multiple=True, metavar="HOST=FILE")
@click.option(
    "--registry-client-cert", "client_certificates", multiple=True, metavar="HOST=CERT,KEY"
)
@click.option("--digest-file", type=click.Path(path_type=Path))
def push(path: Path, destinations: tuple[str, ...], digest_file: Path | None, **flags: Any) -> None:
    """Push an image that was written before: an OCI layout, or --tar-path's archive of one."""
    from underway.base.home import Home
    from underway.capabilities.build.backend import contexts, kaniko_registries, layout, outputs
    from underway.capabilities.build.backend.shelf import Shelf
    from underway.wire.oci import Reference

    home = Home.from_environment()
    names = [Reference.parse(name) for name in destinations]
    access = kaniko_registries.pushing({**_NONE, **flags}, {name.registry for name in names})
    shelf, settings = Shelf(home), home.load_settings()
    if path.is_dir():
        image, documents = layout.read(path, shelf)
    else:
        with contexts.unpacked(str(path)) as folder:
            image, documents = layout.read(folder, shelf)
    made = outputs.Made(documents, image, shelf)
    for name in names:
        outputs.push_to(name, made, home, settings, access)
        click.echo(f"pushed {name}", err=True)
    if digest_file:
        digest_file.write_text(documents.digest)


@click.command()
@click.option("-i", "--image", "images", multiple=True, help="A base image; may be repeated.")
@click.option("-f", "--dockerfile", default="", help="Warm the images its stages start from.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME=VALUE")
@click.option("-c", "--cache-dir", default="", help="Write each as an OCI layout here, by digest.")
@click.option("--insecure-pull", is_flag=True)
@click.option("--skip-tls-verify-pull", is_flag=True)
@click.option("--insecure-registry", "insecure_registries", multiple=True, metavar="HOST")
@click.option("--skip-tls-verify-registry", "unverified", multiple=True, metavar="HOST")
@click.option("--registry-certificate", "certificates", multiple=True, metavar="HOST=FILE")
@click.option("--registry-mirror", "mirrors", multiple=True, metavar="HOST[/PATH]")
@click.option("--registry-map", "registry_maps", multiple=True, metavar="HOST=MIRROR[/PATH];...")
@click.option("--customPlatform", "--custom-platform", "platform", default="")
@click.option("--force", is_flag=True, help="Accepted: what is there is taken as it is.")
@click.option("-v", "--verbosity", default="info")
def warmer(
    images: tuple[str, ...],
    dockerfile: str,
    build_args: tuple[str, ...],
    cache_dir: str,
    platform: str,
    **flags: Any,
) -> None:
    """Fetch base images before a build needs them."""
    from underway.base.home import Home
    from underway.capabilities.build.backend import kaniko_registries, layout, machine
    from underway.capabilities.build.cli_options import pairs
    from underway.capabilities.build.rules.stages import plan
    from underway.wire.dockerfile import parse

    home = Home.from_environment()
    wanted = list(images)
    if dockerfile:
        parsed = parse(Path(dockerfile).read_text(encoding="utf-8"), dockerfile)
        arguments = pairs(build_args, "--build-arg")
        stages = plan(parsed, "", arguments, machine.platform_args(platform)).stages
        wanted += [s.base_image for s in stages if s.base_image not in ("", "scratch")]
    if not wanted:
        raise BadRequest("no image to fetch", hint="name one with --image, or a --dockerfile")
    given = {**_NONE, **flags}
    access = kaniko_registries.pulling(given)
    found = kaniko_registries.origins(home, given, access)
    arch = machine.architecture_of(platform)

    def tell(line: str) -> None:
        click.echo(line, err=True)

    for name in dict.fromkeys(wanted):
        image, base = found.resolve(name, tell, arch)
        click.echo(f"{name}@{base.digest}")
        if cache_dir:
            documents = layout.documents(image, 0, {}, platform)
            folder = Path(cache_dir).absolute() / documents.digest.replace(":", "-")
            layout.write(folder, documents, image.layers, found.shelf, "warm")
