"""Words of a Dockerfile instruction: quotes, escapes and ``$variables``.

Source: BuildKit ``frontend/dockerfile/docs/reference.md``, "Environment replacement".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]|[@*#?$!-]")
DEPTH_MAX = 32


def split(text: str, escape: str = "\\") -> list[str]:
    """Cut at blanks outside quotes; quotes and escapes stay in the words.

    Raises:
        ValueError: a quote is not closed.
    """
    words: list[str] = []
    current, quote, index = "", "", 0
    while index < len(text):
        char = text[index]
        if char == escape and quote != "'" and index + 1 < len(text):
            current += text[index : index + 2]
            index += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            if current:
                words.append(current)
            current = ""
            index += 1
            continue
        current += char
        index += 1
    if quote:
        raise ValueError(f"a {quote} is not closed")
    return [*words, current] if current else words


def expand(
    word: str,
    variables: Mapping[str, str],
    escape: str = "\\",
    *,
    keep_quotes: bool = False,
    used: Callable[[str], object] | None = None,
) -> str:
    """A word with quotes removed and variables replaced; an unset one is empty.

    Args:
        word: the word as written.
        variables: values by name.
        escape: the file's escape character.
        keep_quotes: leave quotes as they are, as in a here-document.
        used: told each variable's name that was looked at.

    Raises:
        ValueError: ``${`` without its end, an unknown modifier, or ``${NAME:?message}`` unset.
    """
    return _Expansion(variables, escape, keep_quotes, used or (lambda name: None)).run(word)


class _Expansion:
    def __init__(
        self,
        variables: Mapping[str, str],
        escape: str,
        keep_quotes: bool,
        used: Callable[[str], object],
    ) -> None:
        self._variables = variables
        self._escape = escape
        self._keep_quotes = keep_quotes
        self._used = used

    def run(self, text: str, depth: int = 0) -> str:
        if depth > DEPTH_MAX:
            raise ValueError("variables are nested too deeply")
        out: list[str] = []
        index, quoted = 0, False
        while index < len(text):
            char = text[index]
            following = text[index + 1] if index + 1 < len(text) else ""
            if char == self._escape and following:
                out.append(self._escaped(following, quoted))
                index += 2
            elif char == "'" and not quoted and not self._keep_quotes:
                end = text.find("'", index + 1)
                if end < 0:
                    raise ValueError("a ' is not closed")
                out.append(text[index + 1 : end])
                index = end + 1
            elif char == '"' and not self._keep_quotes:
                quoted = not quoted
                index += 1
            elif char == "$":
                value, index = self._variable(text, index, depth)
                out.append(value)
            else:
                out.append(char)
                index += 1
        if quoted:
            raise ValueError('a " is not closed')
        return "".join(out)

    def _escaped(self, following: str, quoted: bool) -> str:
        if self._keep_quotes:
            return following if following == "$" else self._escape + following
        if quoted and following not in ('"', "$", self._escape):
            return self._escape + following
        return following

    def _variable(self, text: str, index: int, depth: int) -> tuple[str, int]:
        """The value of the reference at ``text[index] == "$"``, and where it ends."""
        if text[index + 1 : index + 2] != "{":
            match = _NAME.match(text, index + 1)
            if not match:
                return "$", index + 1
            return self._value(match[0]) or "", match.end()
        end = _closing(text, index + 2)
        body = text[index + 2 : end]
        match = _NAME.match(body)
        if not match:
            raise ValueError(f"${{{body}}} names no variable")
        return self._modified(match[0], body[match.end() :], depth), end + 1

    def _value(self, name: str) -> str | None:
        self._used(name)
        return self._variables.get(name)

    def _modified(self, name: str, modifier: str, depth: int) -> str:
        value = self._value(name)
        if not modifier:
            return value or ""
        if modifier[0] in "#%":
            return self._trimmed(value or "", modifier, depth)
        if modifier[0] == "/":
            return self._replaced(value or "", modifier, depth)
        colon = modifier[0] == ":"
        kind, rest = (modifier[1:2], modifier[2:]) if colon else (modifier[0], modifier[1:])
        missing = value is None or (colon and value == "")
        if kind == "-":
            return self.run(rest, depth + 1) if missing else value or ""
        if kind == "+":
            return "" if missing else self.run(rest, depth + 1)
        if kind == "?":
            if missing:
                raise ValueError(f"{name}: {self.run(rest, depth + 1) or 'is not set'}")
            return value or ""
        raise ValueError(f"${{{name}{modifier}}}: unknown modifier {modifier[:2]!r}")

    def _trimmed(self, value: str, modifier: str, depth: int) -> str:
        greedy = modifier[:2] in ("##", "%%")
        pattern = self.run(modifier[2 if greedy else 1 :], depth + 1)
        matches = re.compile(_glob(pattern), re.DOTALL).fullmatch
        if modifier[0] == "#":
            cuts = [i for i in range(len(value) + 1) if matches(value[:i])]
            return value[(cuts[-1] if greedy else cuts[0]) :] if cuts else value
        cuts = [i for i in range(len(value) + 1) if matches(value[i:])]
        return value[: (cuts[0] if greedy else cuts[-1])] if cuts else value

    def _replaced(self, value: str, modifier: str, depth: int) -> str:
        everywhere = modifier.startswith("//")
        body = modifier[2 if everywhere else 1 :]
        cut = re.search(r"(?<!\\)/", body)
        pattern, replacement = (body[: cut.start()], body[cut.end() :]) if cut else (body, "")
        wanted = re.compile(_glob(self.run(pattern, depth + 1)), re.DOTALL)
        text = self.run(replacement, depth + 1)
        return wanted.sub(lambda match: text, value, count=0 if everywhere else 1)


def _closing(text: str, index: int) -> int:
    """Where the ``}`` stands that closes a ``${`` whose body starts at ``index``."""
    depth = 1
    while index < len(text):
        if text.startswith("${", index):
            depth += 1
            index += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    raise ValueError("${ without its }")


def _glob(pattern: str) -> str:
    out = ""
    escaped = False
    for char in pattern:
        if escaped:
            out, escaped = out + re.escape(char), False
        elif char == "\\":
            escaped = True
        else:
            out += {"*": ".*", "?": "."}.get(char) or re.escape(char)
    return out
