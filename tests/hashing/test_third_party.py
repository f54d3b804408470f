"""Our hashes are those of another project's canonicaliser, npm's json-canonicalize."""

import json
import shutil
from typing import Any

import pytest

from tests.hashing.cases import COUNT, HERE, STORED, cases, hashes
from tollgate.domain.hashing import input_hash, output_hash, output_hash_as_deployed

ROWS = [json.loads(line) for line in STORED.read_text().splitlines()]


def ours(row: dict[str, Any]) -> dict[str, str]:
    return {
        "input": input_hash(row["identifier"], row["input"]),
        "escaped": output_hash_as_deployed(row["identifier"], row["output"]),
        "raw": output_hash(row["identifier"], row["output"]),
    }


def test_random_inputs_and_outputs_hash_alike() -> None:
    assert len(ROWS) == COUNT
    assert len({row["hashes"]["input"] for row in ROWS}) == COUNT
    different = [row for row in ROWS if ours(row) != row["hashes"]]
    assert not different


def test_the_cases_tell_the_forms_of_an_output_apart() -> None:
    assert sum(row["hashes"]["escaped"] != row["hashes"]["raw"] for row in ROWS) > COUNT // 3


@pytest.mark.skipif(
    shutil.which("node") is None or not (HERE / "node_modules").exists(),
    reason="Node.js and its package are not installed: run npm ci in tests/hashing",
)
def test_the_stored_hashes_are_what_the_package_gives() -> None:
    given = cases()
    assert [{key: row[key] for key in case} for row, case in zip(ROWS, given, strict=True)] == given
    assert [row["hashes"] for row in ROWS] == hashes(given)
