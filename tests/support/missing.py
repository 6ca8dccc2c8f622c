"""What a test needs and the machine has not."""

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the test, or the whole module that is being imported; in CI, fail it instead.

    Args:
        reason: What is missing, and where it comes from.
    """
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)
