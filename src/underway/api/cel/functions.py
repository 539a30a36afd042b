"""The functions Kubernetes adds to CEL: lists, regex, quantity, url, ip and cidr; all others
lie in modules of their own.

Values of the added types are maps with one entry, which names their type.

Source: Kubernetes reference, "Common Expression Language in Kubernetes", CEL options and
libraries. Errors raised here become the evaluation's error.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cel_expr_python import cel  # type: ignore[import-untyped]

from underway.api import quantity
from underway.api.cel import authorizer, collections, formats, versions
from underway.api.patterns import compile_pattern

_T = cel.Type
_OBJECT = _T.Map(_T.STRING, _T.DYN)
_LIST = _T.List(_T.DYN)
_QUANTITY, _URL, _IP, _CIDR = "quantity", "url", "ip", "cidr"


def declarations() -> list[cel.FunctionDecl]:
    """All of them, for an environment."""
    found: dict[str, list[cel.Overload]] = {}

    def add(
        name: str, result: cel.Type, given: list[cel.Type], impl: Callable[..., Any], of: str = ""
    ) -> None:
        overloads = found.setdefault(name, [])
        identity = f"{name}_{of or 'function'}_{len(overloads)}"
        overloads.append(cel.Overload(identity, result, given, is_member=bool(of), impl=impl))

    add("min", _T.DYN, [_LIST], lambda items: min(_some(items, "min")), of="list")
    add("max", _T.DYN, [_LIST], lambda items: max(_some(items, "max")), of="list")
    add("sum", _T.DYN, [_LIST], _sum, of="list")
    add("isSorted", _T.BOOL, [_LIST], _is_sorted, of="list")
    add("indexOf", _T.INT, [_LIST, _T.DYN], _index_of, of="list")
    add("lastIndexOf", _T.INT, [_LIST, _T.DYN], _last_index_of, of="list")
    add("find", _T.STRING, [_T.STRING, _T.STRING], _find, of="string")
    add("findAll", _T.List(_T.STRING), [_T.STRING, _T.STRING], _find_all, of="string")
    add("findAll", _T.List(_T.STRING), [_T.STRING, _T.STRING, _T.INT], _find_all, of="string")
    _add_quantity(add)
    _add_url(add)
    _add_addresses(add)
    for library in (authorizer, collections, formats, versions):
        library.declare(add, _T)
    return [cel.FunctionDecl(name, overloads) for name, overloads in found.items()]


def _some(items: list[Any], name: str) -> list[Any]:
    if not items:
        raise ValueError(f"{name} called on empty list")
    return items


def _sum(items: list[Any]) -> Any:
    return sum(items[1:], items[0]) if items else 0


def _is_sorted(items: list[Any]) -> bool:
    return all(items[at] <= items[at + 1] for at in range(len(items) - 1))


def _index_of(items: list[Any], wanted: Any) -> int:
    return items.index(wanted) if wanted in items else -1


def _last_index_of(items: list[Any], wanted: Any) -> int:
    return len(items) - 1 - items[::-1].index(wanted) if wanted in items else -1


def _pattern(text: str) -> Any:
    try:
        return compile_pattern(text)
    except ValueError as error:
        raise ValueError(f"illegal regex: {error}") from error


def _find(text: str, pattern: str) -> str:
    match = _pattern(pattern).search(text)
    return match.group(0) if match else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found: list[str] = []
    for match in _pattern(pattern).finditer(text):
        if 0 <= limit <= len(found):
            break
        found.append(match.group(0))
    return found


def _of(value: dict[str, Any], name: str) -> Any:
    if name not in value:
        raise ValueError(f"no such overload: the value is no {name}")
    return value[name]


def _is(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _amount(text: str) -> dict[str, Any]:
    quantity.parse(text)
    return {_QUANTITY: quantity.canonical(text)}


def _number(value: dict[str, Any]) -> Any:
    return quantity.parse(_of(value, _QUANTITY))


def _other(value: Any) -> Any:
    return value if isinstance(value, int) else _number(value)


def _whole(value: dict[str, Any]) -> int:
    number = _number(value)
    if number.denominator != 1:
        raise ValueError("cannot convert value to integer")
    return int(number)


def _add_quantity(add: Callable[..., None]) -> None:
    add("quantity", _OBJECT, [_T.STRING], _amount)
    add("isQuantity", _T.BOOL, [_T.STRING], quantity.is_quantity)
    member = {"of": _QUANTITY}
    add("isGreaterThan", _T.BOOL, [_OBJECT] * 2, lambda a, b: _compare(a, b) > 0, **member)
    add("isLessThan", _T.BOOL, [_OBJECT] * 2, lambda a, b: _compare(a, b) < 0, **member)
    add("compareTo", _T.INT, [_OBJECT] * 2, _compare, **member)
    add("sign", _T.INT, [_OBJECT], lambda a: _sign(_number(a)), **member)
    add("isInteger", _T.BOOL, [_OBJECT], lambda a: _number(a).denominator == 1, **member)
    add("asInteger", _T.INT, [_OBJECT], _whole, **member)
    add("asApproximateFloat", _T.DOUBLE, [_OBJECT], lambda a: float(_number(a)), **member)
    for other in (_OBJECT, _T.INT):
        add("add", _OBJECT, [_OBJECT, other], _plus, **member)
        add("sub", _OBJECT, [_OBJECT, other], _minus, **member)


def _compare(one: Any, other: Any) -> int:
    """Quantities or versions: below, at or above 0 as the first is less, equal or more."""
    read: Callable[[Any], Any] = versions.of if versions.SEMVER in one else _number
    first, second = read(one), read(other)
    return int(first > second) - int(first < second)


def _plus(value: dict[str, Any], other: Any) -> dict[str, Any]:
    return _result(_number(value) + _other(other))


def _minus(value: dict[str, Any], other: Any) -> dict[str, Any]:
    return _result(_number(value) - _other(other))


def _result(value: Any) -> dict[str, Any]:
    return {_QUANTITY: quantity.format_value(value)}


def _sign(value: Any) -> int:
    return int(value > 0) - int(value < 0)


def _url(text: str) -> dict[str, Any]:
    parts = urlsplit(text)
    if not parts.scheme and not text.startswith("/"):
        raise ValueError(f'URL parse error during conversion from string: invalid URI "{text}"')
    _ = parts.port  # raises for a port that is none
    return {_URL: text}


def _add_url(add: Callable[..., None]) -> None:
    def getter(name: str, read: Callable[[Any], Any], result: cel.Type = _T.STRING) -> None:
        add(name, result, [_OBJECT], lambda value: read(urlsplit(_of(value, _URL))), of=_URL)

    add("url", _OBJECT, [_T.STRING], _url)
    add("isURL", _T.BOOL, [_T.STRING], _is(_url))
    getter("getScheme", lambda parts: parts.scheme)
    getter("getHost", lambda parts: parts.netloc.rpartition("@")[2])
    getter("getHostname", lambda parts: parts.hostname or "")
    getter("getPort", lambda parts: str(parts.port or ""))
    getter("getEscapedPath", lambda parts: parts.path)
    getter("getQuery", lambda parts: parse_qs(parts.query, keep_blank_values=True), _OBJECT)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if "%" in text or text.lower().startswith("::ffff:"):
        raise ValueError(f"IP Address {text!r} parse error: zones and mapped addresses are refused")
    return ipaddress.ip_address(text)


def _network(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    if not text.rpartition("/")[2].isdecimal() or "/" not in text or "%" in text:
        raise ValueError(f"network address parse error: {text!r} is no CIDR")
    return ipaddress.ip_interface(text)


def _add_addresses(add: Callable[..., None]) -> None:
    def of_ip(name: str, result: cel.Type, read: Callable[[Any], Any]) -> None:
        add(name, result, [_OBJECT], lambda value: read(_address(_of(value, _IP))), of=_IP)

    def of_cidr(name: str, result: cel.Type, read: Callable[[Any], Any]) -> None:
        add(name, result, [_OBJECT], lambda value: read(_network(_of(value, _CIDR))), of=_CIDR)

    def contains(name: str, key: str, check: Callable[[str, str], bool]) -> None:
        add(name, _T.BOOL, [_OBJECT, _T.STRING], lambda a, b: check(_of(a, _CIDR), b), of=_CIDR)
        either = lambda a, b: check(_of(a, _CIDR), _of(b, key))  # noqa: E731  # beside its twin
        add(name, _T.BOOL, [_OBJECT, _OBJECT], either, of=_CIDR)

    add("ip", _OBJECT, [_T.STRING], lambda text: {_IP: str(_address(text))})
    add("isIP", _T.BOOL, [_T.STRING], _is(_address))
    add("ip.isCanonical", _T.BOOL, [_T.STRING], lambda text: str(_address(text)) == text)
    of_ip("family", _T.INT, lambda address: address.version)
    of_ip("isUnspecified", _T.BOOL, lambda address: address.is_unspecified)
    of_ip("isLoopback", _T.BOOL, lambda address: address.is_loopback)
    of_ip("isLinkLocalMulticast", _T.BOOL, _link_local_multicast)
    of_ip("isLinkLocalUnicast", _T.BOOL, lambda a: a.is_link_local and not a.is_multicast)
    of_ip("isGlobalUnicast", _T.BOOL, _global_unicast)
    add("cidr", _OBJECT, [_T.STRING], lambda text: {_CIDR: str(_network(text))})
    add("isCIDR", _T.BOOL, [_T.STRING], _is(_network))
    of_cidr("prefixLength", _T.INT, lambda cidr: cidr.network.prefixlen)
    of_cidr("masked", _OBJECT, lambda cidr: {_CIDR: str(cidr.network)})
    of_cidr("ip", _OBJECT, lambda cidr: {_IP: str(cidr.ip)})
    contains("containsIP", _IP, lambda a, b: _address(b) in _network(a).network)
    contains("containsCIDR", _CIDR, _covers)
    add("string", _T.STRING, [_OBJECT], lambda value: str(value.get(_IP) or _of(value, _CIDR)))


def _covers(outer: str, inner: str) -> bool:
    wide, narrow = _network(outer).network, _network(inner).network
    if isinstance(wide, ipaddress.IPv4Network) and isinstance(narrow, ipaddress.IPv4Network):
        return narrow.subnet_of(wide)
    if isinstance(wide, ipaddress.IPv6Network) and isinstance(narrow, ipaddress.IPv6Network):
        return narrow.subnet_of(wide)
    return False


def _link_local_multicast(address: Any) -> bool:
    wide = "224.0.0.0/24" if address.version == 4 else "ff02::/16"
    return address in ipaddress.ip_network(wide)


def _global_unicast(address: Any) -> bool:
    broadcast = ipaddress.ip_address("255.255.255.255")
    special = (address.is_unspecified, address.is_loopback, address.is_multicast)
    return not (any(special) or address.is_link_local or address == broadcast)
