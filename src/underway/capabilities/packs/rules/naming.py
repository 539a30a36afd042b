"""Names that Kubernetes accepts."""

from __future__ import annotations

import re

LIMIT = 63


def dns_label(text: str) -> str:
    """A DNS-1035 label made of any text.

    Lower case; whatever is not a letter, digit or dash becomes a dash; dashes in a row become one
    and go from both ends; a name that begins with a digit gets ``app-`` before it; the result is
    cut to 63 characters; of nothing comes ``app``.
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name:
        return "app"
    if name[0].isdigit():
        name = f"app-{name}"
    return name[:LIMIT].rstrip("-")
