"""get, list and watch.

Source: Kubernetes API concepts: "Resource versions", "Retrieving large results sets in chunks",
"Streaming lists".
"""

from __future__ import annotations

import random
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

import msgspec

from underway.api import selectors
from underway.api.objects import Object, labels_of
from underway.api.resources import EVENTS_CORE
from underway.base.clock import Clock
from underway.base.errors import BadRequest, Expired, Invalid, RequestTimeout
from underway.server.call import Call, not_found
from underway.server.negotiation import render
from underway.server.store import Row, Store
from underway.server.versions import each
from underway.server.views import AnyView, view_of
from underway.server.watch import Hub, Match, Watch
from underway.wire.http import Response

_WATCH_MIN_S = 1800
_INCONSISTENT = (
    "The provided continue parameter is too old to display a consistent list result. You can"
    " start a new list without the continue parameter, or use the continue token in this response"
    " to retrieve the remainder of the results. Continuing with the provided token results in an"
    " inconsistent list - objects that were created, modified, or deleted between the time the"
    " first chunk was returned and now may show up in the list."
)


class _Labels(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Labelled(msgspec.Struct):
    metadata: _Labels


_labels_decoder = msgspec.json.Decoder(_Labelled)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a request selects by; ``name`` is a name that alone can match, or empty."""

    call: Call
    labels: selectors.LabelSelector
    fields: selectors.FieldSelector
    name: str

    @classmethod
    def of(cls, call: Call) -> Selection:
        """The selectors of a request.

        Raises:
            BadRequest: one cannot be understood.
        """
        labels = selectors.parse_labels(call.params.get("labelSelector", ""))
        fields = selectors.parse_fields(call.params.get("fieldSelector", ""))
        custom = call.served.custom
        if not fields.everything:
            selectable = custom.selectable if custom else ()
            selectors.check_fields(call.served.resource, fields, selectable)
        name = call.attributes.name or fields.exact("metadata.name") or ""
        return cls(call, labels, fields, name)

    def matcher(self) -> Match | None:
        """Decides by a stored object; None if everything matches."""
        if self.labels.everything and self.fields.everything:
            return None
        if self.fields.everything:
            return lambda obj: self.labels.matches(labels_of(obj))
        return self._matches

    def filter(self, rows: list[Row]) -> list[Row]:
        """The rows that match."""
        if self.name:
            rows = [row for row in rows if row.key.name == self.name]
        if not self.labels.everything:
            rows = [
                row
                for row in rows
                if self.labels.matches(_labels_decoder.decode(row.data).metadata.labels)
            ]
        if not self.fields.everything:
            matching = each(lambda row: self._matches(row.decode()), rows)
            rows = [row for row, matches in zip(rows, matching, strict=True) if matches]
        return rows

    def _matches(self, obj: Object) -> bool:
        served = self.call.served
        resource = served.resource
        if served.hub and served.to_shown is not None:
            obj = served.to_shown(obj)
        elif served.to_shown is not None:
            resource = EVENTS_CORE
        selectable = served.custom.selectable if served.custom else ()
        return self.labels.matches(labels_of(obj)) and self.fields.matches(
            lambda path: selectors.field_value(resource, obj, path, selectable)
        )


class Reader:
    """Answers reads from what is committed."""

    def __init__(self, store: Store, hub: Hub, clock: Clock) -> None:
        self._store = store
        self._hub = hub
        self._clock = clock

    def view(self, call: Call) -> AnyView:
        """The view a request asks for."""
        return view_of(call.served, call.accept, call.params.get("includeObject", ""), self._clock)

    def get(self, call: Call) -> Response:
        """One object.

        Raises:
            NotFound: it is not there.
        """
        row = self._store.get(call.key)
        if row is None:
            raise not_found(call.served, call.attributes.name)
        version = call.params.get("resourceVersion", "")
        if version not in ("", "0"):
            self._not_older_than(_version(version))
        return render(self.view(call).one(row.data), call.accept)

    def list_objects(self, call: Call) -> Response:
        """A list, or one page of it, from one consistent state."""
        selection = Selection.of(call)
        namespace = call.attributes.namespace or None
        limit = call.number("limit") or 0
        token = call.params.get("continue", "")
        after = ""
        if token:
            if call.params.get("resourceVersion", "") not in ("", "0"):
                raise BadRequest("specifying resource version is not allowed when using continue")
            version, after = _read_token(token)
            rows, version = self._continued(call, namespace, version, after)
        else:
            rows, version = self._state(call, namespace)
        rows = selection.filter(rows)
        metadata: Object = {"resourceVersion": str(version)}
        if limit and len(rows) > limit:
            remaining = len(rows) - limit
            rows = rows[:limit]
            metadata["continue"] = _token(version, rows[-1])
            if selection.labels.everything and selection.fields.everything:
                metadata["remainingItemCount"] = remaining
        data = self.view(call).many([row.data for row in rows], metadata)
        return render(data, call.accept)

    def _state(self, call: Call, namespace: str | None) -> tuple[list[Row], int]:
        storage = call.served.storage
        wanted = call.params.get("resourceVersion", "")
        match = call.params.get("resourceVersionMatch", "")
        if match not in ("", "Exact", "NotOlderThan"):
            raise Invalid(
                f'resourceVersionMatch: Unsupported value: "{match}": supported values: "Exact",'
                ' "NotOlderThan"'
            )
        if match and not wanted:
            raise BadRequest("resourceVersionMatch is forbidden unless resourceVersion is provided")
        if wanted and wanted != "0":
            number = _version(wanted)
            if match == "Exact" or (not match and call.number("limit")):
                return self._hub.rows_at(storage, namespace, number), number
            self._not_older_than(number)
        return self._store.rows(storage, namespace), self._store.resource_version

    def _continued(
        self, call: Call, namespace: str | None, version: int, after: str
    ) -> tuple[list[Row], int]:
        storage = call.served.storage
        if version < 0:
            rows, version = self._store.rows(storage, namespace), self._store.resource_version
        else:
            try:
                rows = self._hub.rows_at(storage, namespace, version)
            except Expired as error:
                raise _ExpiredPage(_INCONSISTENT, _encode_token(-1, after)) from error
        place = tuple(after.split("/", 1))
        return [row for row in rows if (row.key.namespace, row.key.name) > place], version

    def _not_older_than(self, version: int) -> None:
        current = self._store.resource_version
        if version > current:
            raise RequestTimeout(
                f"Too large resource version: {version}, current: {current}", retry_after_s=1
            )

    def watch(self, call: Call) -> Response:
        """Changes as they come.

        A version that lies before the history is answered, as upstream does it, by a stream that
        consists of an ERROR event.
        """
        selection = Selection.of(call)
        version = call.params.get("resourceVersion", "")
        initial = call.flag("sendInitialEvents")
        match = call.params.get("resourceVersionMatch", "")
        if "sendInitialEvents" in call.params and match != "NotOlderThan":
            raise Invalid(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting"
                " resourceVersionMatch to NotOlderThan"
            )
        if match and "sendInitialEvents" not in call.params:
            raise Invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch"
                " unless sendInitialEvents is provided"
            )
        since = None if initial or version in ("", "0") else _version(version)
        if "sendInitialEvents" in call.params and not initial and since is None:
            since = self._store.resource_version
        if since is not None:
            self._not_older_than(since)
        timeout_s = call.number("timeoutSeconds")
        bookmarks = call.flag("allowWatchBookmarks")
        watch = Watch(
            resource=call.served.storage,
            view=self.view(call),
            namespace=call.attributes.namespace if call.served.resource.namespaced else "",
            name=selection.name,
            since=since,
            match=selection.matcher(),
            bookmarks=bookmarks,
            initial_bookmark=initial and bookmarks,
            timeout_s=timeout_s or _WATCH_MIN_S * (1 + random.random()),  # noqa: S311  # spread
        )
        headers = {"content-type": "application/json"}
        return Response(200, headers, self._hub.stream(watch))


class _ExpiredPage(Expired):
    """A page of a state no longer known, with the token to go on regardless."""

    def __init__(self, message: str, token: str) -> None:
        super().__init__(message)
        self._token = token

    def to_status(self) -> Object:
        status = super().to_status()
        status["metadata"] = {"continue": self._token}
        return status


def _version(text: str) -> int:
    if not text.isdecimal() or len(text) > 19:
        raise BadRequest(
            f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return int(text)


def _token(version: int, last: Row) -> str:
    return _encode_token(version, f"{last.key.namespace}/{last.key.name}")


def _encode_token(version: int, after: str) -> str:
    data = msgspec.json.encode({"v": "meta.k8s.io/v1", "rv": version, "start": after})
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _read_token(token: str) -> tuple[int, str]:
    try:
        data = msgspec.json.decode(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        version, start = data["rv"], data["start"]
        if not isinstance(version, int) or "/" not in start:
            raise ValueError(start)
    except (ValueError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise BadRequest("continue key is not valid: it was not made by this server") from error
    return version, start
