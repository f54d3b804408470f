"""Checks what is typed on the command line, before a broker is bothered with it."""

import re
from typing import Final

import click

from tollgate.domain.commands import UINT_LIMIT
from tollgate.domain.status import JobStatus

YEAR_S: Final = 365 * 24 * 3600
WHOLE_MAX: Final = UINT_LIMIT - 1

STATUS: Final = click.Choice([status.value for status in JobStatus])


class Whole(click.ParamType[int]):
    """A whole number in a range, both ends included."""

    name = "number"

    def __init__(self, lowest: int, highest: int = WHOLE_MAX) -> None:
        """Take numbers from `lowest` to `highest`."""
        self._range = range(lowest, highest + 1)

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number."""
        try:
            number = int(value)
        except ValueError:
            number = self._range.start - 1
        if number not in self._range:
            first, last = self._range[0], self._range[-1]
            span = f"from {first} on" if last == WHOLE_MAX else f"from {first} to {last}"
            self.fail(f"{value} is no whole number {span}", param, ctx)
        return number


class _Seconds(click.ParamType[float]):
    name = "seconds"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1
        if not 0 <= seconds <= YEAR_S:  # so is no NaN
            self.fail(f"{value} is no number of seconds from 0 to a year", param, ctx)
        return seconds


class _Hash(click.ParamType[str]):
    name = "hash"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch("[0-9a-f]{64}", value):
            self.fail("a hash has 64 lowercase hexadecimal digits", param, ctx)
        return value


class _Identifier(click.ParamType[str]):
    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.strip():
            self.fail("an id cannot be empty", param, ctx)
        return value


SECONDS: Final = _Seconds()
HASH: Final = _Hash()
IDENTIFIER: Final = _Identifier()
