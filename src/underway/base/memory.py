"""How often Python looks for garbage that reference counts do not find."""

from __future__ import annotations

import gc

_NEW_OBJECTS = 50_000  # containers made and not freed between two looks at the youngest


def collect_seldom() -> None:
    """Let a process that decodes much JSON look for cycles seldom.

    Decoded objects are trees, which reference counts free. With Python's defaults each few hundred
    of them start a look, and every hundredth look goes over the whole heap: tens of milliseconds
    in which nothing is answered.
    """
    gc.collect()
    gc.freeze()  # modules and tables stay for good
    gc.set_threshold(_NEW_OBJECTS, 50, 100)
