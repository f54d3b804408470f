"""The fuzzers in short: the corpus, thousands of frames, hundreds of connections."""

from itertools import islice
from pathlib import Path
from typing import get_args

import pytest

from tests.fuzz.core import feed
from tests.fuzz.mutate import COMMANDS, CORPUS, Mutator
from tests.fuzz.wire import fuzz
from tests.sizes import sample
from tests.soak.target import broker, missing, observe
from tollgate.domain.commands import AnyCommand


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_the_corpus_does_no_harm(path: Path) -> None:
    feed([path.read_bytes()] * 2)


def test_every_command_and_field_is_damaged() -> None:
    for kind in get_args(AnyCommand):
        used = [each for each in COMMANDS if each["type"] == kind.__struct_config__.tag]
        assert used
        assert set(kind.__struct_fields__) <= {field for each in used for field in each}


def test_damaged_frames_get_a_valid_answer() -> None:
    seen = feed(islice(iter(Mutator(7)), 5_000))
    assert seen["malformed"] > 500
    assert seen["answered"] > 200  # otherwise the mutator makes no valid frame any more


def test_damaged_bytes_on_the_wire_harm_no_other_client(short_dir: Path) -> None:
    with broker(short_dir) as target:
        observing = observe(target.endpoint, sample(1.0, 2.0))
        assert sum(fuzz(str(target.path), 1_000, 7).values()) >= 1_000
        seen = observing()
        assert not seen.failures
        assert seen.jobs
        assert not missing(target.endpoint, seen.jobs)
        target.leave()
        assert target.starts == 1
