"""``underway kaniko``: the kaniko executor's flags, digest files and exit codes.

Source: GoogleContainerTools/kaniko ``README.md`` and ``cmd/executor/cmd/root.go``, 1.24.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from underway.base.errors import BadRequest, UnderwayError

CONTEXT_DEFAULT = "/workspace/"
_QUIET = ("panic", "fatal", "error", "warn", "warning")
_LEVELS = (*_QUIET, "info", "debug", "trace")

_SWITCHES = {
    "cache": "Take steps from the cache.",
    "cleanup": "Accepted: a build leaves nothing behind.",
    "force": "Build in place even where this does not look like a container.",
    "ignore-var-run": "Accepted: /var/run is a part of the image like any other.",
    "insecure": "Push by plain http where https fails.",
    "insecure-pull": "Pull base images by plain http where https fails.",
    "in-place": "Build in this container's own root directory, without any privilege.",
    "log-timestamp": "Accepted.",
    "no-push": "Push nothing.",
    "no-push-cache": "Take steps from --cache-repo, and keep none there.",
    "preserve-context": "Accepted: a build never touches its context.",
    "push-ignore-immutable-tag-errors": "A tag that may not change is no failure.",
    "reproducible": "Accepted: every build is.",
    "single-snapshot": "Accepted: files are the same; each step keeps its layer.",
    "skip-default-registry-fallback": "Accepted.",
    "skip-push-permission-check": "Accepted: a push is tried when the image is there.",
    "skip-tls-verify": "Take any certificate when pushing.",
    "skip-tls-verify-pull": "Take any certificate when pulling base images.",
    "skip-unused-stages": "Accepted: stages that are not needed are never built.",
    "use-new-run": "Accepted.",
    "cache-copy-layers": "Accepted: they are cached like all others.",
    "cache-run-layers": "Accepted: they are cached like all others.",
    "compressed-caching": "Accepted.",
}
_IGNORED_VALUES = (
    "cache-dir", "credential-helpers", "image-download-retry",
    "image-fs-extract-retry", "kaniko-dir", "log-format", "push-retry",
)  # fmt: skip


class _Executor(click.Command):
    """A command whose usage errors end with 1, as kaniko's do."""

    def make_context(
        self, info_name: str | None, args: list[str], *rest: Any, **extra: Any
    ) -> click.Context:
        if args and args[0] in ("login", "push", "warmer"):
            from underway.capabilities.build import cli_kaniko_tools as tools

            command: click.Command = getattr(tools, args[0])
            return command.make_context(f"{info_name} {args[0]}", args[1:], *rest, **extra)
        try:
            return super().make_context(info_name, args, *rest, **extra)
        except click.UsageError as error:
            error.exit_code = 1
            raise

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Go's flags take -d=NAME for -d NAME.
        return super().parse_args(ctx, [re.sub(r"^-([cdfv])=", r"-\1", each) for each in args])


def _switches(command: Callable[..., None]) -> Callable[..., None]:
    """Go's boolean flags: ``--x``, ``--x=true``, ``--x=false``."""
    for name, text in _SWITCHES.items():
        local = name.startswith("cache-") or name == "compressed-caching"
        command = click.option(
            f"--{name}", name.replace("-", "_"), is_flag=False, flag_value="true",
            default="true" if local else "false",
            type=click.BOOL, metavar="[=true|false]", help=text,
        )(command)  # fmt: skip
    for name in _IGNORED_VALUES:
        command = click.option(f"--{name}", name.replace("-", "_"), default="", hidden=True)(
            command
        )
    return command


@dataclass
class _Wanted:
    """The flags by name, as click read them."""

    flags: dict[str, Any]
    access: Any = field(init=False)

    def __getattr__(self, name: str) -> Any:
        return self.flags[name]

    def check(self) -> None:
        if not self.destinations and not self.no_push:
            raise BadRequest("you must provide --destination, or use --no-push")
        if self.tar_path and not self.destinations:
            raise BadRequest("--tar-path needs a --destination: the archive's image name")


@click.command(cls=_Executor, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--context",
    "context",
    default=CONTEXT_DEFAULT,
    show_default=True,
    help="DIRECTORY, dir://DIRECTORY, tar://FILE, tar://stdin, git://HOST/REPO[#REF].",
)
@click.option("--context-sub-path", default="", help="The directory of the context to build.")
@click.option("-f", "--dockerfile", default="", help="Dockerfile of the context by default.")
@click.option("-d", "--destination", "destinations", multiple=True, help="Push under this name.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME=VALUE")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE")
@click.option("--annotation", "annotations", multiple=True, metavar="NAME=VALUE")
@click.option("--secret", "secrets", multiple=True, metavar="id=NAME[,src=FILE|,env=NAME]")
@click.option("--target", default="", help="Build this stage instead of the last.")
@click.option("--tar-path", "--tarPath", "tar_path", default="", help="Write a docker archive.")
@click.option("--oci-layout-path", default="", help="Write an OCI image layout.")
@click.option("--digest-file", default="", help="Write the digest here.")
@click.option("--image-name-with-digest-file", default="", help="Write NAME@DIGEST here.")
@click.option("--image-name-tag-with-digest-file", default="", help="Write NAME:TAG@DIGEST here.")
@click.option("--cache-repo", default="", help="Take steps from this repository, and keep them.")
@click.option("--cache-ttl", default="336h", show_default=True, help="How long they are taken.")
@click.option("--registry-certificate", "certificates", multiple=True, metavar="HOST=FILE")
@click.option(
    "--registry-client-cert", "client_certificates", multiple=True, metavar="HOST=CERT,KEY"
)
@click.option(
    "--registry-mirror",
    "mirrors",
    multiple=True,
    metavar="HOST[/PATH]",
    help="Ask this registry for images of docker.io.",
)
@click.option(
    "--registry-map",
    "registry_maps",
    multiple=True,
    metavar="HOST=MIRROR[/PATH];...",
    help="Ask these registries for images of HOST.",
)
@click.option("--git", "git", default="", metavar="branch=NAME,recurse-submodules=BOOL")
@click.option("--insecure-registry", "insecure_registries", multiple=True, metavar="HOST")
@click.option("--skip-tls-verify-registry", "unverified", multiple=True, metavar="HOST")
@click.option("--ignore-path", "ignored_paths", multiple=True, help="Accepted with a warning.")
@click.option(
    "--snapshot-mode",
    "--snapshotMode",
    "snapshot_mode",
    default="full",
    type=click.Choice(["full", "redo", "time"]),
    help="Accepted: changes are what the kernel says they are.",
)
@click.option("--custom-platform", "--customPlatform", "platform", default="")
@click.option("--compression", default="gzip", help="gzip or zstd.")
@click.option("--compression-level", default="", help="As gzip and zstd count them.")
@click.option("-v", "--verbosity", type=click.Choice(_LEVELS), default="info", show_default=True)
@_switches
def kaniko(**flags: Any) -> None:
    """Build an image as the kaniko executor does, with its flags.

    Credentials come from DOCKER_CONFIG, /kaniko/.docker/config.json or ~/.docker/config.json.
    A failing RUN ends this command with its own exit code, anything else with 1.
    """  # fmt: skip
    wanted = _Wanted(flags)
    try:
        wanted.check()
        _execute(wanted)
    except UnderwayError as error:
        click.echo(f"error building image: {error.message}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        sys.exit(getattr(error, "exit_code", 1))


def _execute(wanted: _Wanted) -> None:
    from underway.base.home import Home
    from underway.capabilities.build.backend import kaniko_registries as registries
    from underway.capabilities.build.backend import userns
    from underway.capabilities.build.backend.builder import Builder, Extras
    from underway.capabilities.build.backend.caches import LayerRepository
    from underway.capabilities.build.cli_options import duration_s, packing_of, pairs, secrets_of
    from underway.kit.ports import BuildRequest
    from underway.wire.oci import Reference

    quiet = wanted.verbosity in _QUIET

    def tell(line: str) -> None:
        if not quiet or line.startswith("warning:"):
            click.echo(line, err=True)

    packing = packing_of(wanted.compression or "gzip", wanted.compression_level)
    if not wanted.in_place:
        userns.enter_unless_root()
    home = Home.from_environment()
    names = [Reference.parse(name) for name in wanted.destinations]
    access = registries.pushing(wanted.flags, {name.registry for name in names})
    pulling = registries.pulling(wanted.flags)
    lenders = []
    if wanted.cache_repo and wanted.cache:
        from underway.base.clock import SystemClock

        lenders = [
            LayerRepository(
                Reference.parse(wanted.cache_repo),
                registries.opener(home, access),
                SystemClock(),
                duration_s(wanted.cache_ttl, "--cache-ttl"),
            )
        ]
    with (
        _context(wanted.context, wanted.context_sub_path, wanted.git, home, pulling) as context,
        _grounds(wanted, home) as grounds,
    ):
        request = BuildRequest(
            context=context,
            dockerfile=_dockerfile(wanted.dockerfile, context),
            tag=str(names[0]) if names else "",
            target=wanted.target,
            build_args=pairs(wanted.build_args, "--build-arg"),
            labels=pairs(wanted.labels, "--label"),
            no_cache=not wanted.cache,
            push=False,
        )
        extras = Extras(
            tags=[str(name) for name in names[1:]],
            platform=wanted.platform,
            packing=packing,
            annotations=pairs(wanted.annotations, "--annotation"),
            secrets=secrets_of(wanted.secrets),
            lenders=lenders,
            grounds=grounds,
            origins=registries.origins(home, wanted.flags, pulling),
        )
        result, made = Builder(home).make(request, tell, extras)
    if lenders and not wanted.no_push_cache:
        lenders[0].keep(made.keys, made.shelf, tell)
    _deliver(wanted, names, made, home, access, tell)
    tell(f"built {result.digest}: {result.size_bytes / 1e6:.1f} MB")


@contextlib.contextmanager
def _grounds(wanted: _Wanted, home: Any) -> Iterator[Any]:
    if not wanted.in_place:
        yield None
        return
    from underway.capabilities.build.backend.in_place import InPlace

    with InPlace.here(home, forced=wanted.force, ignored=wanted.ignored_paths) as grounds:
        yield grounds


def _deliver(
    wanted: _Wanted,
    names: list[Any],
    made: Any,
    home: Any,
    access: Any,
    tell: Callable[[str], None],
) -> None:
    from underway.base.errors import Conflict
    from underway.capabilities.build.backend import layout, outputs

    digest = made.documents.digest
    if wanted.tar_path:
        texts = [str(name) for name in names]
        outputs.to_stream(
            wanted.tar_path, lambda out: outputs.write_archive(out, made, texts, docker=True)
        )
    if wanted.oci_layout_path:
        tag = names[0].tag if names else ""
        folder = Path(wanted.oci_layout_path).absolute()
        layout.write(folder, made.documents, made.image.layers, made.shelf, tag)
    if not wanted.no_push:
        settings = home.load_settings()
        for name in names:
            try:
                outputs.push_to(name, made, home, settings, access)
            except Conflict as error:
                if not wanted.push_ignore_immutable_tag_errors:
                    raise
                tell(f"warning: {error.message}")
            tell(f"pushed {name}")
    # Written last: whoever finds these files finds the image where they say.
    _write(wanted.digest_file, digest)
    lines = "".join(f"{name.name}@{digest}\n" for name in names)
    _write(wanted.image_name_with_digest_file, lines)
    lines = "".join(f"{name.name}:{name.tag}@{digest}\n" for name in names)
    _write(wanted.image_name_tag_with_digest_file, lines)


@contextlib.contextmanager
def _context(text: str, sub_path: str, git: str, home: Any, access: Any) -> Iterator[Path]:
    from underway.capabilities.build.backend import contexts
    from underway.capabilities.build.backend.paths import inside

    scheme, mark, rest = text.partition("://")
    if not mark or scheme == "dir":
        folder = Path(rest if mark else text)
        if not folder.is_dir():
            raise BadRequest(f"the build context {text} is no directory")
        yield inside(folder.absolute(), sub_path)
    elif scheme == "tar":
        with contexts.unpacked("-" if rest == "stdin" else rest, sub_path) as found:
            yield found
    elif scheme == "git" or (scheme == "https" and ".git" in rest):
        method = os.environ.get("GIT_PULL_METHOD", "https")
        if method not in ("http", "https"):
            raise BadRequest(f"GIT_PULL_METHOD is http or https, not {method}")
        repository, *marks = text.split("#")  # REF, then COMMIT, which says it more exactly
        options = dict(part.partition("=")[::2] for part in git.split(",") if part)
        ref = marks[-1] if marks else options.get("branch", "")
        source = contexts.git_source(f"{repository}#{ref}", method)
        with contexts.cloned(source, sub_path) as found:
            yield found
    elif scheme == "s3":
        from underway.base.clock import SystemClock
        from underway.capabilities.build.backend.contexts_remote import from_s3

        with from_s3(text, sub_path, SystemClock()) as found:
            yield found
    elif scheme == "oci":
        from underway.capabilities.build.backend.contexts_remote import from_registry
        from underway.capabilities.build.backend.kaniko_registries import opener

        with from_registry(text, sub_path, opener(home, access)) as found:
            yield found
    else:
        raise BadRequest(
            f"build contexts by {scheme}:// are not supported",
            hint="dir://, tar://, git://, s3:// and oci:// are",
        )


def _dockerfile(text: str, context: Path) -> Path:
    if text and Path(text).is_file():
        return Path(text).absolute()
    return context / (text or "Dockerfile")


def _write(path: str, text: str) -> None:
    if not path:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}") from error
