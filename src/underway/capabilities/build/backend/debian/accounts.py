"""Users and groups of an image: passwd, group, shadow and gshadow as one.

Source: passwd(5), group(5), shadow(5), gshadow(5).
"""

from __future__ import annotations

from underway.base.errors import BadRequest
from underway.capabilities.build.backend.debian.unpacking import Tree
from underway.capabilities.build.rules.declaration import Group, User

_SHADOW_GID = 42
_DAY_S = 86_400


class Accounts:
    """Read from a tree, added to, written back. ``epoch_s`` is the day passwords were last set."""

    def __init__(self, tree: Tree, epoch_s: int, *, has_dpkg: bool) -> None:
        self._tree = tree
        self._day = epoch_s // _DAY_S
        self.has_dpkg = has_dpkg
        self._lines = {
            name: tree.read(f"etc/{name}").splitlines()
            for name in ("passwd", "group", "shadow", "gshadow")
        }

    def start(self, name: str, text: str) -> None:
        """Begin ``passwd`` or ``group`` with a template's lines, unless there are some."""
        if self._lines[name]:
            return
        for line in text.splitlines():
            account, _, *rest = line.split(":")
            self._lines[name].append(":".join([account, "x", *rest]))
            self._hide(name, account, ":".join(rest[-1:]) if name == "group" else "")

    def add_user(
        self, name: str, uid: int, gid: int, home: str, shell: str, comment: str = ""
    ) -> None:
        """Add a user; one that is there with the same ids stays."""
        known = self._find("passwd", name)
        if known:
            if known[2:4] != [str(uid), str(gid)]:
                raise BadRequest(f"user {name} is there with uid {known[2]} and gid {known[3]}")
            return
        self._lines["passwd"].append(f"{name}:x:{uid}:{gid}:{comment}:{home}:{shell}")
        self._hide("passwd", name, "")

    def add_group(self, name: str, gid: int, members: list[str]) -> None:
        """Add a group, or members to one that is there."""
        for at, line in enumerate(self._lines["group"]):
            account, password, number, listed = line.split(":")
            if account == name:
                if number != str(gid):
                    raise BadRequest(f"group {name} is there with gid {number}")
                both = [each for each in listed.split(",") if each]
                both += [each for each in members if each not in both]
                self._lines["group"][at] = ":".join([account, password, number, ",".join(both)])
                return
        self._lines["group"].append(f"{name}:x:{gid}:{','.join(members)}")
        self._hide("group", name, ",".join(members))

    def declare(self, users: list[User], groups: list[Group]) -> None:
        """Add what a declaration asks for."""
        for group in groups:
            self.add_group(group.name, group.gid, group.members)
        for user in users:
            group_name = user.group or user.name
            if self._find("group", group_name) is None:
                if user.group:
                    raise BadRequest(f"user {user.name}: there is no group {user.group}")
                self.add_group(user.name, user.uid, [])
            gid = self.gid(group_name)
            self.add_user(user.name, user.uid, gid, user.home, user.shell, user.comment)

    def uid(self, name: str) -> int:
        """A user's number, by name or as a number.

        Raises:
            BadRequest: there is no such user.
        """
        return self._number("passwd", name)

    def gid(self, name: str) -> int:
        """A group's number, by name or as a number."""
        return self._number("group", name)

    def owner(self, text: str) -> tuple[int, int]:
        """``USER[:GROUP]`` as numbers; a user alone brings its first group."""
        user, colon, group = text.partition(":")
        uid = self.uid(user) if user else 0
        if colon:
            return uid, self.gid(group)
        known = self._find("passwd", user)
        return uid, int(known[3]) if known else uid

    def write(self) -> None:
        """Write all four files back; shadowed ones only where programs for them can be."""
        if not self._lines["passwd"] and not self._lines["group"]:
            return
        for name, mode, gid in (
            ("passwd", 0o644, 0), ("group", 0o644, 0),
            ("shadow", 0o640, _SHADOW_GID), ("gshadow", 0o640, _SHADOW_GID),
        ):  # fmt: skip
            if self._find("group", "shadow") is None:
                gid = 0  # no such group here
                mode = min(mode, 0o600) if name.endswith("shadow") else mode
            text = "".join(f"{line}\n" for line in self._lines[name])
            self._tree.write(f"etc/{name}", text, mode, 0, gid)

    def _hide(self, name: str, account: str, members: str) -> None:
        if name == "passwd":
            self._lines["shadow"].append(f"{account}:*:{self._day}:0:99999:7:::")
        else:
            self._lines["gshadow"].append(f"{account}:*::{members}")

    def _find(self, name: str, account: str) -> list[str] | None:
        for line in self._lines[name]:
            parts = line.split(":")
            if parts[0] == account:
                return parts
        return None

    def _number(self, name: str, text: str) -> int:
        if text.isdigit():
            return int(text)
        found = self._find(name, text)
        if found is None:
            raise BadRequest(f"there is no {'user' if name == 'passwd' else 'group'} {text}")
        return int(found[2])
