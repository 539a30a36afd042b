"""Verbs on resources: from a call to its answer.

Source: Kubernetes API concepts; apiserver ``pkg/endpoints/handlers``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from underway.api import schema as schemas
from underway.api.fitting import fits
from underway.api.objects import Object, meta, name_of
from underway.api.resources import PODS
from underway.base.clock import Clock, rfc3339
from underway.base.errors import AlreadyExists, BadRequest
from underway.server import nodes, patching, proxies, subresources
from underway.server.admission import nodes as restrictions
from underway.server.auth import Authenticator
from underway.server.bootstrap import Bootstrap
from underway.server.call import Call, no_such_path, no_such_verb, not_found
from underway.server.catalog import builtin
from underway.server.certificates import STORAGE as CERTIFICATE_REQUESTS
from underway.server.certificates import Certificates
from underway.server.deleting import DeleteOptions, Deleter, success
from underway.server.evictions import Evictions
from underway.server.negotiation import read_body, render
from underway.server.reading import Reader, Selection
from underway.server.reviews import Reviews
from underway.server.store import Key, Store
from underway.server.versions import converted, converted_async
from underway.server.writing import By, Transform, Writer, Written
from underway.wire.http import Response

_GENERATE_ATTEMPTS = 8
_PATCH_LIMIT_BYTES = 3 * 1024 * 1024
_PODS = builtin(PODS)


class Rest:
    """Answers calls that authentication, authorization and routing let through."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        writer: Writer,
        deleter: Deleter,
        reviews: Reviews,
        nodes_access: nodes.Nodes,
        proxied: proxies.Proxies,
        authenticator: Authenticator,
        bootstrap: Bootstrap,
        certificates: Certificates,
        clock: Clock,
    ) -> None:
        self._store = store
        self._reader = reader
        self._writer = writer
        self._deleter = deleter
        self._reviews = reviews
        self._nodes = nodes_access
        self._proxies = proxied
        self._authenticator = authenticator
        self._bootstrap = bootstrap
        self._certificates = certificates
        self._clock = clock
        self._evictions = Evictions(store, deleter, clock)

    async def answer(self, call: Call) -> Response:
        """The answer to a call.

        Raises:
            UnderwayError: what stands in the way.
        """
        self._check_path(call)
        wanted = call.attributes
        if wanted.subresource == "proxy" and wanted.resource in proxies.CONNECTS:
            return await self._proxies.connect(call)
        if wanted.subresource in nodes.CONNECTS.get(wanted.resource, ()):
            return await self._nodes.connect(call)
        answer = self._subresource if wanted.subresource else self._main
        response = await converted_async(lambda: answer(call))
        if call.warnings:
            response.headers["warning"] = ", ".join(
                f"299 - {msgspec.json.encode(text).decode()}" for text in call.warnings
            )
        return response

    def _check_path(self, call: Call) -> None:
        wanted, resource = call.attributes, call.served.resource
        if wanted.subresource and wanted.subresource not in resource.subresources:
            raise no_such_path()
        if wanted.rest and wanted.subresource != "proxy":
            raise no_such_path()
        if resource.namespaced:
            if not wanted.namespace and wanted.name:
                raise no_such_path()
        elif wanted.namespace and resource.plural != "namespaces":
            raise no_such_path()
        if not wanted.subresource and wanted.verb not in resource.verbs:
            raise no_such_verb()

    async def _main(self, call: Call) -> Response:
        match call.attributes.verb:
            case "get":
                return self._reader.get(call)
            case "list":
                return self._reader.list_objects(call)
            case "watch":
                return self._reader.watch(call)
            case "create":
                return await self._create(call)
            case "update":
                body = await self._object_in_body(call)
                return await self._modify(call, _put(body))
            case "patch":
                return await self._patch(call)
            case "delete":
                return await self._delete(call)
            case "deletecollection":
                return await self._delete_collection(call)
        raise no_such_verb()

    async def _subresource(self, call: Call) -> Response:
        wanted = call.attributes
        if wanted.subresource == "scale":
            return await self._scale(call)
        if wanted.verb == "create":
            match wanted.resource, wanted.subresource:
                case "pods", "binding":
                    body = await self._plain_body(call, "Binding")
                    return await self._bind(call, body, call.key)
                case "pods", "eviction":
                    return await self._evict(call)
                case "serviceaccounts", "token":
                    return await self._token(call)
            raise no_such_verb()
        match wanted.verb:
            case "get" if wanted.subresource != "finalize":
                return self._reader.get(call)
            case "update":
                body = await self._object_in_body(call)
                return await self._modify(call, _put(body))
            case "patch":
                return await self._patch(call)
        raise no_such_verb()

    # -- writing ---------------------------------------------------------------------------

    async def _create(self, call: Call) -> Response:
        wanted, resource = call.attributes, call.served.resource
        obj = await self._object_in_body(call)
        if self._reviews.handles(resource.kind):
            namespace = wanted.namespace
            answered = self._reviews.answer(resource.kind, obj, call.user, namespace)
            return render(answered, call.accept, 201)
        if resource.kind == "Binding":
            return await self._bind(call, obj, Key(_PODS.storage, wanted.namespace, name_of(obj)))
        if wanted.name:
            raise no_such_verb()
        if call.served.storage == CERTIFICATE_REQUESTS:
            self._certificates.prepare(obj, call.user)
        namespace = wanted.namespace if resource.namespaced else ""
        if resource.namespaced and not namespace:
            raise BadRequest("an empty namespace may not be set during creation")
        generated = not meta(obj).get("name") and bool(meta(obj).get("generateName"))
        for attempt in range(_GENERATE_ATTEMPTS):
            try:
                written = await self._writer.create(call.served, obj, namespace, self._by(call))
                break
            except AlreadyExists:
                if not generated or attempt == _GENERATE_ATTEMPTS - 1:
                    raise
                meta(obj).pop("name", None)
        return await self._shown(call, written)

    async def _patch(self, call: Call) -> Response:
        media = patching.media_type(call)
        data = await call.request.read(_PATCH_LIMIT_BYTES)
        if media == patching.APPLY:
            config = patching.read_config(data)
            versions = self._writer.versions_of(call.served)
            transform = patching.applied(call, config, self._clock.now(), versions)
            return await self._modify(call, transform, tracked=True)
        change = patching.change(call, media, data)
        patched = patching.of_present(call, change)

        def checked(present: Object | None) -> Object:
            doc = patched(present)
            self._validate_fields(call, doc, ())
            return doc

        return await self._modify(call, checked)

    async def _modify(self, call: Call, transform: Transform, *, tracked: bool = False) -> Response:
        by = self._by(call, tracked=tracked)
        if call.served.storage == CERTIFICATE_REQUESTS:
            transform = self._certificates.guarded(call, transform)
        written = await self._writer.modify(call.served, call.key, transform, by)
        return await self._shown(call, written)

    def _by(self, call: Call, *, tracked: bool = False, raw: bool = False) -> By:
        return By(
            call.user,
            call.manager,
            call.subresource,
            call.dry_run,
            tracked,
            raw,
            _options(call),
            call.warnings,
            call.annotations,
        )

    async def _shown(self, call: Call, written: Written) -> Response:
        if written.created and call.served.storage == "namespaces" and not call.dry_run:
            await self._bootstrap.furnish(name_of(msgspec.json.decode(written.data)))
        data = await self._view_one(call, written.data)
        return render(data, call.accept, 201 if written.created else 200)

    async def _view_one(self, call: Call, data: bytes) -> bytes:
        view = self._reader.view(call)
        return await converted(lambda: view.one(data))

    async def _object_in_body(self, call: Call) -> Object:
        """The object a create or update carries, of the kind the path wants.

        Raises:
            BadRequest: it is another kind, or has fields nobody knows and validation is strict.
        """
        wants_duplicates = call.params.get("fieldValidation") in ("Strict", "Warn")
        body = await read_body(call.request, find_duplicates=wants_duplicates)
        obj, resource = body.value, call.served.resource
        if not isinstance(obj, dict):
            raise BadRequest(f"the body must be a {resource.kind}")
        version, kind = obj.get("apiVersion"), obj.get("kind")
        if version and kind and (version, kind) != (resource.api_version, resource.kind):
            if version != resource.api_version:
                raise BadRequest(
                    f"the API version in the data ({version}) does not match the expected API"
                    f" version ({resource.api_version})"
                )
            raise BadRequest(
                f'{kind} in version "{resource.version}" cannot be handled as a {resource.kind}'
            )
        obj = {"kind": resource.kind, "apiVersion": resource.api_version, **obj}
        obj["kind"], obj["apiVersion"] = resource.kind, resource.api_version
        if not isinstance(obj.get("metadata") or {}, dict):
            raise BadRequest("metadata must be an object")
        self._validate_fields(call, obj, body.duplicates)
        return obj

    def _validate_fields(self, call: Call, obj: Object, duplicates: tuple[str, ...]) -> None:
        mode = call.params.get("fieldValidation") or "Warn"
        if mode not in ("Ignore", "Warn", "Strict"):
            raise BadRequest(
                f'fieldValidation: Unsupported value: "{mode}": supported values: "Ignore",'
                ' "Strict", "Warn"'
            )
        if mode == "Ignore":
            return
        schema = call.served.schema
        unknown = [] if fits(schema, obj) else schemas.unknown_fields(schema, obj)
        problems = [f'unknown field "{path}"' for path in unknown]
        problems += [f'duplicate field "{name}"' for name in duplicates]
        if problems and mode == "Strict":
            resource = call.served.resource
            raise BadRequest(
                f'{resource.kind} in version "{resource.version}" cannot be handled as a'
                f" {resource.kind}: strict decoding error: {', '.join(problems)}"
            )
        call.warnings.extend(problems)

    # -- deleting --------------------------------------------------------------------------

    async def _delete(self, call: Call) -> Response:
        options = await self._delete_options(call)
        deleted = await self._deleter.delete(call.served, call.key, options, call.user)
        if deleted.gone and call.served.storage != "pods":
            return render(success(call.served, msgspec.json.decode(deleted.data)), call.accept)
        return render(await self._view_one(call, deleted.data), call.accept)

    async def _delete_options(self, call: Call) -> DeleteOptions:
        return DeleteOptions.of(call, (await read_body(call.request)).value)

    async def _delete_collection(self, call: Call) -> Response:
        options = await self._delete_options(call)
        selection = Selection.of(call)
        if call.served.resource.namespaced and not call.attributes.namespace:
            raise no_such_verb()
        namespace = call.attributes.namespace or None
        rows = selection.filter(self._store.rows(call.served.storage, namespace))
        gone: list[bytes] = []
        for row in rows:
            if self._store.latest(row.key) is None:
                continue
            deleted = await self._deleter.delete(call.served, row.key, options, call.user)
            gone.append(deleted.data)
        metadata = {"resourceVersion": str(self._store.resource_version)}
        view = self._reader.view(call)
        return render(await converted(lambda: view.many(gone, metadata)), call.accept)

    # -- subresources of another kind ------------------------------------------------------

    async def _scale(self, call: Call) -> Response:
        if call.attributes.verb == "get":
            row = self._store.get(call.key)
            if row is None:
                raise not_found(call.served, call.attributes.name)
            return render(await self._scale_of(call, row.data), call.accept)
        if call.attributes.verb == "update":
            body = (await read_body(call.request)).value
            if not isinstance(body, dict):
                raise BadRequest("the body must be a Scale")
            transform = subresources.scaled(call, lambda _scale: body)
        else:
            media = patching.media_type(call)
            data = await call.request.read(_PATCH_LIMIT_BYTES)
            if media == patching.APPLY:
                config = patching.read_config(data)
                transform = subresources.scaled(call, lambda _scale: config)
            else:
                transform = subresources.scaled(call, patching.change(call, media, data))
        by = replace(self._by(call), subresource="")
        written = await self._writer.modify(call.served, call.key, transform, by)
        return render(await self._scale_of(call, written.data), call.accept)

    async def _scale_of(self, call: Call, data: bytes) -> Object:
        shown = await converted(lambda: call.served.shown(data))
        return subresources.scale_of(call, msgspec.json.decode(shown))

    async def _bind(self, call: Call, body: Object, pod: Key) -> Response:
        transform = subresources.bound(self._store, body, rfc3339(self._clock.now()))
        by = replace(self._by(call, raw=True), subresource="binding")
        await self._writer.modify(_PODS, pod, transform, by)
        return render(_success_status(), call.accept, 201)

    async def _evict(self, call: Call) -> Response:
        await self._evictions.evict(call, await self._plain_body(call, "Eviction"))
        return render(_success_status(), call.accept, 201)

    async def _token(self, call: Call) -> Response:
        body = await self._plain_body(call, "TokenRequest")
        row = self._store.get(call.key)
        if row is None:
            raise not_found(call.served, call.attributes.name)
        restrictions.check_token(self._store, call, body)
        answered = subresources.issue_token(
            self._store, self._authenticator, self._clock, row.decode(), body
        )
        return render(answered, call.accept, 201)

    async def _plain_body(self, call: Call, kind: str) -> Object:
        body: Any = (await read_body(call.request)).value
        if not isinstance(body, dict) or body.get("kind", kind) != kind:
            raise BadRequest(f"the body must be a {kind}")
        return body


def _put(body: Object) -> Transform:
    data = msgspec.json.encode(body)
    return lambda _present: msgspec.json.decode(data)


def _options(call: Call) -> Object:
    """The CreateOptions, UpdateOptions or PatchOptions of a request."""
    options: Object = {
        "apiVersion": "meta.k8s.io/v1",
        "kind": f"{call.attributes.verb.capitalize()}Options",
    }
    if call.dry_run:
        options["dryRun"] = ["All"]
    for name in ("fieldManager", "fieldValidation"):
        if call.params.get(name):
            options[name] = call.params[name]
    return options


def _success_status() -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": 201,
    }
