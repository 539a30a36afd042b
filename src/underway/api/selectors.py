"""Label and field selectors.

Source: Kubernetes apimachinery ``pkg/labels`` (grammar of the string form), ``pkg/fields``, and
each group's field label conversions for the fields a kind can be selected by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from underway.api import names
from underway.api.objects import Object
from underway.api.resources import Resource
from underway.base.errors import BadRequest

MAX_REQUIREMENTS = 1000
Getter = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on a label.

    ``operator`` is ``In``, ``NotIn``, ``Exists``, ``DoesNotExist``, ``Gt`` or ``Lt``. ``equality``
    says that one value was given by ``=`` or ``!=``, which is how it is then written.
    """

    key: str
    operator: str
    values: tuple[str, ...] = ()
    equality: bool = False

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the condition holds; ``NotIn`` holds where the label is absent."""
        value = labels.get(self.key)
        if self.operator == "Exists":
            return value is not None
        if self.operator == "DoesNotExist":
            return value is None
        if self.operator == "NotIn":
            return value is None or value not in self.values
        if value is None:
            return False
        if self.operator == "In":
            return value in self.values
        try:
            number, bound = int(value), int(self.values[0])
        except ValueError:
            return False
        return number > bound if self.operator == "Gt" else number < bound

    def __str__(self) -> str:
        if self.operator == "Exists":
            return self.key
        if self.operator == "DoesNotExist":
            return f"!{self.key}"
        if self.operator in ("Gt", "Lt"):
            return f"{self.key}{'>' if self.operator == 'Gt' else '<'}{self.values[0]}"
        if self.equality:
            return f"{self.key}{'=' if self.operator == 'In' else '!='}{self.values[0]}"
        word = "in" if self.operator == "In" else "notin"
        return f"{self.key} {word} ({','.join(sorted(self.values))})"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All of its requirements must hold; without any it matches everything."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        """Whether an object with these labels is selected."""
        if self.nothing:
            return False
        given = labels or {}
        return all(requirement.matches(given) for requirement in self.requirements)

    @property
    def everything(self) -> bool:
        """Whether every object is selected."""
        return not self.nothing and not self.requirements

    def __str__(self) -> str:
        ordered = sorted(self.requirements, key=lambda requirement: requirement.key)
        return ",".join(str(requirement) for requirement in ordered)


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(nothing=True)

_TOKEN = re.compile(r"\s*(==|=|!=|!|<|>|,|\(|\)|[^\s=!<>,()]+)")
_PUNCTUATION = frozenset(("=", "==", "!=", "!", "<", ">", ",", "(", ")"))


class _Parser:
    """A recursive descent over the tokens; ``""`` stands for the end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _TOKEN.findall(text)
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def fail(self, found: str, expected: str) -> BadRequest:
        return BadRequest(f"unable to parse requirement: found '{found}', expected: {expected}")

    def fail_between(self, found: str, expected: str) -> BadRequest:
        return BadRequest(f"found '{found}', expected: {expected}")

    def parse(self) -> tuple[Requirement, ...]:
        found: list[Requirement] = []
        while self.peek():
            if self.peek() in _PUNCTUATION - {"!"}:
                raise self.fail_between(self.peek(), "!, identifier, or 'end of string'")
            found.append(self.requirement())
            if len(found) > MAX_REQUIREMENTS:
                raise BadRequest(f"a label selector has at most {MAX_REQUIREMENTS} requirements")
            separator = self.take()
            if not separator:
                break
            if separator != ",":
                raise self.fail_between(separator, "',' or 'end of string'")
            if self.peek() in _PUNCTUATION - {"!"} or not self.peek():
                raise self.fail_between(self.peek(), "identifier after ','")
        return tuple(found)

    def requirement(self) -> Requirement:
        negated = self.peek() == "!"
        if negated:
            self.take()
        key = self.take()
        if key in _PUNCTUATION or not key:
            raise self.fail(key, "identifier")
        _check_key(key)
        if negated:
            return Requirement(key, "DoesNotExist")
        operator = self.peek()
        if operator in ("", ","):
            return Requirement(key, "Exists")
        self.take()
        if operator in ("in", "notin"):
            return Requirement(key, "In" if operator == "in" else "NotIn", self.value_set(key))
        if operator in ("=", "==", "!="):
            value = "" if self.peek() in ("", ",") else self.value(key)
            return Requirement(key, "NotIn" if operator == "!=" else "In", (value,), equality=True)
        if operator in ("<", ">"):
            value = self.value(key)
            if not re.fullmatch(r"[+-]?\d+", value):
                raise BadRequest(
                    f'unable to parse requirement: values[0]: Invalid value: "{value}": '
                    "for 'Gt', 'Lt' operators, the value must be an integer"
                )
            return Requirement(key, "Gt" if operator == ">" else "Lt", (value,))
        raise self.fail(operator, "in, notin, =, ==, !=, gt, lt")

    def value(self, key: str) -> str:
        value = self.take()
        if value in _PUNCTUATION or not value:
            raise self.fail(value, "identifier")
        _check_value(key, value)
        return value

    def value_set(self, key: str) -> tuple[str, ...]:
        if self.take() != "(":
            found = self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""
            raise BadRequest(f"unable to parse requirement: found '{found}' expected: '('")
        values: list[str] = []
        expect_value = True
        while True:
            found = self.peek()
            if found == ")":
                if expect_value:
                    values.append("")
                self.take()
                return tuple(dict.fromkeys(values))
            if found == ",":
                if expect_value:
                    values.append("")
                self.take()
                expect_value = True
                continue
            if not expect_value or not found:
                raise self.fail(found, "',' or ')'")
            values.append(self.value(key))
            expect_value = False


def _check_key(key: str) -> None:
    for message in names.qualified_name(key):
        raise BadRequest(f'unable to parse requirement: <nil>: Invalid value: "{key}": {message}')


def _check_value(key: str, value: str) -> None:
    for message in names.label_value(value):
        raise BadRequest(
            f'unable to parse requirement: values[0][{key}]: Invalid value: "{value}": {message}'
        )


def parse_labels(text: str) -> LabelSelector:
    """The selector a string such as ``a=b,c!=d,e in (x,y),!f,g`` stands for.

    Raises:
        BadRequest: the text is no selector.
    """
    if not text.strip():
        return EVERYTHING
    return LabelSelector(_Parser(text).parse())


_OPERATORS = frozenset(("In", "NotIn", "Exists", "DoesNotExist"))


def from_object(selector: Mapping[str, Any] | None) -> LabelSelector:
    """The selector a ``meta/v1 LabelSelector`` stands for: None selects nothing, ``{}`` everything.

    Raises:
        BadRequest: an expression's operator is unknown.
    """
    if selector is None:
        return NOTHING
    found = [
        Requirement(str(key), "In", (str(value),), equality=True)
        for key, value in (selector.get("matchLabels") or {}).items()
    ]
    for expression in selector.get("matchExpressions") or ():
        operator = expression.get("operator")
        if operator not in _OPERATORS:
            raise BadRequest(f'"{operator}" is not a valid label selector operator')
        values = tuple(expression.get("values") or ())
        found.append(Requirement(str(expression.get("key") or ""), operator, values))
    return LabelSelector(tuple(found))


def from_labels(labels: Mapping[str, str] | None) -> LabelSelector:
    """The selector that wants exactly these labels, as Services have it: none selects nothing."""
    if not labels:
        return NOTHING
    return LabelSelector(
        tuple(Requirement(key, "In", (value,), equality=True) for key, value in labels.items())
    )


# Field selectors


@dataclass(frozen=True, slots=True)
class FieldTerm:
    """One condition on a field."""

    path: str
    value: str
    equal: bool = True

    def __str__(self) -> str:
        escaped = re.sub(r"([\\,=])", r"\\\1", self.value)
        return f"{self.path}{'=' if self.equal else '!='}{escaped}"


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All of its terms must hold; without any it matches everything."""

    terms: tuple[FieldTerm, ...] = ()

    def matches(self, getter: Getter) -> bool:
        """Whether an object is selected; ``getter`` gives the value of a field path."""
        return all((getter(term.path) == term.value) == term.equal for term in self.terms)

    def exact(self, path: str) -> str | None:
        """The value a field must have, or None where the selector leaves it open."""
        for term in self.terms:
            if term.path == path and term.equal:
                return term.value
        return None

    @property
    def everything(self) -> bool:
        """Whether every object is selected."""
        return not self.terms

    def __str__(self) -> str:
        return ",".join(str(term) for term in self.terms)


def parse_fields(text: str) -> FieldSelector:
    r"""The selector ``metadata.name=x,status.phase!=Running``; ``\,``, ``\=`` and ``\\`` escape.

    Raises:
        BadRequest: a term has no operator, or an escape is wrong.
    """
    terms: list[FieldTerm] = []
    for part in _split_terms(text):
        if not part.strip():
            continue
        match = re.match(r"([^=!]*)(!=|==|=)", part)
        if match is None:
            raise BadRequest(
                f"invalid selector: '{text}'; can't understand '{part}'",
                hint="write field selectors as FIELD=VALUE or FIELD!=VALUE",
            )
        value = _unescape(part[match.end() :])
        terms.append(FieldTerm(match[1].strip(), value, match[2] != "!="))
        if len(terms) > MAX_REQUIREMENTS:
            raise BadRequest(f"a field selector has at most {MAX_REQUIREMENTS} terms")
    return FieldSelector(tuple(terms))


def _split_terms(text: str) -> list[str]:
    return re.findall(r"(?:[^\\,]|\\.|\\$)+", text)


def _unescape(value: str) -> str:
    bad = re.search(r"\\.?|=", re.sub(r"\\[\\,=]", "", value))
    if bad and bad[0] == "=":
        code = ord("=")
        raise BadRequest(f"invalid field selector: unescaped character in value: {code}")
    if bad:
        raise BadRequest(f"invalid field selector: invalid escape sequence: {bad[0]}")
    return re.sub(r"\\([\\,=])", r"\1", value)


_META = ("metadata.name", "metadata.namespace")
_BY_KIND: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ),
    ("", "Event"): (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    ("events.k8s.io", "Event"): (
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ),
    ("", "Namespace"): ("status.phase", "name"),
    ("", "Node"): ("spec.unschedulable",),
    ("", "ReplicationController"): ("status.replicas",),
    ("", "Secret"): ("type",),
    ("", "Service"): ("spec.clusterIP", "spec.type"),
    ("", "ServiceAccount"): (),
    ("apps", "ReplicaSet"): ("status.replicas",),
    ("batch", "Job"): ("status.successful",),
    ("certificates.k8s.io", "CertificateSigningRequest"): ("spec.signerName",),
}
_ALIASES = {
    "name": "metadata.name",
    "status.successful": "status.succeeded",
    "source": "source.component",
}
_NUMBERS = frozenset(("status.replicas", "status.successful"))
_TRUTHS = frozenset(("spec.unschedulable", "spec.hostNetwork"))


def check_fields(
    resource: Resource, selector: FieldSelector, selectable: Collection[str] = ()
) -> None:
    """Refuse a selector with a field the kind cannot be selected by.

    Args:
        resource: what is listed.
        selector: what was asked for.
        selectable: a custom resource's ``selectableFields``, without the leading dot.

    Raises:
        BadRequest: as the API server says it.
    """
    for term in selector.terms:
        _check_field(resource, term.path, selectable)


def _check_field(resource: Resource, path: str, selectable: Collection[str]) -> None:
    if path in _META or path in selectable:
        return
    known = _BY_KIND.get((resource.group, resource.kind))
    if known is None and not selectable:
        raise BadRequest(
            f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'
        )
    if path not in (known or ()):
        raise BadRequest(f"field label not supported: {path}")


def field_value(
    resource: Resource, obj: Object, path: str, selectable: Collection[str] = ()
) -> str:
    """The value of a field an object can be selected by; empty where it is unset.

    Raises:
        BadRequest: objects of this kind cannot be selected by the field.
    """
    _check_field(resource, path, selectable)
    found = _lookup(obj, _ALIASES.get(path, path))
    if path == "source" and not found:
        found = obj.get("reportingComponent")
    if path == "status.podIPs":
        return ",".join(entry.get("ip", "") for entry in found or ())
    if path in _TRUTHS:
        return "true" if found else "false"
    if path in _NUMBERS:
        return str(found or 0)
    if isinstance(found, bool):
        return "true" if found else "false"
    return "" if found is None else str(found)


def _lookup(obj: Object, path: str) -> Any:
    value: Any = obj
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value
