"""What every repository can do, for sync sessions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from service.database import statements, upserts, views
from service.database.page_query import PageQuery
from service.database.pagination import Page, Sort
from service.database.statements import ModelT, RowValues
from service.database.views import ViewT


class BaseRepository(Generic[ModelT]):
    """Reads and writes the rows of one model.

    It flushes, so that the database's complaints come where they were caused, and never
    commits: that is for whoever opened the session.

    Args:
        session: The session to work in.
    """

    model: ClassVar[type[Any]]

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, key: Any) -> ModelT | None:
        """The row with this primary key."""
        return self.session.get(self.model, key)

    def find(self, *where: ColumnElement[bool]) -> ModelT | None:
        """The first row, by primary key, that meets every condition."""
        order = [statements.key_column(self.model)]
        return self.session.scalars(statements.select_rows(self.model, where, order, 1)).first()

    def list(
        self, *where: ColumnElement[bool], order_by: Iterable[Any] = (), limit: int | None = None
    ) -> Sequence[ModelT]:
        """All rows that meet every condition, or the first `limit` of them."""
        query = statements.select_rows(self.model, where, order_by, limit)
        return self.session.scalars(query).all()

    def page(
        self,
        *where: ColumnElement[bool],
        sort: Sort,
        limit: int,
        cursor: str | None = None,
    ) -> Page[ModelT]:
        """At most `limit` rows after the cursor.

        Raises:
            InvalidCursorError: The cursor is not one of this list, order and key.
            SettingsError: The process has no settings yet, and they are wrong.
        """
        query = PageQuery(self.model, where, sort, limit, cursor)
        return query.page(self.session.scalars(query.statement, query.parameters).all())

    def view(self, view: type[ViewT], key: Any) -> ViewT | None:
        """What a view shows of the row with this primary key.

        It costs half of what `get` does, and is nothing that a session would follow.

        Args:
            view: A dataclass; each of its fields has the name of an attribute of the model.
            key: The primary key.

        Raises:
            TypeError: The view is something else.
        """
        connection = self.session.connection()
        rows = connection.execute(views.select_view(self.model, view), {"key": key})
        return next(iter(views.views_of(view, rows.all())), None)

    def view_page(
        self,
        view: type[ViewT],
        *where: ColumnElement[bool],
        sort: Sort,
        limit: int,
        cursor: str | None = None,
    ) -> Page[ViewT]:
        """As `page`, of views, which show at least what the page is sorted by."""
        query = PageQuery(self.model, where, sort, limit, cursor, view=view)
        rows = self.session.connection().execute(query.statement, query.parameters)
        # All at once: row by row each of them would be a call to the driver.
        return query.page(views.views_of(view, rows.all()))

    def count(self, *where: ColumnElement[bool]) -> int:
        """How many rows meet every condition."""
        return self.session.scalars(statements.select_count(self.model, where)).one()

    def exists(self, *where: ColumnElement[bool]) -> bool:
        """Whether any row meets every condition."""
        return self.session.scalars(statements.select_exists(self.model, where)).one()

    def add(self, row: ModelT) -> ModelT:
        """Insert a row; its key is set on return."""
        self.session.add(row)
        self.session.flush()
        return row

    def insert(self, view: type[ViewT], values: RowValues) -> ViewT:
        """Insert one row at once, for half of what `add` costs.

        Args:
            view: As of `view`.
            values: Column values by name.

        Returns:
            The row, with what the database or a default set.
        """
        connection = self.session.connection()
        rows = connection.execute(views.insert_view(self.model, view), values)
        return views.views_of(view, rows.all())[0]

    def add_many(self, rows: Iterable[ModelT]) -> Sequence[ModelT]:
        """Insert rows in as few statements as the database takes."""
        added = [*rows]
        self.session.add_all(added)
        self.session.flush()
        return added

    def update(self, row: ModelT, changes: Mapping[str, Any]) -> ModelT:
        """Set the named attributes, and no others.

        Raises:
            sqlalchemy.orm.exc.StaleDataError: Another transaction changed the row since it was
                read, and the model has a version column.
        """
        for name, value in changes.items():
            setattr(row, name, value)
        self.session.flush()
        return row

    def upsert(self, rows: Iterable[RowValues], *, key: Sequence[str]) -> None:
        """Insert rows, or update those whose key is taken and that differ, in key order.

        Args:
            rows: Column values by name, each row with the same names, no key twice.
            key: The columns of a unique constraint.
        """
        ordered = upserts.in_key_order(rows, key)
        if ordered:
            dialect = self.session.get_bind().dialect.name
            statement = upserts.upsert_rows(self.model, [*ordered[0]], key, dialect)
            self.session.execute(statement, ordered)

    def delete(self, row: ModelT) -> None:
        """Delete a row.

        Raises:
            sqlalchemy.orm.exc.StaleDataError: Another transaction changed or deleted it.
        """
        self.session.delete(row)
        self.session.flush()

    def lock(self, key: Any) -> ModelT | None:
        """The row with this primary key, locked until the transaction ends."""
        return self.session.scalars(statements.select_locked(self.model, key)).one_or_none()
