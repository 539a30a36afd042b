"""Regular expressions of users, in Go's dialect and in time linear in the text.

Source: RE2 syntax, https://github.com/google/re2/wiki/Syntax, which Go's ``regexp`` shares.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> Any:
    """An object with ``search`` and ``finditer`` as those of ``re.Pattern``.

    Raises:
        ValueError: it is no regular expression.
    """
    import re2  # type: ignore[import-untyped]  # 5 MB, for those who use it

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(text) from error
