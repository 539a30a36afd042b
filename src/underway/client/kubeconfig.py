"""kubeconfig files: which cluster, as whom.

Source: Kubernetes reference, "kubeconfig (v1)".
"""

from __future__ import annotations

import base64
import binascii
import ssl
from pathlib import Path
from typing import Any

import yaml

from underway.base.errors import BadRequest, NotFound
from underway.base.files import write_atomic
from underway.client.client import Client
from underway.transport.client import HttpTransport
from underway.transport.pki import client_context


def load(path: Path, context: str | None = None) -> Client:
    """A client for the cluster and user of ``context``, or of the file's current context.

    Blocking: reads the file and those it names. Close the client with ``aclose``.

    Raises:
        NotFound: the file does not exist, or names a context, cluster or user it does not hold.
        BadRequest: the file is no kubeconfig, or asks for a way to log in that is not supported.
    """
    return Client(transport(path, context))


def transport(path: Path, context: str | None = None) -> HttpTransport:
    """The handler behind ``load``, for requests that are no API calls."""
    config = _read(path)
    chosen = context or config.get("current-context")
    if not chosen:
        raise BadRequest(f"{path}: no current-context is set", hint="name a context")
    entry = _entry(config, "contexts", str(chosen), path)
    cluster = _entry(config, "clusters", str(entry.get("cluster", "")), path)
    user = _entry(config, "users", str(entry["user"]), path) if entry.get("user") else {}
    for section, unsupported in (
        (user, ("exec", "auth-provider")),
        (cluster, ("proxy-url", "tls-server-name")),
    ):
        for name in unsupported:
            if section.get(name):
                raise BadRequest(f"{path}: {name} is not supported")
    server = cluster.get("server")
    if not isinstance(server, str) or not server.startswith(("https://", "http://")):
        raise BadRequest(f"{path}: the cluster of context {chosen} names no http(s) server")
    tls = _tls(cluster, user, path) if server.startswith("https://") else None
    headers = {}
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    return HttpTransport(server, tls=tls, token=_token(user, path), headers=headers)


def write(
    path: Path, *, server: str, ca_pem: bytes, cert_pem: bytes, key_pem: bytes, name: str
) -> None:
    """Write a kubeconfig of one cluster, user and context, all called ``name``; mode 0600."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {"server": server, "certificate-authority-data": _encoded(ca_pem)},
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": _encoded(cert_pem),
                    "client-key-data": _encoded(key_pem),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
        "preferences": {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, yaml.safe_dump(config, sort_keys=False), mode=0o600)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"no kubeconfig at {path}") from error
    except (OSError, yaml.YAMLError) as error:
        raise BadRequest(f"cannot read the kubeconfig {path}: {error}") from error
    if not isinstance(config, dict) or config.get("kind", "Config") != "Config":
        raise BadRequest(f"{path} is no kubeconfig")
    return config


def _entry(config: dict[str, Any], section: str, name: str, path: Path) -> dict[str, Any]:
    inner = section.removesuffix("s")
    for item in config.get(section) or []:
        if isinstance(item, dict) and item.get("name") == name:
            value = item.get(inner)
            return value if isinstance(value, dict) else {}
    raise NotFound(f"{path} has no {inner} named {name!r}")


def _tls(cluster: dict[str, Any], user: dict[str, Any], path: Path) -> ssl.SSLContext:
    context = client_context(
        _source(cluster, "certificate-authority", path),
        _source(user, "client-certificate", path),
        _source(user, "client-key", path),
    )
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _source(section: dict[str, Any], name: str, path: Path) -> Path | bytes | None:
    """PEM text from ``name-data``, which goes before the file ``name``; None without either."""
    data, file = section.get(f"{name}-data"), section.get(name)
    if data:
        try:
            return base64.b64decode(str(data), validate=False)
        except binascii.Error as error:
            raise BadRequest(f"{path}: {name}-data is no base64: {error}") from error
    return path.parent / str(file) if file else None


def _token(user: dict[str, Any], path: Path) -> str:
    if user.get("token"):
        return str(user["token"])
    if user.get("tokenFile"):
        file = path.parent / str(user["tokenFile"])
        try:
            return file.read_text().strip()
        except OSError as error:
            raise BadRequest(f"{path}: cannot read tokenFile {file}: {error}") from error
    return ""


def _encoded(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
