"""``underway api``: tools on the Kubernetes API itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec
import yaml

from underway.base.errors import BadRequest, NotFound, UnderwayError

_SIZE_LIMIT_BYTES = 256 * 1024 * 1024

_input = click.argument("file", type=click.File("rb"), default="-")


@click.group()
def api() -> None:
    """Decode and encode stored objects, and compare APIs."""


@api.command()
@_input
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), default="json")
def decode(file: BinaryIO, output: str) -> None:
    """Turn stored or captured objects into JSON or YAML.

    FILE (default: standard input) is Kubernetes protobuf as etcd stores it and the wire carries
    it, a protobuf or JSON watch stream, or etcdctl's JSON; gzip is undone.

    \b
    etcdctl get /registry/pods/default/web --print-value-only | underway api decode
    etcdctl get --prefix /registry/pods -w json | underway api decode -o yaml
    underway api decode captured-watch.bin
    """
    from underway.wire import captures

    found = captures.objects(_read(file))
    if output == "yaml":
        click.echo(yaml.safe_dump_all(found, sort_keys=False, allow_unicode=True), nl=False)
        return
    for obj in found:
        click.echo(msgspec.json.format(msgspec.json.encode(obj), indent=2).decode())


@api.command()
@_input
def encode(file: BinaryIO) -> None:
    """Turn JSON or YAML into Kubernetes protobuf, as etcd stores it, on standard output.

    FILE (default: standard input) holds one object of a built-in kind. Fields the kind does not
    have are refused. Several objects, or watch events, become a watch stream.

    \b
    underway api encode pod.yaml > pod.pb
    underway api decode pod.pb | underway api encode | etcdctl put /registry/pods/default/web
    """
    from underway.wire import captures, kubeproto

    values = _documents(_read(file))
    events = [each for each in values if _is_event(each)]
    if len(values) == 1 and not events:
        data = kubeproto.encode(_checked(values[0]))
    else:
        frames = []
        for each in values:
            kind, obj = (each["type"], each["object"]) if _is_event(each) else ("ADDED", each)
            frames.append(captures.watch_frame(kind, _checked(obj)))
        data = b"".join(frames)
    click.echo(data, nl=False)


@api.command("diff-compat")
@click.argument("openapi")
@click.option("--context", default=None, help="Context of a kubeconfig (default: the current one).")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def diff_compat(openapi: str, context: str | None, output: str) -> None:
    """List what an upstream API has that this one lacks; exit code 1 if there is something.

    OPENAPI is an OpenAPI v2 or v3 document (a file or a URL), a directory of v3 documents, or a
    cluster by its kubeconfig. Groups, kinds, fields, paths and verbs are compared.

    \b
    underway api diff-compat swagger.json
    underway api diff-compat api/openapi-spec/v3
    underway api diff-compat ~/.kube/config --context staging -o json
    """
    from underway.api import compat

    upstream = compat.Surface()
    for document in _openapi_documents(openapi, context):
        upstream.add(document)
    if not upstream.kinds and not upstream.paths:
        raise BadRequest(f"{openapi} describes no Kubernetes API")
    found = compat.missing(upstream, ours())
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        for title, names in (
            ("group versions", found.groups),
            ("kinds", found.kinds),
            ("fields", found.fields),
            ("operations", found.operations),
        ):
            if names:
                click.echo("\n  ".join([f"Missing {title} ({len(names)}):", *names]))
        if not found.count:
            click.echo(f"Nothing is missing of {len(upstream.kinds)} kinds.")
    if found.count:
        raise SystemExit(1)


def ours() -> Any:
    """What this API serves, as its own OpenAPI documents say it: an ``api.compat.Surface``."""
    from underway.api import compat
    from underway.api import openapi as documents
    from underway.server.catalog import Catalog

    surface, catalog = compat.Surface(), Catalog()
    for group, versions in catalog.groups().items():
        for version in versions:
            resources = [served.resource for served in catalog.in_version(group, version)]
            document = documents.document(group, version, resources, {})
            surface.add(msgspec.json.decode(document))
    return surface


def _read(file: BinaryIO) -> bytes:
    data = file.read(_SIZE_LIMIT_BYTES + 1)
    if len(data) > _SIZE_LIMIT_BYTES:
        raise BadRequest(f"the input is longer than {_SIZE_LIMIT_BYTES} bytes")
    return data


def _documents(data: bytes) -> list[Any]:
    from underway.wire import captures

    if data.lstrip()[:1] == b"{":
        return list(captures.objects(data))
    try:
        values = [each for each in yaml.safe_load_all(data) if each is not None]
        plain = [msgspec.json.decode(msgspec.json.encode(each)) for each in values]  # dates: text
    except (yaml.YAMLError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise BadRequest(f"malformed YAML: {error}") from error
    except RecursionError as error:
        raise BadRequest("malformed YAML: it is nested too deep") from error
    if not values:
        raise BadRequest("there is nothing to encode", hint="name a file, or pipe an object in")
    return plain


def _is_event(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"type", "object"}


def _checked(value: Any) -> dict[str, Any]:
    """A built-in object all of whose fields can be encoded."""
    from underway.api import schema

    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise BadRequest("the input is no object with apiVersion and kind")
    kind = schema.builtin(str(value.get("apiVersion", "")), value["kind"])
    unknown = schema.unknown_fields(kind, value) if kind is not None else []
    if unknown:
        raise BadRequest(f"{value['kind']} has no field {', '.join(unknown)}")
    return value


def _openapi_documents(source: str, context: str | None) -> list[dict[str, Any]]:
    """The documents at a file, directory, URL or cluster.

    Raises:
        NotFound: there is nothing.
        BadRequest: a document is malformed.
    """
    if source.startswith(("http://", "https://")):
        return [_parsed(_download(source), source)]
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(path.rglob("*.json"))
        if not files:
            raise NotFound(f"{path} holds no .json files")
        return [_parsed(file.read_bytes(), str(file)) for file in files]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from error
    if data.lstrip()[:1] != b"{":
        return asyncio.run(_of_cluster(path, context))
    return [_parsed(data, str(path))]


def _download(url: str) -> bytes:
    import httpx

    try:
        answer = httpx.get(url, follow_redirects=True, timeout=60).raise_for_status()
    except httpx.HTTPError as error:
        raise NotFound(f"cannot fetch {url}: {error}") from error
    return answer.content


async def _of_cluster(path: Path, context: str | None) -> list[dict[str, Any]]:
    from underway.client import kubeconfig

    client = kubeconfig.load(path, context)
    try:
        index = (await _get(client, "/openapi/v3")).get("paths", {})
        addresses = [str(entry.get("serverRelativeURL", "")) for entry in index.values()]
        return [await _get(client, address) for address in addresses if address]
    except OSError as error:
        raise UnderwayError(f"cannot reach the cluster of {path}: {error}") from error
    finally:
        await client.aclose()


async def _get(client: Any, address: str) -> dict[str, Any]:
    path, _, query = address.partition("?")
    response = await client.request("GET", path, query)
    return _parsed(await response.read(), address)


def _parsed(data: bytes, source: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"{source} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadRequest(f"{source} is no OpenAPI document")
    return found
