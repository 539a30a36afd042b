"""From the words of a Go template to its nodes.

Source: Go ``text/template`` package documentation, "Actions", "Pipelines", "Variables".
"""

from __future__ import annotations

from collections.abc import Container

from underway.wire.gotemplate_lexer import Word, words
from underway.wire.gotemplate_literals import number_value, string_value
from underway.wire.gotemplate_nodes import (
    Action,
    Branch,
    Call,
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Identifier,
    Leave,
    Node,
    Operand,
    Pipe,
    Source,
    TemplateError,
    Text,
    Tree,
    Variable,
    syntax_error,
)

NESTING = 100  # blocks and parentheses within one another
_CONSTANTS = {"true": True, "false": False, "nil": None}


def parse(
    name: str, text: str, functions: Container[str], delimiters: tuple[str, str]
) -> dict[str, Tree]:
    """The template of this name and those it defines, by name.

    Raises:
        TemplateError: the text is no template.
    """
    return _Parser(Source(name, text), functions, delimiters).parse()


class _Parser:
    def __init__(
        self, source: Source, functions: Container[str], delimiters: tuple[str, str]
    ) -> None:
        self._source = source
        self._functions = functions
        self._words = words(source, *delimiters)
        self._ahead: list[Word] = []
        self._trees: dict[str, Tree] = {}
        self._variables = ["$"]
        self._loops = 0
        self._nesting = 0

    def parse(self) -> dict[str, Tree]:
        body, word = self._list(top=True)
        if word.kind != "end of file":
            raise self._error(word, f"unexpected {{{{{word.text}}}}}")
        self._define(Tree(self._source.name, self._source, body))
        return self._trees

    # -- words -----------------------------------------------------------------------------

    def _next(self) -> Word:
        return self._ahead.pop() if self._ahead else next(self._words)

    def _peek(self) -> Word:
        word = self._next()
        self._ahead.append(word)
        return word

    def _next_word(self) -> Word:
        word = self._next()
        return self._next() if word.kind == "space" else word

    def _peek_word(self) -> Word:
        word = self._next_word()
        self._ahead.append(word)
        return word

    def _expect(self, kind: str, context: str) -> Word:
        word = self._next_word()
        if word.kind != kind:
            raise self._unexpected(word, context)
        return word

    def _error(self, word: Word, message: str) -> TemplateError:
        return syntax_error(self._source, word.at, message)

    def _unexpected(self, word: Word, context: str) -> TemplateError:
        what = f'"{word.text.lstrip(" -")}"' if word.kind == "close" else f'"{word.text}"'
        if word.kind in ("keyword", "dot"):
            what = f"<{word.text}>"
        elif word.kind == "end of file":
            what = "EOF"
        return self._error(word, f"unexpected {what} in {context}")

    # -- actions ---------------------------------------------------------------------------

    def _list(self, *, top: bool = False) -> tuple[list[Node], Word]:
        """Nodes up to ``end``, ``else`` or the end of the text, and which it was."""
        found: list[Node] = []
        while True:
            word = self._next()
            if word.kind == "text":
                found.append(Text(word.at, word.end, word.text))
                continue
            if word.kind == "end of file":
                return found, word
            inner = self._next_word()
            if inner.kind != "keyword":
                self._ahead.append(inner)
                pipe = self._pipeline("command", "close", may_declare=1)
                found.append(Action(pipe.at, pipe.end, pipe))
            elif inner.text in ("end", "else"):
                return found, inner
            elif inner.text == "define" and not top:
                raise self._error(inner, "unexpected {{define}}")
            else:
                made = self._keyword(inner)
                if made is not None:
                    found.append(made)

    def _keyword(self, word: Word) -> Node | None:
        match word.text:
            case "if" | "with" | "range":
                return self._branch(word)
            case "define":
                self._definition()
                return None
            case "block":
                return self._block(word)
            case "template":
                return self._call(word)
        if not self._loops:
            raise self._error(word, f"{{{{{word.text}}}}} outside {{{{range}}}}")
        self._expect("close", f"{{{{{word.text}}}}}")
        return Leave(word.at, word.end, word.text)

    def _branch(self, word: Word) -> Branch:
        keyword, scope = word.text, len(self._variables)
        self._deeper(word)
        pipe = self._pipeline(keyword, "close", may_declare=2 if keyword == "range" else 1)
        made = Branch(word.at, pipe.end, keyword, pipe)
        self._loops += keyword == "range"
        ending: Word | None
        made.body, ending = self._list()
        self._loops -= keyword == "range"
        if ending.text == "else":
            following = self._peek_word()
            # "else if" and "else with" are a branch within, ended by the same "end".
            if following.text == keyword and keyword in ("if", "with"):
                made.otherwise = [self._branch(self._next_word())]
                ending = None
            elif following.kind == "keyword":
                raise self._unexpected(self._next_word(), "else")
            else:
                self._expect("close", "else")
                made.otherwise, ending = self._list()
                if ending.text == "else":
                    raise self._error(ending, "expected end; found {{else}}")
        if ending is not None:
            self._end(ending)
        del self._variables[scope:]
        self._nesting -= 1
        return made

    def _end(self, ending: Word) -> None:
        if ending.kind == "end of file":
            raise self._error(ending, "unexpected EOF")
        self._expect("close", "end")

    def _named(self, context: str) -> str:
        word = self._next_word()
        if word.kind not in ("string", "raw"):
            raise self._unexpected(word, context)
        return self._string(word)

    def _definition(self) -> None:
        name = self._named("define clause")
        self._expect("close", "define clause")
        self._define_body(name)

    def _define_body(self, name: str) -> None:
        variables, self._variables = self._variables, ["$"]
        loops, self._loops = self._loops, 0
        body, ending = self._list()
        if ending.text == "else":
            raise self._error(ending, "unexpected {{else}} in define clause")
        self._end(ending)
        self._variables, self._loops = variables, loops
        self._define(Tree(name, self._source, body))

    def _define(self, tree: Tree) -> None:
        present = self._trees.get(tree.name)
        if present is None or present.is_empty():
            self._trees[tree.name] = tree
        elif not tree.is_empty():
            place = len(tree.source.text)
            message = f'template: multiple definition of template "{tree.name}"'
            raise syntax_error(self._source, place, message)

    def _block(self, word: Word) -> Call:
        name = self._named("block clause")
        pipe = self._pipeline("block clause", "close")
        self._deeper(word)
        self._define_body(name)
        self._nesting -= 1
        return Call(word.at, pipe.end, name, pipe)

    def _call(self, word: Word) -> Call:
        name = self._named("template clause")
        if self._peek_word().kind == "close":
            return Call(word.at, self._next_word().at, name, None)
        pipe = self._pipeline("template clause", "close", may_declare=1)
        return Call(word.at, pipe.end, name, pipe)

    def _deeper(self, word: Word) -> None:
        self._nesting += 1
        if self._nesting > NESTING:
            raise self._error(word, f"more than {NESTING} blocks within one another")

    # -- pipelines -------------------------------------------------------------------------

    def _pipeline(self, context: str, ending: str, may_declare: int = 0) -> Pipe:
        start = self._peek_word()
        self._deeper(start)
        variables, assigns = self._declaration(context, may_declare)
        commands: list[Command] = []
        while True:
            word = self._peek_word()
            if word.kind == "close" or word.text == ")":
                self._next_word()
                if (word.kind if ending == "close" else word.text) != ending:
                    raise self._unexpected(word, context)
                break
            commands.append(self._command(context))
        self._check(context, commands, start)
        self._nesting -= 1
        if not assigns:
            self._variables.extend(variables)
        return Pipe(start.at, word.at, tuple(commands), variables, assigns)

    def _check(self, context: str, commands: list[Command], start: Word) -> None:
        if not commands:
            raise self._error(start, f"missing value for {context}")
        for command in commands[1:]:
            if isinstance(command.operands[0], Constant | Dot):
                text = self._source.text[command.at : command.end]
                message = f"non executable command in pipeline stage: {text}"
                raise syntax_error(self._source, command.at, message)

    def _declaration(self, context: str, may_declare: int) -> tuple[tuple[str, ...], bool]:
        names: list[str] = []
        while may_declare:
            word = self._peek_word()
            if word.kind != "variable":
                break
            self._next_word()
            space = self._next()
            after = self._next() if space.kind == "space" else space
            if after.text in (":=", "="):
                if after.text == "=":
                    self._known(word)
                return (*names, word.text), after.text == "="
            if after.text == "," and context == "range" and len(names) < may_declare - 1:
                names.append(word.text)
                continue
            if after.text == ",":
                raise self._error(after, f"too many declarations in {context}")
            if names:
                raise self._unexpected(after, context)
            self._ahead.extend([after, space, word] if after is not space else [after, word])
            break
        return (), False

    def _command(self, context: str) -> Command:
        operands: list[Operand] = []
        start = self._peek_word()
        while True:
            operand = self._operand(self._next_word(), context)
            operands.append(operand)
            word = self._next()
            if word.kind == "space":
                word = self._peek()
                if word.kind == "close" or word.text in (")", "|"):
                    word = self._next()
                else:
                    continue
            if word.kind == "close" or word.text == ")":
                self._ahead.append(word)
            elif word.text != "|":
                raise self._unexpected(word, "operand")
            return Command(start.at, operand.end, tuple(operands))

    def _operand(self, word: Word, context: str) -> Operand:
        base = self._term(word, context)
        names, end = [], base.end
        while self._peek().kind == "field":
            field = self._next()
            names.append(field.text[1:])
            end = field.end
        if not names:
            return base
        if isinstance(base, Field):
            return Field(base.at, end, (*base.names, *names))
        if isinstance(base, Variable):
            return Variable(base.at, end, base.name, (*base.names, *names))
        if isinstance(base, Constant | Dot):
            raise self._error(word, f'unexpected . after term "{word.text}"')
        return Chain(base.at, end, base, tuple(names))

    def _term(self, word: Word, context: str) -> Operand:
        at, end = word.at, word.end
        match word.kind:
            case "name":
                if word.text in _CONSTANTS:
                    return Constant(at, end, _CONSTANTS[word.text])
                if word.text not in self._functions:
                    raise self._error(word, f'function "{word.text}" not defined')
                return Identifier(at, end, word.text)
            case "dot":
                return Dot(at, end)
            case "field":
                return Field(at, end, (word.text[1:],))
            case "variable":
                return Variable(at, end, self._known(word), ())
            case "string" | "raw":
                return Constant(at, end, self._string(word))
            case "number" | "char":
                try:
                    return Constant(at, end, number_value(word.text))
                except ValueError as error:
                    raise self._error(word, str(error)) from error
        if word.text == "(":
            return self._pipeline("parenthesized pipeline", ")")
        raise self._unexpected(word, context)

    def _known(self, word: Word) -> str:
        if word.text not in self._variables:
            raise self._error(word, f'undefined variable "{word.text}"')
        return word.text

    def _string(self, word: Word) -> str:
        try:
            return string_value(word.text)
        except ValueError as error:
            raise self._error(word, f"{error}: {word.text}") from error
