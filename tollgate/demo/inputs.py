"""Finds and reads the example inputs, MIP-003 `start_job` bodies, wherever tollgate runs from."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import msgspec

from tollgate.domain.hashing import input_hash

NAME = "inputs.jsonl"


class StartJob(msgspec.Struct, frozen=True):
    """What a purchaser sends to start a job, by MIP-003."""

    identifier_from_purchaser: str
    input_data: Any

    @property
    def text(self) -> str:
        """The input as a job carries it: JSON."""
        return msgspec.json.encode(self.input_data).decode()

    @property
    def hash(self) -> str:
        """The input's MIP-004 hash."""
        return input_hash(self.identifier_from_purchaser, self.input_data)


def load() -> list[StartJob]:
    """Return all example inputs.

    Raises FileNotFoundError if this installation has none.
    """
    decoder = msgspec.json.Decoder(StartJob)
    return decoder.decode_lines(_place().read_bytes())


def _place() -> Traversable:
    shipped = files("tollgate.demo") / NAME
    if shipped.is_file():
        return shipped
    return Path(__file__).parents[2] / "examples" / NAME
