"""The pages say what is true: commands they name exist, files they link to are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from underway.dist.main import main
from underway.kit import registry

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.md")])
_BLOCK = re.compile(r"```(?:sh|console|bash)\n(.*?)```", re.DOTALL)
_LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def command_lines(page: Path) -> list[list[str]]:
    found = []
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s(?:&&|\|\|?|;)\s|\s+#\s|\s>>?\s|`", line.removeprefix("$ ")):
                try:
                    words = shlex.split(part)
                except ValueError:
                    continue
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    del words[0]
                if words and words[0].removeprefix(".venv/bin/") == "underway":
                    found.append(words[1:])
    return found


def complaint(words: list[str]) -> str:
    """What is wrong with a command line: an unknown command or option; empty if nothing is."""
    command: click.Command = main
    context = click.Context(main)
    while words and isinstance(command, click.Group):
        if words[0].startswith("-"):
            break
        found = command.get_command(context, words[0])
        if found is None:
            return f"no command {words[0]}"
        command, words = found, words[1:]
    known = {option for each in command.params for option in [*each.opts, *each.secondary_opts]}
    unknown = [
        word.partition("=")[0]
        for word in words
        if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)
        and word.partition("=")[0] not in known | {"--help", "-h", "--version"}
    ]
    passes_on = command.context_settings.get("ignore_unknown_options")
    return "" if passes_on or not unknown else f"no option {unknown[0]}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_pages_exist(page: Path) -> None:
    wrong = {shlex.join(words): complaint(words) for words in command_lines(page)}
    assert {line: why for line, why in wrong.items() if why} == {}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]
    assert [link for link in targets if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("capability", [each.id for each in registry.installed()])
def test_every_capability_has_its_pages(capability: str) -> None:
    folder = ROOT / "src" / "underway" / "capabilities" / capability
    assert (folder / "README.md").exists()
    assert (folder / "COMPAT.md").exists()
    assert f"capabilities/{capability}/COMPAT.md" in (ROOT / "COMPAT.md").read_text()


def test_every_dependency_has_its_reason() -> None:
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert block
    names = re.findall(r'"([a-zA-Z0-9-]+)', block.group(1))
    assert [each for each in names if f"| {each} |" not in reasons] == []


def test_help_lists_every_command_and_says_what_it_does() -> None:
    context = click.Context(main)
    for each in main.list_commands(context):
        command = main.get_command(context, each)
        assert command is not None
        assert command.get_short_help_str(), each
