"""People's accounts: names, and passwords as salted scrypt hashes. All calls block.

The administrator is the first user, and the platform keeps its password (``backend.credentials``).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from typing import Any

from underway.base.clock import Clock
from underway.base.errors import AlreadyExists, BadRequest, Conflict, NotFound
from underway.capabilities.registry.backend.database import Cursor, Database, Row
from underway.capabilities.registry.backend.tables import Table
from underway.capabilities.registry.rules import times

USERS = Table("users", "user")
ADMIN_ID = 1
_NAME_LIMIT = 255
_FORBIDDEN = set(",\"~#%$' ")
_REMEMBERED = 1024  # passwords that need not be hashed slowly again


class Users:
    """The people who may log in."""

    def __init__(self, database: Database, clock: Clock, administrator: str) -> None:
        self._database = database
        self._clock = clock
        self._checked: OrderedDict[tuple[str, bytes], str] = OrderedDict()
        self._pepper = secrets.token_bytes(16)
        if USERS.find(database, "id = ?", ADMIN_ID) is None:
            now = times.text(clock.now())
            database.write(
                lambda cursor: cursor.run(
                    "INSERT INTO users (id, username, realname, sysadmin_flag, creation_time, "
                    "update_time) VALUES (1, ?, 'system admin', 1, ?, ?) ON CONFLICT DO NOTHING",
                    administrator, now, now,
                )
            )  # fmt: skip

    def find(self, username: str) -> Row | None:
        """A user by name."""
        return USERS.find(self._database, "username = ?", username)

    def login(self, username: str, password: str) -> Row | None:
        """The user of a name and a password; None where they do not fit."""
        row = self.find(username)
        if row is None or not row["secret_hash"]:
            return None
        # What was right a moment ago needs no slow hash now: clients send it with every request.
        key = (username, hashlib.blake2b(password.encode(), key=self._pepper).digest())
        if self._checked.get(key) == row["secret_hash"]:
            return row
        if not hmac.compare_digest(_hash(row["salt"], password), row["secret_hash"]):
            return None
        self._checked[key] = row["secret_hash"]
        if len(self._checked) > _REMEMBERED:
            self._checked.popitem(last=False)
        return row

    def create(self, username: str, password: str, **more: Any) -> int:
        """Make a user; gives its id. Raises BadRequest, AlreadyExists."""
        check_username(username)
        check_password(password)
        now = times.text(self._clock.now())
        row = {**more, "username": username, **_secret(password), "creation_time": now,
               "update_time": now}  # fmt: skip
        try:
            return self._database.write(lambda cursor: USERS.insert(cursor, row))
        except AlreadyExists as error:
            raise AlreadyExists(f"the user {username} exists") from error

    def set_password(self, id: int, password: str) -> None:
        """Give a user another password; raises BadRequest, NotFound."""
        check_password(password)
        if id == ADMIN_ID:
            raise Conflict("the administrator's password is the platform's own")
        self._database.write(lambda cursor: USERS.update(cursor, id, _secret(password)))

    def delete(self, id: int) -> None:
        """Delete a user and all its memberships; raises NotFound, BadRequest."""
        if id == ADMIN_ID:
            raise BadRequest("the administrator cannot be deleted")

        def change(cursor: Cursor) -> None:
            row = cursor.one("SELECT username FROM users WHERE id = ?", id)
            if row is None:
                raise NotFound(f"there is no user {id}")
            cursor.run(
                "DELETE FROM members WHERE entity_type = 'u' AND entity_name = ?", row["username"]
            )
            cursor.run("DELETE FROM users WHERE id = ?", id)

        self._database.write(change)


def check_username(username: str) -> None:
    """Raise BadRequest unless a user may be called this."""
    reserved = username.startswith(("robot$", "system:"))
    if not 0 < len(username) <= _NAME_LIMIT or set(username) & _FORBIDDEN or reserved:
        raise BadRequest(f"{username[:50]!r} is no user name")


def check_password(password: str) -> None:
    """Raise BadRequest unless a password is long and varied enough."""
    kinds = (str.islower, str.isupper, str.isdigit)
    if not (8 <= len(password) <= 128 and all(any(map(kind, password)) for kind in kinds)):
        raise BadRequest(
            "the password is too simple",
            hint="8 to 128 characters with an upper-case letter, a lower-case one and a digit",
        )


def _secret(password: str) -> dict[str, str]:
    salt = secrets.token_hex(16)
    return {"salt": salt, "secret_hash": _hash(salt, password)}


def _hash(salt: str, password: str) -> str:
    return hashlib.scrypt(password.encode(), salt=salt.encode(), n=2**14, r=8, p=1).hex()
