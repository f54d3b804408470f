"""The options of the command lines that run a worker: one for each setting."""

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import click

from tollgate.terminal.options import connection
from tollgate.worker.settings import WorkerSettings

DAY_MS: Final = 86_400_000
Option = tuple[str, Any, str]
"""The name of a setting, its type, and what the help says."""

_COUNT: Final = click.IntRange(min=1)
_DELAY_MS: Final = click.IntRange(min=0, max=DAY_MS)
_SHARE: Final = click.FloatRange(min=0, max=1)
_LEASE_MS: Final = click.IntRange(min=100, max=DAY_MS)
_GRACE_S: Final = click.FloatRange(min=0, max=DAY_MS / 1_000)
_WAIT_S: Final = click.FloatRange(min=0, min_open=True, max=DAY_MS / 1_000)


class _Pauses(click.ParamType[Any]):
    """A number of seconds, or several with commas between them."""

    name = "seconds"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401 - as click has it
        """See `click.ParamType`."""
        if not isinstance(value, str):
            return value
        try:
            pauses = [float(part) for part in value.split(",")]
        except ValueError:
            pauses = [-1.0]
        if any(not 0 <= each < DAY_MS for each in pauses):
            self.fail(f"{value!r} is no number of seconds, and no list such as 1,10,60", param, ctx)
        return pauses if len(pauses) > 1 else pauses[0]


WORK: Final[tuple[Option, ...]] = (
    ("handler", str, "MODULE:FUNCTION to call, plain or async: it takes a job and returns text."),
    ("concurrency", _COUNT, "Jobs worked on at once."),
    ("max_attempts", _COUNT, "How often a job is tried, lapsed leases included."),
    ("backoff_s", _Pauses(), "Pause after the first failed try, doubling; or pauses: 1,10,60."),
    ("on_exhausted", click.Choice(["fail", "hold"]), "What becomes of a job after its last try."),
    ("timeout_s", _WAIT_S, "Longest time of a call of the handler; default: no limit."),
    ("isolation", click.Choice(["thread", "process"]), "Where plain handlers run; process: all."),
    ("recycle_jobs", _COUNT, "With --isolation process: replace a process after so many jobs."),
    ("recycle_memory_mb", _COUNT, "Replace a process that has more memory than this after a job."),
    ("lease_ms", _LEASE_MS, "Time after which another worker may have a dead worker's job."),
    ("stop_grace_s", _GRACE_S, "Time for running jobs to finish after a stop signal."),
    ("jobs", _COUNT, "Stop after this many jobs; with --only payments, after this many payments."),
    ("wait_for_broker_s", _WAIT_S, "Longest wait for the broker at the start; default: no limit."),
    ("work_delay_ms", _DELAY_MS, "Pause before each call of the handler, for demonstrations."),
    ("only", click.Choice(["payments", "work"]), "With --simulate-payments: do only this."),
)  # fmt: skip
SIMULATION: Final[tuple[Option, ...]] = (
    ("seed", int, "Seed of the simulated payments."),
    ("refused_share", _SHARE, "Share of payments that are refused, 0 to 1."),
    ("never_share", _SHARE, "Share of payments that never come, 0 to 1."),
    ("pay_delay_ms_min", _DELAY_MS, "Shortest time from a job's creation to its payment."),
    ("pay_delay_ms_max", _DELAY_MS, "Longest time from a job's creation to its payment."),
    ("payments_max", _COUNT, "Payments pending at once."),
    ("unpaid_max", _COUNT, "Leases on jobs never paid to remember, for release at a stop."),
)  # fmt: skip


RUN: Final = tuple(row for row in WORK if row[0] in {"lease_ms", "wait_for_broker_s"})
"""Those that a worker for payments alone has, too."""


def with_settings(*rows: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these settings, with the setting's own default."""
    defaults = {field.name: field.default for field in dataclasses.fields(WorkerSettings)}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name, kind, explanation in reversed(rows):
            command = click.option(
                f"--{name.replace('_', '-')}",
                type=kind,
                default=defaults[name],
                show_default=defaults[name] is not None,
                help=explanation,
            )(command)
        return command

    return decorate


DRAIN: Final = click.option(
    "--drain", is_flag=True, help="Stop when no job is ready and all are done."
)
CONNECTION: Final = connection("Key file of the worker, for a broker on tcp.")
