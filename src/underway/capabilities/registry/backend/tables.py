"""Rows of one table as values: JSON and booleans are turned, pages and filters applied."""

from __future__ import annotations

from typing import Any

import msgspec

from underway.base.errors import AlreadyExists, NotFound
from underway.capabilities.registry.backend.database import Cursor, Reader, Row
from underway.capabilities.registry.backend.schema import TABLES
from underway.capabilities.registry.rules.query import Query


class Table:
    """One table of the schema; ``what`` names a row of it to people.

    Every call takes what reads or writes: the database, or a transaction's cursor.
    """

    def __init__(self, name: str, what: str) -> None:
        self.name = name
        self.what = what
        self._columns = TABLES[name]
        self._json = [column for column, kind in self._columns.items() if kind == "json"]
        self._bools = [column for column, kind in self._columns.items() if kind == "bool"]

    def insert(self, cursor: Cursor, values: dict[str, Any]) -> int:
        """Add a row; gives its id.

        Raises:
            AlreadyExists: another row has what must be unique.
        """
        row = self._stored(values)
        names = ", ".join(f'"{name}"' for name in row)
        marks = ", ".join("?" for _ in row)
        returned = "RETURNING id" if "id" in self._columns else "RETURNING 1 AS id"
        found = cursor.one(
            f"INSERT INTO {self.name} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING {returned}",  # noqa: S608  # names are the schema's
            *row.values(),
        )
        if found is None:
            raise AlreadyExists(f"there is such a {self.what} already")
        return int(found["id"])

    def update(self, cursor: Cursor, id: int, values: dict[str, Any]) -> None:
        """Change a row; raises NotFound."""
        row = self._stored(values)
        names = ", ".join(f'"{name}" = ?' for name in row)
        sql = f"UPDATE {self.name} SET {names} WHERE id = ?"  # noqa: S608  # names are the schema's
        if not cursor.run(sql, *row.values(), id):
            raise NotFound(f"there is no {self.what} {id}")

    def delete(self, cursor: Cursor, id: int) -> None:
        """Take a row away; raises NotFound."""
        if not cursor.run(f"DELETE FROM {self.name} WHERE id = ?", id):  # noqa: S608  # as above
            raise NotFound(f"there is no {self.what} {id}")

    def get(self, reader: Reader, id: int) -> Row:
        """A row by its id; raises NotFound."""
        found = self.find(reader, "id = ?", id)
        if found is None:
            raise NotFound(f"there is no {self.what} {id}")
        return found

    def find(self, reader: Reader, where: str, *params: object) -> Row | None:
        """The first row that fits, or None."""
        sql = f"SELECT * FROM {self.name} WHERE {where} ORDER BY 1 LIMIT 1"  # noqa: S608  # as above
        found = reader.one(sql, *params)
        return None if found is None else self.value(found)

    def where(self, reader: Reader, where: str = "1 = 1", *params: object) -> list[Row]:
        """Every row that fits, in the order they were made."""
        sql = f"SELECT * FROM {self.name} WHERE {where} ORDER BY 1"  # noqa: S608  # as above
        return [self.value(row) for row in reader.all(sql, *params)]

    def page(
        self,
        reader: Reader,
        query: Query,
        where: str = "1 = 1",
        *params: object,
        order: str = "id DESC",
        fields: dict[str, str] | None = None,
    ) -> tuple[list[Row], int]:
        """One page of the rows that fit, and how many fit in all.

        ``fields`` maps what may be asked for to columns where their names differ.
        """
        names = {name: name for name in self._columns} | (fields or {})
        condition, more = query.where(names)
        full = f"FROM {self.name} WHERE {where} AND {condition}"
        counted = reader.one(f"SELECT count(*) AS total {full}", *params, *more)
        assert counted is not None
        rows = reader.all(
            f"SELECT * {full} ORDER BY {query.order(names, order)} LIMIT ? OFFSET ?",
            *params, *more, query.page_size, query.offset,
        )  # fmt: skip
        return [self.value(row) for row in rows], int(counted["total"])

    def value(self, row: Row) -> Row:
        """A row as it was read, with JSON and booleans turned."""
        for name in self._json:
            if name in row:
                row[name] = msgspec.json.decode(row[name])
        for name in self._bools:
            if name in row:
                row[name] = bool(row[name])
        return row

    def _stored(self, values: dict[str, Any]) -> Row:
        row = {name: value for name, value in values.items() if name in self._columns}
        for name, value in row.items():
            kind = self._columns[name]
            if kind == "json":
                row[name] = msgspec.json.encode(value).decode()
            elif kind == "bool":
                row[name] = int(bool(value))
        return row
