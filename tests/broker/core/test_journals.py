"""A journal means the same whichever part of it was put into a snapshot."""

from pathlib import Path

import pytest

from tests.broker.core.make_journals import live_2, main
from tests.broker.journal.helpers import FULL

RECORDS = len(live_2()[0].records)


@pytest.mark.parametrize("cut", range(RECORDS - 1, 0, -1 if FULL else -3))
def test_a_snapshot_at_any_place_means_the_same(cut: int, tmp_path: Path) -> None:
    """Jobs, leases, ready lines, histories, settlements, repeats, and what time brings."""
    whole, compacted = main(tmp_path, cut)
    assert compacted == whole
    assert all(whole.values())
