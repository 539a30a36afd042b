"""Names, labels and keys: each check gives the messages that say what is wrong, or none.

Source: Kubernetes apimachinery ``pkg/util/validation``; RFC 1123, RFC 1035, RFC 6335.
"""

from __future__ import annotations

import re

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_QUALIFIED_RULE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character"
)
_QUALIFIED_EXAMPLES = ("MyName", "my.name", "123-abc")
_CONFIG_KEY = "[-._a-zA-Z0-9]+"

LABEL_LIMIT = 63
SUBDOMAIN_LIMIT = 253


def _must_match(pattern: str, text: str, rule: str, examples: tuple[str, ...]) -> list[str]:
    if re.fullmatch(pattern, text):
        return []
    listed = ",  or ".join(f"'{example}'" for example in examples)
    return [f"{rule} (e.g. {listed}, regex used for validation is '{pattern}')"]


def _at_most(text: str, limit: int) -> list[str]:
    return [f"must be no more than {limit} characters"] if len(text) > limit else []


def dns_label(text: str) -> list[str]:
    """RFC 1123 label."""
    if len(text) <= LABEL_LIMIT and "." in text and re.fullmatch(_SUBDOMAIN, text):
        return ["must not contain dots"]
    rule = (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
        "and must start and end with an alphanumeric character"
    )
    return _at_most(text, LABEL_LIMIT) + _must_match(_LABEL, text, rule, ("my-name", "123-abc"))


def dns_1035_label(text: str) -> list[str]:
    """RFC 1035 label, as names of Services are."""
    rule = (
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with "
        "an alphabetic character, and end with an alphanumeric character"
    )
    checked = _must_match(_LABEL_1035, text, rule, ("my-name", "abc-123"))
    return _at_most(text, LABEL_LIMIT) + checked


def dns_subdomain(text: str) -> list[str]:
    """RFC 1123 subdomain, as most names are."""
    rule = (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' "
        "or '.', and must start and end with an alphanumeric character"
    )
    return _at_most(text, SUBDOMAIN_LIMIT) + _must_match(_SUBDOMAIN, text, rule, ("example.com",))


def path_segment(text: str) -> list[str]:
    """Anything that can stand in a path, as names of RBAC objects are."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{char}'" for char in "/%" if char in text]


def qualified_name(text: str) -> list[str]:
    """A label's or annotation's key, with or without a prefix."""
    prefix, slash, name = text.rpartition("/")
    found: list[str] = []
    if slash:
        if not prefix:
            found.append("prefix part must be non-empty")
        elif "/" in prefix:
            rule = f"a qualified name {_QUALIFIED_RULE}"
            (message,) = _must_match(_QUALIFIED, text, rule, _QUALIFIED_EXAMPLES)
            optional = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            return [message + optional]
        else:
            found += [f"prefix part {message}" for message in dns_subdomain(prefix)]
    if not name:
        found.append("name part must be non-empty")
    found += [f"name part {message}" for message in _at_most(name, LABEL_LIMIT)]
    rule = f"name part {_QUALIFIED_RULE}"
    return found + _must_match(_QUALIFIED, name, rule, _QUALIFIED_EXAMPLES)


def label_value(text: str) -> list[str]:
    """A label's value."""
    rule = (
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or "
        "'.', and must start and end with an alphanumeric character"
    )
    checked = _must_match(f"({_QUALIFIED})?", text, rule, ("MyValue", "my_value", "12345"))
    return _at_most(text, LABEL_LIMIT) + checked


def config_key(text: str) -> list[str]:
    """A key of a ConfigMap or Secret, which becomes a file's name."""
    rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
    found = _at_most(text, SUBDOMAIN_LIMIT)
    found += _must_match(_CONFIG_KEY, text, rule, ("key.name", "KEY_NAME", "key-name"))
    if text in (".", "..") or text.startswith(".."):
        found.append(f"must not be '{text}'" if text in (".", "..") else "must not start with '..'")
    return found


def environment_name(text: str) -> list[str]:
    """An environment variable's name."""
    if text and all(" " <= char <= "~" and char != "=" for char in text):
        return []
    rule = (
        "a valid environment variable name must consist only of printable ASCII characters "
        "other than '='"
    )
    return [rule]


def port_name(text: str) -> list[str]:
    """An IANA service name, as ports have."""
    found = [] if len(text) <= 15 else ["must be no more than 15 characters"]
    if not re.fullmatch("[-a-z0-9]+", text):
        found.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", text):
        found.append("must contain at least one letter (a-z)")
    if "--" in text:
        found.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        found.append("must not begin or end with a hyphen")
    return found


def port_number(value: object) -> list[str]:
    """A port."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and 1 <= value <= 65_535:  # type: ignore[operator]
        return []
    return ["must be between 1 and 65535, inclusive"]
