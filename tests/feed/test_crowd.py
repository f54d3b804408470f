"""A sample of `python -m tests.feed.crowd`: readers with sockets of their own, parked together."""

import tempfile
from pathlib import Path

import pytest

from tests.feed.crowd import run
from tests.sizes import is_full, sample

READERS = sample(60, 1_000)
SILENT = sample(3, 10)


@pytest.mark.timeout(300)
def test_every_parked_reader_is_told_every_event() -> None:
    """Although some that ask again and again never read."""
    with tempfile.TemporaryDirectory(prefix="tg") as scratch:
        outcome = run(
            Path(scratch), readers=READERS, silent=SILENT, rounds=1, jobs=sample(10, 40),
            falls_behind=is_full(),
        )  # fmt: skip
    assert outcome.told == READERS
    assert outcome.gone
    assert outcome.files[1] - outcome.files[0] == READERS + SILENT
    assert outcome.unread_bytes or not is_full()  # a few events fit into the kernel's buffers
