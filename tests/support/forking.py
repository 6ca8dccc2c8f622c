"""Running something in a forked child."""

import os
import traceback
from collections.abc import Callable


def in_child(work: Callable[[], object]) -> object:
    """Run something in a forked process; what it returned, as a number.

    Raises:
        AssertionError: It failed; the child wrote why to standard error.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, str(work()).encode())
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, it would be lost with the child
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text_of = answer.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "what ran in the child failed"
    return int(text_of) if text_of.isdigit() else text_of or "None"
