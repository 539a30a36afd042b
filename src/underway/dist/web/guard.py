"""What protects the console's visitors: headers of every answer, and the check of every change.

Source: Content Security Policy Level 3; Fetch Metadata Request Headers; OWASP, "Cross-Site Request
Forgery Prevention".
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from underway.base.errors import Forbidden
from underway.dist.web.sessions import Session

CSRF_FIELD = "csrf"

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def check_origin(headers: Mapping[str, str]) -> None:
    """A change must come from the console's own pages.

    Raises:
        Forbidden: the browser says that another site asks for it.
    """
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host", ""):
        raise Forbidden("the request was made by another site")
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise Forbidden("the request was made by another site")


def check_change(headers: Mapping[str, str], session: Session, form: Mapping[str, str]) -> None:
    """A change must come from a page that was made for this session.

    Raises:
        Forbidden: it does not.
    """
    check_origin(headers)
    token = form.get(CSRF_FIELD) or headers.get("x-csrf-token", "")
    if not session.proves(token):
        raise Forbidden(
            "the request does not carry this session's token",
            hint="load the page again, and repeat what you did",
        )


def local_path(wanted: str) -> str:
    """A location below this console; anything else becomes the home page."""
    plain = wanted.startswith("/") and not wanted.startswith(("//", "/\\", "/login"))
    return wanted if plain and wanted.isprintable() else "/"
