"""Sprig's functions for Go templates, those that need neither keys nor the network.

Source: Sprig function documentation (strings, lists, dictionaries, defaults, numbers, encoding).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import textwrap
import zlib
from collections.abc import Mapping
from typing import Any

from underway.wire.gotemplate_functions import Function, FunctionError, truth
from underway.wire.gotemplate_literals import display, quoted, type_name

WIDEST = 1_000_000  # characters and items that one call may make


def _text(value: Any) -> str:
    return value if isinstance(value, str) else display(value)


def _int(value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value, 0) if value.lstrip("+-")[:1] != "0" else int(value or 0)
        except ValueError:
            return 0
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else 0


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _items(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return list(value)
    raise FunctionError(f"cannot take {type_name(value)} for a list")


def _map(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return value
    raise FunctionError(f"cannot take {type_name(value)} for a map")


def _dict(*pairs: Any) -> dict[str, Any]:
    keys, values = pairs[::2], [*pairs[1::2], *([""] if len(pairs) % 2 else [])]
    return {_text(key): value for key, value in zip(keys, values, strict=True)}


def _set(holder: Any, key: str, value: Any) -> Any:
    if not isinstance(holder, dict):
        raise FunctionError(f"cannot set a key of {type_name(holder)}")
    holder[key] = value
    return holder


def _unset(holder: Any, key: str) -> Any:
    if isinstance(holder, dict):
        holder.pop(key, None)
    return holder


def _default(fallback: Any, given: Any = None) -> Any:
    return given if truth(given) else fallback


def _coalesce(*values: Any) -> Any:
    return next((each for each in values if truth(each)), None)


def _dig(*path: Any) -> Any:
    *keys, fallback, holder = path
    for key in keys:
        if not isinstance(holder, Mapping) or key not in holder:
            return fallback
        holder = holder[key]
    return holder


def _merge(target: Any, *others: Any) -> Any:
    for other in others:
        for key, value in _map(other).items():
            if isinstance(target.get(key), dict) and isinstance(value, Mapping):
                _merge(target[key], value)
            elif not truth(target.get(key)):
                target[key] = value
    return target


def _indent(width: int, text: Any) -> str:
    return " " * _bounded(width) + _text(text).replace("\n", "\n" + " " * width)


def _bounded(number: Any) -> int:
    if not isinstance(number, int) or abs(number) > WIDEST:
        raise FunctionError(f"{display(number)} is more than {WIDEST}")
    return number


def _repeat(count: int, text: Any) -> str:
    if max(0, count) * len(_text(text)) > WIDEST:
        raise FunctionError(f"repeating makes more than {WIDEST} characters")
    return _text(text) * count


def _trunc(length: int, text: Any) -> str:
    return _text(text)[length:] if length < 0 else _text(text)[:length]


def _substr(start: int, end: int, text: Any) -> str:
    return _text(text)[max(0, start) : end if end >= 0 else None]


def _replace(old: str, new: str, text: Any) -> str:
    return _text(text).replace(old, new)


def _join(separator: str, values: Any) -> str:
    return separator.join(_text(each) for each in _items(values) if each is not None)


def _split_list(separator: str, text: Any) -> list[Any]:
    return list(_text(text)) if not separator else list(_text(text).split(separator))


def _split(separator: str, text: Any) -> dict[str, Any]:
    return {f"_{n}": each for n, each in enumerate(_split_list(separator, text))}


def _fail(message: Any) -> Any:
    raise FunctionError(_text(message))


def _required(message: Any, value: Any) -> Any:
    return _fail(message) if value is None or value == "" else value


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _from_json(text: Any) -> Any:
    try:
        return json.loads(_text(text))
    except ValueError as error:
        raise FunctionError(f"not JSON: {error}") from error


def _until(count: int) -> list[int]:
    return list(range(_bounded(count))) if count >= 0 else list(range(0, count, -1))


def _until_step(start: int, stop: int, step: int) -> list[int]:
    return list(range(_bounded(start), _bounded(stop), step)) if step else []


def _sum(*values: Any) -> int:
    return sum(map(_int, values))


def _product(*values: Any) -> int:
    return math.prod(map(_int, values))


def _div(one: Any, other: Any) -> int:
    if not _int(other):
        raise FunctionError("division by zero")
    return int(_int(one) / _int(other))


def _mod(one: Any, other: Any) -> int:
    if not _int(other):
        raise FunctionError("division by zero")
    return int(math.fmod(_int(one), _int(other)))


def _round(value: Any, digits: int) -> float:
    scale = 10.0**digits
    return math.floor(_float(value) * scale + 0.5) / scale


def _uniq(values: Any) -> list[Any]:
    found: list[Any] = []
    for each in _items(values):
        if each not in found:
            found.append(each)
    return found


def _kind_of(value: Any) -> str:
    kind = type_name(value)
    return {"<nil>": "invalid", "map[string]interface {}": "map", "[]interface {}": "slice"}.get(
        kind, kind
    )


def _words(text: Any) -> list[str]:
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", _text(text))
    return re.findall(r"[A-Za-z0-9]+", spaced)


def _matches(pattern: str, text: Any) -> bool:
    try:
        return re.search(pattern, _text(text)) is not None
    except re.error as error:
        raise FunctionError(f"{pattern}: {error}") from error


def _replace_all(pattern: str, text: Any, replacement: str) -> str:
    fixed = re.sub(r"\$\{?(\w+)\}?", r"\\g<\1>", replacement)
    try:
        return re.sub(pattern, fixed, _text(text))
    except (re.error, IndexError) as error:
        raise FunctionError(f"{pattern}: {error}") from error


def _digest(algorithm: str) -> Function:
    def digest(text: Any) -> str:
        return hashlib.new(algorithm, _text(text).encode(), usedforsecurity=False).hexdigest()

    return digest


_STRINGS: dict[str, Function] = {
    "quote": lambda *values: " ".join(quoted(_text(each)) for each in values if each is not None),
    "squote": lambda *values: " ".join(f"'{_text(each)}'" for each in values if each is not None),
    "upper": lambda text: _text(text).upper(),
    "lower": lambda text: _text(text).lower(),
    "title": lambda text: re.sub(r"\b\w", lambda found: found[0].upper(), _text(text)),
    "untitle": lambda text: re.sub(r"\b\w", lambda found: found[0].lower(), _text(text)),
    "trim": lambda text: _text(text).strip(),
    "trimAll": lambda cut, text: _text(text).strip(cut),
    "trimPrefix": lambda prefix, text: _text(text).removeprefix(prefix),
    "trimSuffix": lambda suffix, text: _text(text).removesuffix(suffix),
    "hasPrefix": lambda prefix, text: _text(text).startswith(prefix),
    "hasSuffix": lambda suffix, text: _text(text).endswith(suffix),
    "contains": lambda part, text: part in _text(text),
    "replace": _replace,
    "repeat": _repeat,
    "trunc": _trunc,
    "substr": _substr,
    "nospace": lambda text: re.sub(r"\s", "", _text(text)),
    "indent": _indent,
    "nindent": lambda width, text: "\n" + _indent(width, text),
    "wrap": lambda width, text: textwrap.fill(_text(text), _bounded(width)),
    "cat": lambda *values: " ".join(_text(each) for each in values if each is not None),
    "toString": _text,
    "join": _join,
    "split": _split,
    "splitList": _split_list,
    "snakecase": lambda text: "_".join(_words(text)).lower(),
    "kebabcase": lambda text: "-".join(_words(text)).lower(),
    "camelcase": lambda text: "".join(each[:1].upper() + each[1:] for each in _words(text)),
    "regexMatch": _matches,
    "regexReplaceAll": _replace_all,
    "plural": lambda one, many, count: one if count == 1 else many,
}
_COLLECTIONS: dict[str, Function] = {
    "dict": _dict,
    "get": lambda holder, key: _map(holder).get(key, ""),
    "set": _set,
    "unset": _unset,
    "hasKey": lambda holder, key: key in _map(holder),
    "keys": lambda *maps: [key for each in maps for key in sorted(_map(each))],
    "values": lambda holder: [_map(holder)[key] for key in sorted(_map(holder))],
    "pick": lambda holder, *keys: {key: holder[key] for key in keys if key in _map(holder)},
    "omit": lambda holder, *keys: {k: v for k, v in _map(holder).items() if k not in keys},
    "pluck": lambda key, *maps: [_map(each)[key] for each in maps if key in _map(each)],
    "merge": _merge,
    "dig": _dig,
    "deepCopy": lambda value: json.loads(json.dumps(value)),
    "list": lambda *values: list(values),
    "tuple": lambda *values: list(values),
    "first": lambda values: next(iter(_items(values)), None),
    "last": lambda values: _items(values)[-1] if values else None,
    "rest": lambda values: _items(values)[1:],
    "initial": lambda values: _items(values)[:-1],
    "append": lambda values, *more: [*_items(values), *more],
    "prepend": lambda values, first: [first, *_items(values)],
    "concat": lambda *lists: [each for values in lists for each in _items(values)],
    "reverse": lambda values: _items(values)[::-1],
    "uniq": _uniq,
    "without": lambda values, *gone: [each for each in _items(values) if each not in gone],
    "has": lambda value, values: value in _items(values),
    "compact": lambda values: [each for each in _items(values) if truth(each)],
    "sortAlpha": lambda values: sorted(_text(each) for each in _items(values)),
    "until": _until,
    "untilStep": _until_step,
}
_LOGIC: dict[str, Function] = {
    "default": _default,
    "empty": lambda value: not truth(value),
    "coalesce": _coalesce,
    "ternary": lambda yes, no, test: yes if test else no,
    "fail": _fail,
    "required": _required,
    "kindOf": _kind_of,
    "kindIs": lambda kind, value: _kind_of(value) == kind,
    "typeOf": type_name,
    "typeIs": lambda kind, value: type_name(value) == kind,
}
_NUMBERS: dict[str, Function] = {
    "int": _int,
    "int64": _int,
    "float64": _float,
    "atoi": _int,
    "add": _sum,
    "add1": lambda value: _int(value) + 1,
    "sub": lambda one, other: _int(one) - _int(other),
    "mul": _product,
    "div": _div,
    "mod": _mod,
    "max": lambda first, *others: max(map(_int, (first, *others))),
    "min": lambda first, *others: min(map(_int, (first, *others))),
    "floor": lambda value: float(math.floor(_float(value))),
    "ceil": lambda value: float(math.ceil(_float(value))),
    "round": _round,
}
_ENCODING: dict[str, Function] = {
    "b64enc": lambda text: base64.b64encode(_text(text).encode()).decode(),
    "b64dec": lambda text: base64.b64decode(_text(text)).decode("utf-8", "replace"),
    "toJson": _json,
    "toPrettyJson": lambda value: json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False),
    "fromJson": _from_json,
    "sha1sum": _digest("sha1"),
    "sha256sum": _digest("sha256"),
    "adler32sum": lambda text: str(zlib.adler32(_text(text).encode())),
}

SPRIG: Mapping[str, Function] = {**_STRINGS, **_COLLECTIONS, **_LOGIC, **_NUMBERS, **_ENCODING}
