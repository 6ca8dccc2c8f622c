"""The asyncio twin of `BaseRepository`: the same methods, awaited."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession

from service.database import statements, upserts, views
from service.database.page_query import PageQuery
from service.database.pagination import Page, Sort
from service.database.statements import ModelT, RowValues
from service.database.views import ViewT


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

    async def view(self, view: type[ViewT], key: Any) -> ViewT | None:
        """What a view shows of the row with this primary key."""
        connection = await self.session.connection()
        rows = await connection.execute(views.select_view(self.model, view), {"key": key})
        return next(iter(views.views_of(view, rows.all())), None)

    async def view_page(
        self,
        view: type[ViewT],
        *where: ColumnElement[bool],
        sort: Sort,
        limit: int,
        cursor: str | None = None,
    ) -> Page[ViewT]:
        """As `page`, of views, which show at least what the page is sorted by."""
        query = PageQuery(self.model, where, sort, limit, cursor, view=view)
        connection = await self.session.connection()
        rows = await connection.execute(query.statement, query.parameters)
        return query.page(views.views_of(view, rows.all()))

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

    async def insert(self, view: type[ViewT], values: RowValues) -> ViewT:
        """Insert one row at once, and give what a view shows of it."""
        connection = await self.session.connection()
        rows = await connection.execute(views.insert_view(self.model, view), values)
        return views.views_of(view, rows.all())[0]

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
