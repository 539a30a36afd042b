"""People: who is asking, and everybody who may."""

from __future__ import annotations

from typing import Any

from underway.base.errors import BadRequest, Forbidden, NotFound, Unauthorized
from underway.capabilities.registry.backend.database import Row
from underway.capabilities.registry.backend.users import ADMIN_ID, USERS
from underway.capabilities.registry.routes.harbor.core import Call, Created, Page, Route, pick
from underway.capabilities.registry.rules import query, roles, times


def current_user(call: Call) -> dict[str, Any]:
    """Who is asking."""
    if call.account.kind == "user":
        return _shown(USERS.get(call.hub.database, call.account.id), call)
    return {
        "user_id": 0, "username": call.account.name, "sysadmin_flag": False,
        "admin_role_in_auth": False, "creation_time": times.NEVER, "update_time": times.NEVER,
    }  # fmt: skip


def current_permissions(call: Call) -> list[dict[str, str]]:
    """What the caller may do in ``scope=/project/ID``, or on the registry."""
    scope = call.params.get("scope", "")
    name = ""
    if scope.startswith("/project/"):
        text = scope.removeprefix("/project/").split("/")[0]
        name = call.hub.projects.row(text, by_name=not text.isdigit())["name"]
    prefix = f"{scope}/" if scope and not call.flag("relative") else ""
    return [
        {"resource": prefix + right.partition(":")[0], "action": right.partition(":")[2]}
        for right in sorted(call.rights(name))
    ]


def list_users(call: Call) -> Page:
    """Everybody."""
    rows, total = USERS.page(
        call.hub.database, call.query, order="username", fields={"user_id": "id"}
    )
    return Page([_shown(row, call) for row in rows], total)


def search_users(call: Call) -> Page:
    """The users with a text in their name: enough to make them members."""
    text = call.params.get("username", "")
    rows, total = USERS.page(
        call.hub.database, call.query, "lower(username) LIKE ? ESCAPE '!'", query.like(text),
        order="username",
    )  # fmt: skip
    return Page([{"user_id": row["id"], "username": row["username"]} for row in rows], total)


def create_user(call: Call) -> Created:
    """Make a user."""
    body = call.body()
    more = pick(body, "email", "realname", "comment")
    id = call.hub.users.create(
        str(body.get("username") or ""), str(body.get("password") or ""), **more
    )
    call.tell("create", "user", str(body["username"]))
    return Created(id)


def get_user(call: Call) -> dict[str, Any]:
    """One user; everybody may see themselves."""
    return _shown(_row(call), call)


def update_user(call: Call) -> None:
    """Change a user's profile."""
    row = _row(call)
    values = pick(call.body(), "email", "realname", "comment")
    values["update_time"] = times.text(call.hub.clock.now())
    call.hub.database.write(lambda cursor: USERS.update(cursor, row["id"], values))


def delete_user(call: Call) -> None:
    """Delete a user."""
    id = call.id("user_id")
    if id == call.account.id:
        raise Forbidden("nobody can delete themselves")
    name = USERS.get(call.hub.database, id)["username"]
    call.hub.users.delete(id)
    call.tell("delete", "user", name)


def set_password(call: Call) -> None:
    """Change a password; who is no administrator has to know the old one."""
    row, body = _row(call), call.body()
    if not call.account.administrator or row["id"] == call.account.id:
        old = str(body.get("old_password") or "")
        if call.hub.users.login(row["username"], old) is None:
            raise Forbidden("the old password is wrong")
    call.hub.users.set_password(row["id"], str(body.get("new_password") or ""))


def set_sysadmin(call: Call) -> None:
    """Make a user an administrator, or no longer."""
    id, flag = call.id("user_id"), call.body().get("sysadmin_flag")
    if not isinstance(flag, bool):
        raise BadRequest("sysadmin_flag is missing")
    if id == ADMIN_ID and not flag:
        raise Forbidden("the platform's administrator stays one")
    values = {"sysadmin_flag": flag}
    call.hub.database.write(lambda cursor: USERS.update(cursor, id, values))
    call.tell("update", "user", USERS.get(call.hub.database, id)["username"])


def permissions(call: Call) -> dict[str, Any]:
    """Every permission a robot can have."""
    return roles.catalogue()


def _row(call: Call) -> Row:
    id = call.id("user_id")
    if id != call.account.id and not call.account.administrator:
        if not call.account.name:
            raise Unauthorized("login is required")
        raise Forbidden("the account may not do this")
    row = USERS.find(call.hub.database, "id = ?", id)
    if row is None:
        raise NotFound(f"there is no user {id}")
    return row


def _shown(row: Row, call: Call) -> dict[str, Any]:
    names = ("username", "email", "realname", "comment", "sysadmin_flag", "creation_time",
             "update_time")  # fmt: skip
    return {"user_id": row["id"], "admin_role_in_auth": False, **{n: row[n] for n in names}}


_ONE = "/users/{user_id}"
ROUTES: list[Route] = [
    ("GET", "/users", "system user:list", list_users),
    ("POST", "/users", "system user:create", create_user),
    ("GET", "/users/current", "user", current_user),
    ("GET", "/users/current/permissions", "user", current_permissions),
    ("GET", "/users/search", "user", search_users),
    ("GET", _ONE, "user", get_user),
    ("PUT", _ONE, "user", update_user),
    ("DELETE", _ONE, "system user:delete", delete_user),
    ("PUT", f"{_ONE}/password", "user", set_password),
    ("PUT", f"{_ONE}/sysadmin", "admin", set_sysadmin),
    ("GET", "/permissions", "user", permissions),
]
