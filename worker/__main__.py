"""The command line of a worker: reads and checks the options, and starts the worker."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the current directory here, and with it any `click.py`

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, Final

import click

from tollgate.domain.endpoint import check_endpoint, default_endpoint
from tollgate.log import FORMAT_VARIABLE, FORMATS, LEVELS, configure, protect_stdout
from tollgate.terminal.program import run
from tollgate.worker.settings import WorkerSettings

log = logging.getLogger("tollgate.worker")

DAY_MS: Final = 86_400_000
EPILOG: Final = """\
\b
Example:
  tollgate worker --handler my_service:answer --queue answers --concurrency 8
  where my_service.py, in this directory, has
      def answer(job):            # or: async def answer(job); or with a second argument, ctx
          return job.input.upper()
  tollgate worker --handler my_service:answer --max-attempts 5 --backoff-s 1,10,60 \\
      --on-exhausted hold --timeout-s 300 --isolation process

\b
Exit codes:
  0 done                   3 broker not reached in time
  1 refused by the broker  4 no slot is left, because handlers hang: start it again
  2 wrong usage            130 ended by a second signal
"""

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


_OPTIONS: Final[tuple[tuple[str, Any, str], ...]] = (
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
_SIMULATION: Final[tuple[tuple[str, Any, str], ...]] = (
    ("seed", int, "Seed of the simulated payments."),
    ("refused_share", _SHARE, "Share of payments that are refused, 0 to 1."),
    ("never_share", _SHARE, "Share of payments that never come, 0 to 1."),
    ("pay_delay_ms_min", _DELAY_MS, "Shortest time from a job's creation to its payment."),
    ("pay_delay_ms_max", _DELAY_MS, "Longest time from a job's creation to its payment."),
    ("payments_max", _COUNT, "Payments pending at once."),
    ("unpaid_max", _COUNT, "Leases on jobs never paid to remember, for release at a stop."),
)  # fmt: skip


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting but the endpoint."""
    defaults = {field.name: field.default for field in dataclasses.fields(WorkerSettings)}
    for name, kind, explanation in reversed(_OPTIONS + _SIMULATION):
        command = click.option(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=defaults[name],
            show_default=defaults[name] is not None,
            help=explanation,
        )(command)
    return command


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--endpoint",
    metavar="URL",
    envvar="TOLLGATE_ENDPOINT",
    show_envvar=True,
    help="Address of the broker.  [default: a socket in your runtime directory]",
)
@click.option(
    "--key",
    metavar="FILE",
    envvar="TOLLGATE_KEY",
    show_envvar=True,
    help="Key file of the worker, for a broker on tcp.",
)
@click.option("--name", metavar="NAME", help="What histories show.  [default: program@host:pid]")
@click.option(
    "--queue",
    "queues",
    metavar="QUEUE",
    multiple=True,
    help="Queue to take jobs from, first ones first; * alone is all.  [default: default]",
)
@click.option(
    "--simulate-payments",
    is_flag=True,
    help="Confirm payments without a real payment. For demonstrations and tests.",
)
@click.option("--drain", is_flag=True, help="Stop when no job is ready and all are done.")
@_with_settings
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    envvar=FORMAT_VARIABLE,
    help="console: lines for people; json: a JSON document each.  [env: TOLLGATE_LOG_FORMAT;"
    " default: console on a terminal, otherwise json]",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="Lowest level to log on standard error; debug logs every job.",
)
@click.pass_context
def main(  # noqa: PLR0913, PLR0917 - click passes them by name
    context: click.Context,
    /,
    endpoint: str | None,
    key: str | None,
    queues: tuple[str, ...],
    log_level: str,
    log_format: str | None,
    **options: Any,  # noqa: ANN401
) -> None:
    """Run a tollgate worker: have a handler work on jobs that are paid.

    It runs until SIGTERM or SIGINT, then finishes or releases its jobs. It waits for a broker that
    is not running. A handler must be safe to call again with the same job: a worker may die before
    it has sent the result. A handler that raises has failed one try of its job.

    It decides no payments, unless --simulate-payments is given.
    """
    endpoint = default_endpoint() if endpoint is None else endpoint
    try:
        check_endpoint(endpoint)
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--endpoint") from None
    if not options["simulate_payments"]:
        for name, *_ in _SIMULATION:
            if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                option = name.replace("_", "-")
                raise click.UsageError(f"--{option} is for --simulate-payments, which is not given")
    settings = WorkerSettings(endpoint=endpoint, key=key, queues=queues or ("default",), **options)
    configure(log_level, log_format)
    protect_stdout()  # a handler may print, and its job must not fail for want of a reader
    sys.exit(_start(settings))


def _start(settings: WorkerSettings) -> int:
    # Imported late: --help and wrong options do not need these modules.
    from tollgate.client.connection import check_key  # noqa: PLC0415
    from tollgate.client.errors import KeyFileError  # noqa: PLC0415
    from tollgate.domain.exceptions import ArgumentError  # noqa: PLC0415
    from tollgate.worker.handlers import HandlerNotFoundError  # noqa: PLC0415
    from tollgate.worker.leaving import leave_in_time  # noqa: PLC0415
    from tollgate.worker.worker import Worker  # noqa: PLC0415

    try:
        check_key(settings.endpoint, settings.key)
    except KeyFileError as fault:
        raise click.BadParameter(str(fault), param_hint="--key") from None
    what = settings.only or ("payments and work" if settings.simulate_payments else "work")
    try:
        worker = Worker.of(settings)
        log.info(
            "worker: %s on %s, handler %s, %d at once",
            what, settings.endpoint, settings.handler, settings.concurrency,
        )  # fmt: skip
        code = worker.run()
    except ArgumentError as fault:
        raise click.UsageError(str(fault)) from None
    except HandlerNotFoundError as fault:
        log.debug("the handler", exc_info=fault)
        raise click.BadParameter(str(fault), param_hint="--handler") from None
    leave_in_time(code)
    return code


if __name__ == "__main__":
    run(main, "tollgate worker", aborted=130, serves=True)
