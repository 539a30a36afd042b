"""What the library's parser or checker does not know, said in words it does.

- ``Object.spec{replicas: 3}`` and ``JSONPatch{op: "add"}``, the initialisers of mutating admission
  policies, become maps.
- The macros with two variables (``list.all(i, v, i < v)``, ``transformMap`` and their like) become
  those with one, over pairs of index or key and value.
- Functions whose value is an optional (``format.named``, ``Format.validate``) become ones whose
  value is a list of none or one, because functions written in Python cannot make optionals.

Everything else stays as it is written, so that positions in the library's messages are right.

Source: KEP-3962 (mutating admission policies); cel-go ``ext/comprehensions.go``; Kubernetes
reference, "Common Expression Language in Kubernetes", formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from underway.base.errors import Invalid

PAIRS, AS_MAP, MERGED = "pairs__", "as_map__", "merged__"  # functions of the environment
NAMED, VALIDATE = "named__", "validate__"
_OPTIONAL_ITEM = "[?0]"
_WORDS = re.compile(
    r"\bObject\b|\bJSONPatch\b|\.\s*(?:all|exists|existsOne|exists_one|transform\w+|named|validate)\b"
)
_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<string>(?:[rR][bB]?|[bB][rR]?)?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''
        |"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<name>[A-Za-z_]\w*)
    |(?P<other>\d[\w.]*|.)""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_DEPTH_LIMIT = 100  # the library refuses 32 already


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class _Group:
    """What stands between a pair of brackets."""

    opening: str
    inside: list[_Part]


_Part = _Token | _Group


def rewritten(text: str) -> str:
    """The expression as the library takes it.

    Raises:
        Invalid: an initialiser's type is not the one of the field it stands in.
    """
    if not _WORDS.search(text):
        return text
    parts = _parsed(text)
    return text if parts is None else _Writer().written(parts, "")


def _parsed(text: str) -> list[_Part] | None:
    """The expression as nested groups; None where its brackets do not match."""
    stack: list[_Group] = [_Group("", [])]
    for match in _TOKEN.finditer(text):
        kind, word = str(match.lastgroup), match.group()
        if kind == "other" and word in _CLOSING:
            if len(stack) > _DEPTH_LIMIT:
                return None
            group = _Group(word, [])
            stack[-1].inside.append(group)
            stack.append(group)
        elif kind == "other" and word in ")]}":
            if _CLOSING.get(stack[-1].opening) != word:
                return None
            stack.pop()
        else:
            stack[-1].inside.append(_Token(kind, word))
    return stack[0].inside if len(stack) == 1 else None


class _Writer:
    """Writes groups out again; ``expected`` is the type a field's initialiser must have."""

    def __init__(self) -> None:
        self._pairs = 0

    def written(self, parts: list[_Part], expected: str) -> str:
        """The parts as text."""
        out: list[str] = []
        at = 0
        while at < len(parts):
            part = parts[at]
            if isinstance(part, _Group):
                inside = self.written(part.inside, expected)
                out.append(f"{part.opening}{inside}{_CLOSING[part.opening]}")
                at += 1
            elif part.kind == "name" and not _follows_dot(parts, at):
                end, name = _type_name(parts, at)
                if name:
                    out.append(self._initialised(name, parts[end], expected))
                    at = end + 1
                else:
                    out.append(part.text)
                    at += 1
            elif part.text == "." and (found := _member_call(parts, at)):
                name, group, at = found
                out.append(self._called(name, group, expected))
            else:
                out.append(part.text)
                at += 1
        return "".join(out)

    def _initialised(self, name: str, group: _Part, expected: str) -> str:
        assert isinstance(group, _Group)
        if expected and name.startswith("Object") and name != expected:
            raise Invalid(
                f'unexpected type name "{name}", expected "{expected}", which matches field name'
                " path from root Object type"
            )
        entries = []
        for entry in _split(group.inside):
            field, rest, optional = _field(entry)
            if not field:
                if any(not isinstance(p, _Token) or p.kind != "space" for p in entry):
                    raise Invalid(f"expected field: value inside of {name}{{}}")
                continue
            below = f"{name}.{field}" if name.startswith("Object") else ""
            entries.append(f'{"?" if optional else ""}"{field}":{self.written(rest, below)}')
        return f"dyn({{{', '.join(entries)}}})"

    def _called(self, name: str, group: _Group, expected: str) -> str:
        given = _split(group.inside)
        if name in ("named", "validate") and len(given) == 1:
            called = NAMED if name == "named" else VALIDATE
            return f".{called}({self.written(group.inside, '')}){_OPTIONAL_ITEM}"
        variables = [_variable(each) for each in given[:2]]
        if len(given) < 3 or not all(variables):
            return f".{name}({self.written(group.inside, expected)})"
        bodies = [self.written(each, expected) for each in given[2:]]
        return self._over_pairs(name, variables, bodies) or (
            f".{name}({self.written(group.inside, expected)})"
        )

    def _over_pairs(self, name: str, variables: list[str], bodies: list[str]) -> str:
        """A macro with two variables; empty where it is none."""
        self._pairs += 1
        pair = f"pair{self._pairs}__"
        first, second = variables

        def bound(body: str) -> str:
            inner = f"cel.bind({second}, {pair}[1], {body}\n)"
            return f"cel.bind({first}, {pair}[0], {inner})"

        over = f".{PAIRS}()"
        if name in ("all", "exists", "existsOne", "exists_one") and len(bodies) == 1:
            single = "exists_one" if name == "existsOne" else name
            return f"{over}.{single}({pair}, {bound(bodies[0])})"
        if not name.startswith("transform") or len(bodies) > 2:
            return ""
        if len(bodies) == 2:
            over += f".filter({pair}, {bound(bodies[0])})"
        body = bound(bodies[-1])
        match name:
            case "transformList":
                return f"{over}.map({pair}, {body})"
            case "transformMap":
                return f"{over}.map({pair}, [dyn({pair}[0]), dyn({body})]).{AS_MAP}()"
            case "transformMapEntry":
                return f"{over}.map({pair}, {body}).{MERGED}()"
        return ""


def _significant(parts: list[_Part], at: int) -> int:
    """The next place that holds more than space."""
    while at < len(parts):
        part = parts[at]
        if isinstance(part, _Group) or part.kind != "space":
            break
        at += 1
    return at


def _follows_dot(parts: list[_Part], at: int) -> bool:
    for part in reversed(parts[:at]):
        if isinstance(part, _Group) or part.kind != "space":
            return isinstance(part, _Token) and part.text == "."
    return False


def _type_name(parts: list[_Part], at: int) -> tuple[int, str]:
    """Where the braces of an initialiser stand, and its type; an empty one where there is none."""
    first = parts[at]
    assert isinstance(first, _Token)
    if first.text not in ("Object", "JSONPatch"):
        return at, ""
    names = [first.text]
    at = _significant(parts, at + 1)
    while at < len(parts):
        part = parts[at]
        if isinstance(part, _Group):
            return (at, ".".join(names)) if part.opening == "{" else (at, "")
        following = _significant(parts, at + 1)
        name = parts[following] if following < len(parts) else None
        if part.text != "." or not isinstance(name, _Token) or name.kind != "name":
            break
        names.append(name.text)
        at = _significant(parts, following + 1)
    return at, ""


_MEMBERS = frozenset(
    {
        *("all", "exists", "existsOne", "exists_one", "named", "validate"),
        *("transformList", "transformMap", "transformMapEntry"),
    }
)


def _member_call(parts: list[_Part], at: int) -> tuple[str, _Group, int] | None:
    """The call of a method behind a dot that is written anew, and where it ends."""
    at = _significant(parts, at + 1)
    name = parts[at] if at < len(parts) else None
    if not isinstance(name, _Token) or name.text not in _MEMBERS:
        return None
    at = _significant(parts, at + 1)
    group = parts[at] if at < len(parts) else None
    if isinstance(group, _Group) and group.opening == "(":
        return name.text, group, at + 1
    return None


def _split(parts: list[_Part]) -> list[list[_Part]]:
    """The parts between commas."""
    found: list[list[_Part]] = [[]]
    for part in parts:
        if isinstance(part, _Token) and part.text == ",":
            found.append([])
        else:
            found[-1].append(part)
    return found


def _tokens(parts: list[_Part]) -> Iterator[tuple[int, _Part]]:
    for at, part in enumerate(parts):
        if isinstance(part, _Group) or part.kind != "space":
            yield at, part


def _variable(parts: list[_Part]) -> str:
    found = [part for _, part in _tokens(parts)]
    if len(found) == 1 and isinstance(found[0], _Token) and found[0].kind == "name":
        return found[0].text
    return ""


def _field(parts: list[_Part]) -> tuple[str, list[_Part], bool]:
    """An initialiser's entry: the field, its value, and whether that is an optional."""
    found = list(_tokens(parts))
    texts = [part.text if isinstance(part, _Token) else "" for _, part in found[:3]]
    optional = texts[:1] == ["?"]
    texts = texts[1:] if optional else texts
    colon = found[2 if optional else 1][0] if len(found) > (2 if optional else 1) else 0
    named = found[1 if optional else 0][1] if len(found) > (1 if optional else 0) else None
    if not isinstance(named, _Token) or named.kind != "name" or texts[1:2] != [":"]:
        return "", [], False
    return named.text, parts[colon + 1 :], optional
