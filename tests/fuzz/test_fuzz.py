"""The fuzzers in short: the corpus, some thousand frames, some hundred connections."""

from itertools import islice
from pathlib import Path

import pytest

from tests.fuzz.core import feed
from tests.fuzz.mutate import CORPUS, Mutator
from tests.fuzz.wire import fuzz
from tests.soak.house import broker, look, missing


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_the_corpus_does_no_harm(path: Path) -> None:
    feed([path.read_bytes()] * 2)


def test_damaged_frames_are_answered_as_the_protocol_says() -> None:
    seen = feed(islice(iter(Mutator(7)), 5_000))
    assert seen["malformed"] > 500
    assert seen["answered"] > 200  # or the mutator has nothing left that gets through


def test_damaged_bytes_on_the_wire_disturb_nobody(short_dir: Path) -> None:
    with broker(short_dir) as house:
        looking = look(house.endpoint, 2)
        assert sum(fuzz(str(house.path), 1_000, 7).values()) >= 1_000
        seen = looking()
        assert not seen.failures
        assert seen.jobs
        assert not missing(house.endpoint, seen.jobs)
        house.leave()
        assert house.starts == 1
