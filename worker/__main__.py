"""The command line of a worker: reads and checks the options, and starts it."""

import dataclasses
import logging
import sys
from collections.abc import Callable
from typing import Any, Final

import click

from tollgate.domain.endpoint import default_endpoint
from tollgate.worker.settings import Settings

log = logging.getLogger("tollgate.worker")

DAY_MS: Final = 86_400_000
LINE: Final = "%(asctime)s %(levelname)-7s %(message)s"
EPILOG: Final = """\
\b
Example:
  tollgate worker --handler my_service:answer --concurrency 8
  where my_service.py, in this directory, has
      def answer(job):            # or: async def answer(job)
          return job.input.upper()

\b
Exit codes:
  0 done                   3 broker not reached in time
  1 refused by the broker  130 at a second signal, at once
  2 wrong usage
"""

_COUNT: Final = click.IntRange(min=1)
_DELAY_MS: Final = click.IntRange(min=0, max=DAY_MS)
_SHARE: Final = click.FloatRange(min=0, max=1)
_LEASE_MS: Final = click.IntRange(min=100, max=DAY_MS)
_GRACE_S: Final = click.FloatRange(min=0, max=DAY_MS / 1_000)
_WAIT_S: Final = click.FloatRange(min=0, min_open=True, max=DAY_MS / 1_000)
_OPTIONS: Final[tuple[tuple[str, Any, str], ...]] = (
    ("handler", str, "MODULE:FUNCTION that works, plain or async: takes a job, returns text."),
    ("concurrency", _COUNT, "Jobs worked on at once."),
    ("only", click.Choice(["payments", "work"]), "Do this alone."),
    ("seed", int, "Number that the fates of payments are drawn from."),
    ("refused_share", _SHARE, "Part of the payments that are refused."),
    ("never_share", _SHARE, "Part of the payments that never come."),
    ("pay_delay_ms_min", _DELAY_MS, "Least time from a job's creation to its payment."),
    ("pay_delay_ms_max", _DELAY_MS, "Most time from a job's creation to its payment."),
    ("payments_max", _COUNT, "Payments pending at once."),
    ("unpaid_max", _COUNT, "Leases on never paid jobs remembered, to be released at a stop."),
    ("work_delay_ms", _DELAY_MS, "Pause before each call of the handler."),
    ("lease_ms", _LEASE_MS, "Time for which a job stays with a worker that has died."),
    ("stop_grace_s", _GRACE_S, "Time to finish what has been begun, after a signal."),
    ("jobs", _COUNT, "Stop after so many jobs; with --only payments, payments."),
    ("wait_for_broker_s", _WAIT_S, "Time to wait for the broker at the start, else for ever."),
)  # fmt: skip


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting but the endpoint."""
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name, kind, explanation in reversed(_OPTIONS):
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
    help="Where the broker is.  [env: TOLLGATE_ENDPOINT; default: a socket in your runtime"
    " directory]",
)
@click.option(
    "--key",
    metavar="FILE",
    envvar="TOLLGATE_KEY",
    help="The worker's key, for a broker at tcp.  [env: TOLLGATE_KEY]",
)
@_with_settings
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to log on standard error; debug has a line for every job, and tracebacks.",
)
def main(
    endpoint: str | None,
    key: str | None,
    log_level: str,
    **options: Any,  # noqa: ANN401
) -> None:
    """Run a tollgate worker: decide payments by simulation, and work on paid jobs.

    It runs until SIGTERM or SIGINT, finishes or gives back what it holds, and waits for a broker
    that is away. A handler must be safe to be called anew with a job that it has seen: a worker
    may die before it says what came of it.
    """
    endpoint = endpoint or default_endpoint()
    if not endpoint.startswith(("ipc://", "tcp://")):
        raise click.BadParameter(
            f"{endpoint!r} is no endpoint such as ipc:///path", param_hint="--endpoint"
        )
    settings = Settings(endpoint=endpoint, key=key, **options)
    logging.basicConfig(level=log_level.upper(), format=LINE, stream=sys.stderr)
    sys.exit(_start(settings))


def _start(settings: Settings) -> int:
    # Late, so that --help and a wrong option do not wait for what only a running worker needs.
    from tollgate.worker.handlers import HandlerNotFoundError, load_handler  # noqa: PLC0415
    from tollgate.worker.payments import PaymentSimulator  # noqa: PLC0415
    from tollgate.worker.service import serve  # noqa: PLC0415

    try:
        simulator = PaymentSimulator(
            settings.seed,
            refused_share=settings.refused_share,
            never_share=settings.never_share,
            delay_ms_min=settings.pay_delay_ms_min,
            delay_ms_max=settings.pay_delay_ms_max,
        )
        handler = load_handler(settings.handler)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from None
    except HandlerNotFoundError as fault:
        log.debug("the handler", exc_info=fault)
        raise click.BadParameter(str(fault), param_hint="--handler") from None
    log.info(
        "worker: %s on %s, handler %s, %d at once",
        settings.only or "payments and work",
        settings.endpoint,
        settings.handler,
        settings.concurrency,
    )
    return serve(settings, handler, simulator)


def start() -> None:
    """Run the command line; what is wrong with it is said in one line."""
    try:
        main.main(prog_name="tollgate worker", standalone_mode=False)
    except click.ClickException as fault:
        click.echo(f"tollgate worker: {fault.format_message()}", err=True)
        sys.exit(fault.exit_code)
    except click.Abort:
        sys.exit(130)


if __name__ == "__main__":
    start()
