"""How much of a long suite runs: a sample in `make test`, all of it in `make test-full`.

`pytest --full` sets TOLLGATE_FULL_TESTS. It is an environment variable, so that the workers of
pytest-xdist and all processes that a test starts see it too.
"""

import os
from typing import TypeVar

VARIABLE = "TOLLGATE_FULL_TESTS"
T = TypeVar("T")


def is_full() -> bool:
    """Return whether the whole of each long suite is to run."""
    return bool(os.environ.get(VARIABLE))


def sample(short: T, full: T) -> T:
    """Return `full` under `pytest --full`, else `short`: a number of examples, a list of cases."""
    return full if is_full() else short
