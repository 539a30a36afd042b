"""Reading Draft's files: a source's ``draft.toml``, and packs as directories."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from underway.base.errors import BadRequest, NotFound
from underway.capabilities.packs.model import Environment
from underway.capabilities.packs.rules import drafts

ENVIRONMENT_VARIABLE = "DRAFT_ENV"
DEFAULT_ENVIRONMENT = "development"
FILES_LIMIT = 500
FILE_LIMIT_BYTES = 1024 * 1024
_OWN_FILES = frozenset({"draft.yaml", "README.md", "tasks.toml", "detect"})


def environment(root: Path) -> Environment:
    """What the source's ``draft.toml`` says of the environment in ``DRAFT_ENV``.

    Raises:
        BadRequest: there is such a file, with an error.
    """
    try:
        text = (root / "draft.toml").read_text(encoding="utf-8")
    except FileNotFoundError:
        return Environment()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{root / 'draft.toml'}: {error}") from error
    return drafts.environment(text, os.environ.get(ENVIRONMENT_VARIABLE, DEFAULT_ENVIRONMENT))


def pack_files(pack: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The files of a Draft pack, by path below the source, with its variables in place.

    A pack is a directory with a Dockerfile, a chart (``charts/``) or manifests, and, since Draft
    1, a ``draft.yaml`` that declares variables.

    Raises:
        NotFound: there is no such directory.
        BadRequest: a file is no text or too large; a variable is missing or unknown.
    """
    if not pack.is_dir():
        raise NotFound(f"{pack} is not a directory")
    declared = []
    if (pack / "draft.yaml").is_file():
        try:
            document = yaml.safe_load((pack / "draft.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise BadRequest(f"{pack / 'draft.yaml'}: {error}") from error
        declared = drafts.variables(document)
    values = drafts.resolve(declared, given)
    found: dict[str, str] = {}
    for path in sorted(pack.rglob("*")):
        relative = path.relative_to(pack)
        if path.is_symlink() or not path.is_file() or relative.as_posix() in _OWN_FILES:
            continue
        if len(found) >= FILES_LIMIT or path.stat().st_size > FILE_LIMIT_BYTES:
            raise BadRequest(f"{path}: a pack has at most {FILES_LIMIT} files of 1 MiB")
        try:
            found[relative.as_posix()] = drafts.substitute(path.read_text("utf-8"), values)
        except UnicodeDecodeError as error:
            raise BadRequest(f"{path} is no text") from error
    return found
