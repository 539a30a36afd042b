"""The words of a Go template: text outside of actions, and what stands within them.

Source: Go ``text/template`` package documentation, "Text and spaces" and "Actions".
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from underway.wire.gotemplate_nodes import Source, TemplateError, syntax_error

KEYWORDS = frozenset(
    ("block", "break", "continue", "define", "else", "end", "if", "range", "template", "with")
)
_SPACE = " \t\r\n"
_NAME = r"[^\W\d]\w*"
_WORD = re.compile(
    rf"""(?P<space>[ \t\r\n]+)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<raw>`[^`]*`)
    | (?P<char>'(?:[^'\\\n]|\\.[^']*)')
    | (?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?\d+)?
        |0[oO][0-7_]+|0[bB][01_]+|\d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)?|\.\d[\d_]*(?:[eE][+-]?\d+)?))
    | (?P<field>\.{_NAME})
    | (?P<dot>\.)
    | (?P<variable>\$\w*)
    | (?P<name>{_NAME})
    | (?P<mark>:=|[|(),=])""",
    re.VERBOSE,
)
_TERMINATORS = frozenset(" \t\r\n.,|:)(=")
_NAMED = frozenset(("field", "variable", "name", "number"))


@dataclass(slots=True)
class Word:
    """One word; ``kind`` is ``text``, ``open``, ``close``, ``end of file`` or a group above."""

    kind: str
    text: str
    at: int

    @property
    def end(self) -> int:
        """The offset after it."""
        return self.at + len(self.text)


def words(source: Source, left: str, right: str) -> Iterator[Word]:
    """The words of a template.

    Raises:
        TemplateError: an action, a comment, a string or a parenthesis is not closed, or holds a
            character that means nothing.
    """
    text, at, trim = source.text, 0, False
    closing = re.compile(rf"[ \t\r\n]+-{re.escape(right)}|{re.escape(right)}")
    while True:
        opening = text.find(left, at)
        outside = text[at:] if opening < 0 else text[at:opening]
        if trim:
            at += len(outside) - len(outside.lstrip(_SPACE))
            outside = outside.lstrip(_SPACE)
        if opening < 0:
            if outside:
                yield Word("text", outside, at)
            yield Word("end of file", "", len(text))
            return
        inside = opening + len(left)
        if text[inside : inside + 1] == "-" and text[inside + 1 : inside + 2] in tuple(_SPACE):
            outside = outside.rstrip(_SPACE)
            inside += 1
        if outside:
            yield Word("text", outside, at)
        comment = inside + len(text[inside:]) - len(text[inside:].lstrip(_SPACE))
        if not text.startswith("/*", comment):
            yield Word("open", left, opening)
            at, trim = yield from _action(source, inside, closing, opening)
            continue
        ending = text.find("*/", comment)
        if ending < 0:
            raise syntax_error(source, opening, "unclosed comment")
        close = closing.match(text, ending + 2)
        if close is None:
            raise syntax_error(source, opening, "comment ends before closing delimiter")
        at, trim = close.end(), len(close[0]) > len(right)


def _action(
    source: Source, at: int, closing: re.Pattern[str], opening: int
) -> Generator[Word, None, tuple[int, bool]]:
    text, depth = source.text, 0
    while True:
        if close := closing.match(text, at):
            if depth:
                raise syntax_error(source, at, "unclosed left paren")
            yield Word("close", close[0], at)
            return close.end(), close[0][0] in _SPACE
        if at >= len(text):
            raise syntax_error(source, opening, "unclosed action")
        found = _WORD.match(text, at)
        if found is None:
            raise _unreadable(source, at)
        kind, word = str(found.lastgroup), found[0]
        if kind in _NAMED:
            _end_of_word(source, found.end(), closing, kind, word)
        if kind == "name" and word in KEYWORDS:
            kind = "keyword"
        depth += (word == "(") - (word == ")")
        if depth < 0:
            raise syntax_error(source, at, "unexpected right paren")
        yield Word(kind, word, at)
        at = found.end()


def _end_of_word(source: Source, at: int, closing: re.Pattern[str], kind: str, word: str) -> None:
    following = source.text[at : at + 1]
    if not following or following in _TERMINATORS or closing.match(source.text, at):
        return
    if kind == "number":
        raise syntax_error(source, at, f'bad number syntax: "{word}{following}"')
    raise syntax_error(source, at, f"bad character U+{ord(following):04X} {following!r}")


def _unreadable(source: Source, at: int) -> TemplateError:
    first = source.text[at]
    message = {
        '"': "unterminated quoted string",
        "`": "unterminated raw quoted string",
        "'": "unterminated character constant",
        ":": "expected :=",
    }.get(first, f"unrecognized character in action: U+{ord(first):04X} {first!r}")
    return syntax_error(source, at, message)
