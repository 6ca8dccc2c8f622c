"""The asyncio twin of `BaseRepository`: the same methods, awaited."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession

from service.database import statements, upserts
from service.database.page_query import PageQuery
from service.database.pagination import Page, Sort
from service.database.statements import ModelT, RowValues, View


class BaseRepositoryAsync(Generic[ModelT]):
    """Reads and writes the rows of one model; see `BaseRepository` for each method.

    Args:
        session: The session to work in.
    """

    model: ClassVar[type[Any]]

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def get(self, key: Any) -> ModelT | None:
        """The row with this primary key."""
        return await self.session.get(self.model, key)

    async def find(self, *where: ColumnElement[bool]) -> ModelT | None:
        """The first row, by primary key, that meets every condition."""
        order = [statements.key_column(self.model)]
        rows = await self.session.scalars(statements.select_rows(self.model, where, order, 1))
        return rows.first()

    async def list(
        self, *where: ColumnElement[bool], order_by: Iterable[Any] = (), limit: int | None = None
    ) -> Sequence[ModelT]:
        """All rows that meet every condition, or the first `limit` of them."""
        query = statements.select_rows(self.model, where, order_by, limit)
        return (await self.session.scalars(query)).all()

    async def page(
        self,
        *where: ColumnElement[bool],
        sort: Sort,
        limit: int,
        cursor: str | None = None,
    ) -> Page[ModelT]:
        """At most `limit` rows after the cursor."""
        query = PageQuery(self.model, where, sort, limit, cursor)
        return query.page((await self.session.scalars(query.statement, query.parameters)).all())

    async def view(self, key: Any) -> View:
        """The row with this primary key as plain values, for what is only shown.

        It costs half of what `get` does, and is nothing that a session would follow.
        """
        connection = await self.session.connection()
        rows = await connection.execute(statements.select_view(self.model), {"key": key})
        return next(iter(statements.views_of(self.model, rows.all())), None)

    async def view_page(
        self,
        *where: ColumnElement[bool],
        sort: Sort,
        limit: int,
        cursor: str | None = None,
    ) -> Page[View]:
        """As `page`, with rows as `view` gives them."""
        query = PageQuery(self.model, where, sort, limit, cursor, as_views=True)
        connection = await self.session.connection()
        rows = await connection.execute(query.statement, query.parameters)
        return query.page(statements.views_of(self.model, rows.all()))

    async def count(self, *where: ColumnElement[bool]) -> int:
        """How many rows meet every condition."""
        return (await self.session.scalars(statements.select_count(self.model, where))).one()

    async def exists(self, *where: ColumnElement[bool]) -> bool:
        """Whether any row meets every condition."""
        return (await self.session.scalars(statements.select_exists(self.model, where))).one()

    async def add(self, row: ModelT) -> ModelT:
        """Insert a row; its key is set on return."""
        self.session.add(row)
        await self.session.flush()
        return row

    async def insert(self, values: RowValues) -> View:
        """Insert one row at once, for half of what `add` costs.

        Args:
            values: Column values by name.

        Returns:
            All of the row, with what the database or a default set, as `view` gives it.
        """
        connection = await self.session.connection()
        rows = await connection.execute(statements.insert_view(self.model), values)
        return statements.views_of(self.model, rows.all())[0]

    async def add_many(self, rows: Iterable[ModelT]) -> Sequence[ModelT]:
        """Insert rows in as few statements as the database takes."""
        added = [*rows]
        self.session.add_all(added)
        await self.session.flush()
        return added

    async def update(self, row: ModelT, changes: Mapping[str, Any]) -> ModelT:
        """Set the named attributes, and no others."""
        for name, value in changes.items():
            setattr(row, name, value)
        await self.session.flush()
        return row

    async def upsert(self, rows: Iterable[RowValues], *, key: Sequence[str]) -> None:
        """Insert rows, or update those whose key is taken and that differ, in key order."""
        ordered = upserts.in_key_order(rows, key)
        if ordered:
            dialect = self.session.get_bind().dialect.name
            statement = upserts.upsert_rows(self.model, [*ordered[0]], key, dialect)
            await self.session.execute(statement, ordered)

    async def delete(self, row: ModelT) -> None:
        """Delete a row."""
        await self.session.delete(row)
        await self.session.flush()

    async def lock(self, key: Any) -> ModelT | None:
        """The row with this primary key, locked until the transaction ends."""
        return (await self.session.scalars(statements.select_locked(self.model, key))).one_or_none()
