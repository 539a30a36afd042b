"""Who is logged in. Sessions live in this process's memory: a cookie holds nothing but a number.

A session keeps the visitor's own credential, and every request of the session is made with it.
Both lifetimes are bounded, and so is the number of sessions and of tickets. Of cookies and tickets
only digests are kept, so that a look into memory or a log yields none that works.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from underway.base.clock import Clock
from underway.base.errors import Unauthorized

IDLE_S = 60 * 60
LIFE_S = 8 * 60 * 60
TICKET_S = 60
_SESSIONS = 1000
_TICKETS = 100


@dataclass(frozen=True, slots=True)
class Login:
    """A credential: a bearer token, or (where that is empty) the connection's certificate.

    ``user`` is the name the cluster knows its bearer by. ``services`` are values of the
    ``authorization`` header for other services than the API, by endpoint.
    """

    user: str
    token: str = field(default="", repr=False)
    services: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(eq=False)
class Session:
    """One login. ``csrf`` must come back with every change; ``ended`` is set when it is over.

    ``streams`` counts the live pages it has open.
    """

    login: Login
    began_s: float
    used_s: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    message: str = ""
    streams: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def take_message(self) -> str:
        """What the last change has to say, once."""
        message, self.message = self.message, ""
        return message

    def remember(self, credentials: Mapping[str, str]) -> None:
        """Keep credentials for other services, in place of those the login came with."""
        services = {**self.login.services, **credentials}
        self.login = replace(self.login, services=services)

    def proves(self, token: str) -> bool:
        """Whether this is the session's token against forged requests."""
        return hmac.compare_digest(self.csrf.encode(), token.encode())


class Sessions:
    """Every session and every ticket."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._tickets: dict[str, tuple[float, Login]] = {}

    def open(self, login: Login) -> tuple[str, Session]:
        """Begin a session; gives the cookie's value. The oldest session goes when all are taken."""
        now_s = self._clock.monotonic()
        self._drop_overdue()
        if len(self._sessions) >= _SESSIONS:
            oldest = min(self._sessions, key=lambda digest: self._sessions[digest].used_s)
            self._sessions.pop(oldest).ended.set()
        value = secrets.token_urlsafe(32)
        session = self._sessions[_digest(value)] = Session(login, now_s, now_s)
        return value, session

    def find(self, value: str) -> Session | None:
        """The session of a cookie, which counts as used now; None where it has ended."""
        session = self._sessions.get(_digest(value)) if value else None
        if session is None or not self.alive(session):
            return None
        session.used_s = self._clock.monotonic()
        return session

    def alive(self, session: Session) -> bool:
        """Whether the session goes on; one that is overdue ends now."""
        now_s = self._clock.monotonic()
        if now_s - session.used_s > IDLE_S or now_s - session.began_s > LIFE_S:
            self.end(session)
        return not session.ended.is_set()

    def end(self, session: Session) -> None:
        """End a session, and what is being streamed to it."""
        session.ended.set()
        self._sessions = {
            digest: each for digest, each in self._sessions.items() if each is not session
        }

    def issue_ticket(self, login: Login) -> str:
        """A ticket that logs in once, within a minute."""
        now_s = self._clock.monotonic()
        self._tickets = {
            digest: entry for digest, entry in self._tickets.items() if entry[0] > now_s
        }
        if len(self._tickets) >= _TICKETS:
            self._tickets.pop(next(iter(self._tickets)))
        value = secrets.token_urlsafe(32)
        self._tickets[_digest(value)] = (now_s + TICKET_S, login)
        return value

    def redeem(self, ticket: str) -> Login:
        """The login a ticket stands for; the ticket is used up.

        Raises:
            Unauthorized: it was used before, is too old, or never was one.
        """
        until_s, login = self._tickets.pop(_digest(ticket), (0.0, None))
        if login is None or until_s <= self._clock.monotonic():
            raise Unauthorized(
                "this link was used already or is older than a minute",
                hint="ask for a new one: underway console",
            )
        return login

    def _drop_overdue(self) -> None:
        for session in list(self._sessions.values()):
            self.alive(session)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
