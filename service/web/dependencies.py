"""What routes ask for by the type of an argument."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from service.database import read_session, write_session
from service.web.admission import Admission


async def hold_place(request: Request) -> AsyncIterator[None]:
    """Hold one of the places of those that may use the database."""
    admission: Admission = request.app.state.admission
    async with admission.place():
        yield


# scope="function" ends a dependency before the response is sent. In the default scope a COMMIT
# that fails would come after a 201, and a slow reader would keep its connection.
Admitted = Annotated[None, Depends(hold_place, scope="function")]


def open_read_session(admitted: Admitted) -> Iterator[Session]:
    """Open a session that only reads."""
    del admitted
    with read_session() as session:
        yield session


def open_write_session(admitted: Admitted) -> Iterator[Session]:
    """Open a session that is committed after the handler and before the response."""
    del admitted
    with write_session() as session:
        yield session


ReadSession = Annotated[Session, Depends(open_read_session, scope="function")]
WriteSession = Annotated[Session, Depends(open_write_session, scope="function")]
