"""The smallest server that kubectl can talk to: discovery, OpenAPI v3 and a dictionary of objects.

It lets the real kubectl judge the documents, patches and ownership of `underway.api` by
themselves; the platform's own API server is tested in tests/server.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import msgspec
import yaml

from underway.api import apply as ssa
from underway.api import openapi, patches, resources, schema
from underway.api.resources import Resource
from underway.base.errors import BadRequest, Conflict, NotFound, UnderwayError
from underway.wire import kubeproto

WIDGETS = Resource("example.com", "v1", "widgets", "Widget", singular="widget")
WIDGET_SCHEMA = {
    "type": "object",
    "description": "A widget turns.",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "size": {"type": "integer", "description": "How large it is."},
                "parts": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "price": {"type": "integer"}},
                    },
                },
            },
        }
    },
}
SERVED = (
    resources.NAMESPACES,
    resources.PODS,
    resources.CONFIGMAPS,
    resources.SERVICES,
    resources.DEPLOYMENTS,
    WIDGETS,
)
NOW = "2026-01-02T03:04:05Z"


class Toy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: dict

    def log_message(self, *args):
        pass

    def answer(self, code, value):
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        try:
            self.answer(*self.respond(body))
        except UnderwayError as error:
            self.answer(error.code, error.to_status())

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def respond(self, body):
        url = urlsplit(self.path)
        path, query = url.path, {k: v[-1] for k, v in parse_qs(url.query).items()}
        found = documents(path)
        if found is not None:
            return 200, found
        parts = path.strip("/").split("/")
        if parts[0] not in ("api", "apis") or len(parts) < 3:
            raise NotFound(f"no {path}")
        group, version, rest = (
            ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
        )
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        served = [r for r in SERVED if (r.group, r.version, r.plural) == (group, version, rest[0])]
        if not served:
            raise NotFound(f"no {path}")
        resource = served[0]
        if self.command == "POST":
            obj = decoded(body, self.headers)
            obj["metadata"].setdefault("namespace", namespace)
            return 201, self.store(resource, namespace, obj["metadata"]["name"], obj, query)
        return self.item(resource, namespace, rest, body, query)

    def item(self, resource, namespace, rest, body, query):
        if len(rest) < 2:
            items = [o for k, o in self.objects.items() if k[0] == resource.plural]
            return 200, {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}
        key = (resource.plural, namespace, rest[1])
        live = self.objects.get(key)
        kind = shape(resource)
        if self.command == "PATCH":
            media = self.headers["Content-Type"]
            patch = yaml.safe_load(body)
            if media == "application/apply-patch+yaml":
                new = ssa.apply(
                    live,
                    patch,
                    manager=query["fieldManager"],
                    force=query.get("force") == "true",
                    schema=kind,
                    now=NOW,
                )
                new["metadata"].setdefault("namespace", namespace)
                return 200, self.store(resource, namespace, rest[1], new, query, tracked=True)
            if live is None:
                raise NotFound(f"no {key}", details={"name": rest[1]})
            if media == "application/strategic-merge-patch+json":
                new = patches.strategic_merge_patch(live, patch, kind)
            elif media == "application/merge-patch+json":
                new = patches.merge_patch(live, patch)
            else:
                new = patches.json_patch(live, patch)
            return 200, self.store(resource, namespace, rest[1], new, query)
        if live is None:
            raise NotFound(f'{resource.plural} "{rest[1]}" not found')
        return 200, live

    def store(self, resource, namespace, name, obj, query, *, tracked=False):
        key = (resource.plural, namespace, name)
        live = self.objects.get(key)
        kind = shape(resource)
        if query.get("fieldValidation") == "Strict" and (bad := schema.unknown_fields(kind, obj)):
            raise BadRequest("strict decoding error: " + ", ".join(bad))
        if live and obj["metadata"].get("resourceVersion") not in (
            None,
            live["metadata"]["resourceVersion"],
        ):
            raise Conflict("the object has been modified")
        if not tracked:
            manager = query.get("fieldManager") or "unknown"
            ssa.track(live, obj, manager=manager, schema=kind, now=NOW)
        version = int(live["metadata"]["resourceVersion"]) + 1 if live else 1
        obj["metadata"] |= {
            "uid": "0b1e",
            "resourceVersion": str(version),
            "creationTimestamp": NOW,
        }
        if "dryRun" not in query:
            self.objects[key] = obj
        return obj


def decoded(body, headers):
    if headers["Content-Type"] == kubeproto.MEDIA_TYPE:
        return kubeproto.decode(body)
    return yaml.safe_load(body)


def shape(resource):
    if resource is WIDGETS:
        return schema.from_openapi(WIDGET_SCHEMA)
    return schema.builtin(resource.api_version, resource.kind)


def group_versions():
    found = defaultdict(list)
    for resource in SERVED:
        found[resource.group, resource.version].append(resource)
    return found


def documents(path):
    by_path = {openapi.document_path(*gv): (gv, found) for gv, found in group_versions().items()}
    crds = {"Widget": WIDGET_SCHEMA}
    if path == "/openapi/v3":
        return openapi.index({p: openapi.document_hash(r, {}) for p, (_, r) in by_path.items()})
    if path.startswith("/openapi/v3/"):
        entry = by_path.get(path.removeprefix("/openapi/v3/"))
        if entry:
            (group, version), served = entry
            return openapi.document(group, version, served, crds)
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        groups = []
        for group, version in group_versions():
            if group:
                named = {"groupVersion": f"{group}/{version}", "version": version}
                groups.append({"name": group, "versions": [named], "preferredVersion": named})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    if path == "/version":
        return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
    entry = by_path.get(path.strip("/"))
    if entry:
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": entry[1][0].api_version,
            "resources": [
                {
                    "name": r.plural,
                    "singularName": r.singular,
                    "namespaced": r.namespaced,
                    "kind": r.kind,
                    "verbs": list(r.verbs),
                    "shortNames": list(r.short_names),
                }
                for r in entry[1]
            ],
        }
    return None


@contextmanager
def toy_server():
    """Its URL and its objects."""
    handler = type("Handler", (Toy,), {"objects": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.objects
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
