"""Makes the commands of bulk calls, of jobs in any of the forms that users have them in."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from tollgate.client import arguments
from tollgate.client.commands import create, delay_of, local_time_in, make, new_job_ids
from tollgate.domain.commands import Create
from tollgate.domain.exceptions import ArgumentError

HASH_LENGTH: Final = 64

Row = Create | str | Mapping[str, Any]
"""What `create_many` takes: a command, an input hash, or the arguments of `create` by name."""
_A_ROW: Final = "an input hash, a Create, or a mapping of create's arguments"
_ARGUMENTS: Final = ("input_hash", *(create.__kwdefaults__ or ()))


def creates(
    rows: Iterable[Row], time_in: Callable[[int], datetime] = local_time_in
) -> Iterator[Create | ArgumentError]:
    """Yield a `create` with a job id for each row, or the error of that row.

    `time_in` returns the time in so many milliseconds, for rows with `delay_s`. Raises
    ArgumentError at once if `rows` is what one row may be, or no iterable.
    """
    if isinstance(rows, str | bytes | Mapping | Create) or not isinstance(rows, Iterable):
        raise ArgumentError(
            f"create_many: jobs must be a list or another iterable of jobs, not "
            f"{arguments.described(rows)}"
        )
    return _creates(rows, time_in)


def _creates(
    rows: Iterable[Any], time_in: Callable[[int], datetime]
) -> Iterator[Create | ArgumentError]:
    job_ids = new_job_ids()
    for row in rows:
        try:
            if type(row) is str and len(row) == HASH_LENGTH:  # nothing else in it can be wrong
                command = Create(input_hash=row)
                command.job_id = next(job_ids)  # which needs no check
                yield command
            elif isinstance(row, str):
                yield create(row)
            elif isinstance(row, Mapping):
                if "delay_s" in row:
                    row = _timed(row, time_in)  # noqa: PLW2901 - the same job
                yield create(**{"job_id": next(job_ids), **row})
            elif isinstance(row, Create):
                yield _checked(row, job_ids)
            else:
                yield arguments.wrong("create_many", "a job", row, _A_ROW)
        except ArgumentError as refusal:
            yield refusal
        except TypeError:
            known = ", ".join(_ARGUMENTS)
            yield arguments.wrong("create_many", "a job", row, f"a mapping with the keys {known}")
        except ValueError as fault:
            yield ArgumentError(f"create: {fault}")


def _timed(row: Mapping[str, Any], time_in: Callable[[int], datetime]) -> dict[str, Any]:
    """Return a row with the time at which its `delay_s` is over."""
    fields = dict(row)
    delay_s = fields.pop("delay_s")
    if delay_s is not None:
        fields["not_before"] = time_in(delay_of(delay_s, fields.get("not_before")))
    return fields


def _checked(row: Create, job_ids: Iterator[str]) -> Create:
    fields = msgspec.structs.asdict(row)
    if row.job_id is None:
        fields["job_id"] = next(job_ids)
    return make(Create, **fields)


def postponed(command: Create, not_before: datetime) -> Create | ArgumentError:
    """Return a `create` with that `not_before`, or why there can be none."""
    try:
        return make(Create, **{**msgspec.structs.asdict(command), "not_before": not_before})
    except ArgumentError as refusal:
        return refusal


def check_bulk(count: object, on_progress: object = None) -> None:
    """Raise ArgumentError if `count` is not a whole number from 1 on, or the other no function."""
    if on_progress is not None and not callable(on_progress):
        raise ArgumentError(
            f"on_progress must be a function, not {arguments.described(on_progress)}"
        )
    if count is not None and not (type(count) is int and count > 0):
        raise ArgumentError(
            f"message_commands must be a whole number from 1 on, not {arguments.described(count)}"
        )
