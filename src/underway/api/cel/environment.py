"""The library's environment with all functions; importing it loads the library."""

from __future__ import annotations

from functools import lru_cache

from cel_expr_python import cel  # type: ignore[import-untyped]
from cel_expr_python.ext import (  # type: ignore[import-untyped]
    ext_bindings,
    ext_encoders,
    ext_math,
    ext_optional,
    ext_strings,
)

from underway.api.cel import functions


@lru_cache(maxsize=64)
def environment(variables: tuple[str, ...]) -> cel.Env:
    """What compiles expressions over untyped variables."""
    return cel.NewEnv(
        variables=dict.fromkeys(variables, cel.Type.DYN),
        extensions=[
            ext_bindings.ExtBindings(),
            ext_encoders.ExtEncoders(),
            ext_math.ExtMath(),
            ext_optional.ExtOptional(),
            ext_strings.ExtStrings(),
            cel.CelExtension("kubernetes", functions.declarations()),
        ],
    )
