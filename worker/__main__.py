"""The command line of a worker: reads and checks the options, and starts the worker."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # `python -m` puts the current directory here, and with it any `click.py`
    from tollgate import signals

    signals.end_at_once()
    from tollgate.terminal import uncaught

    uncaught.install("tollgate worker")

import logging
from typing import Any, Final

import click

from tollgate.log import configure, protect_stdout
from tollgate.terminal.options import LOG, with_all
from tollgate.terminal.program import run
from tollgate.worker.options import (
    CONNECTION,
    DRAIN,
    SIMULATION,
    WORK,
    with_settings,
)
from tollgate.worker.settings import WorkerSettings

log = logging.getLogger("tollgate.worker")

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
  1 refused by the broker, or its processes were killed while they loaded the handler,
    or --simulate-payments met a job with a real payment
  2 wrong usage            4 no slot is left, because handlers hang: start it again
                           130 ended by a second signal
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@with_all(CONNECTION)
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
@DRAIN
@with_settings(*WORK, *SIMULATION)
@with_all(LOG)
@click.pass_context
def main(  # noqa: PLR0913, PLR0917 - click passes them by name
    context: click.Context,
    /,
    endpoint: str,
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
    if not options["simulate_payments"]:
        for name, *_ in SIMULATION:
            if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                option = name.replace("_", "-")
                raise click.UsageError(f"--{option} is for --simulate-payments, which is not given")
    settings = WorkerSettings(endpoint=endpoint, key=key, queues=queues or ("default",), **options)
    configure(log_level, log_format)
    protect_stdout()  # a handler may print, and its job must not fail for want of a reader
    sys.exit(start(settings))


def start(settings: WorkerSettings) -> int:
    """Run a worker and return its exit code, or end this process in its place."""
    # Imported late: --help and wrong options do not need these modules.
    from tollgate.client.connection import check_key  # noqa: PLC0415
    from tollgate.client.errors import KeyFileError  # noqa: PLC0415
    from tollgate.domain.exceptions import ArgumentError  # noqa: PLC0415
    from tollgate.worker.handlers import HandlerNotFoundError  # noqa: PLC0415
    from tollgate.worker.leaving import leave_in_time  # noqa: PLC0415
    from tollgate.worker.service import REFUSED  # noqa: PLC0415
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
        if fault.may_pass:
            log.error("the worker ends: %s", fault)  # noqa: TRY400 - one line
            return REFUSED
        raise click.BadParameter(str(fault), param_hint="--handler") from None
    leave_in_time(code)
    return code


if __name__ == "__main__":
    run(main, "tollgate worker", aborted=130, serves=True)
