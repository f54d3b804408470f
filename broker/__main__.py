"""The process of a broker: reads the settings, and runs one until a signal comes."""

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # a collection of all that is imported takes a tenth of the start
    if not sys.flags.safe_path:
        del sys.path[0]  # `python -m` puts the current directory here, and with it any `click.py`
    from tollgate import signals

    signals.end_at_once()
    from tollgate.terminal import uncaught

    uncaught.install("tollgate broker")

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click

from tollgate.broker.access.key_files import KeyRingError
from tollgate.broker.access.permissions import use_private_umask
from tollgate.broker.admin import cli
from tollgate.broker.assembly import assemble
from tollgate.broker.journal import JournalError
from tollgate.broker.memory import share_one_arena
from tollgate.broker.settings import (
    COMPUTED_DEFAULTS,
    AllSettings,
    Settings,
    SettingsError,
    load,
)
from tollgate.broker.telemetry import Counters, Notifier
from tollgate.broker.transport.binding import check_libzmq, connections_per_router
from tollgate.broker.transport.endpoints import EndpointError
from tollgate.log import configure as configure_log
from tollgate.log import get_logger
from tollgate.signals import STOPS, obeyed_stops
from tollgate.streams import Writer
from tollgate.terminal.program import run as run_program

PROGRAM: Final = "tollgate broker"
SWITCH_S: Final = 0.0005
"""Longest wait of a thread for the interpreter: the connection monitor must not be late."""

log = get_logger("tollgate.broker")

EPILOG = """
Every option can also be set in the environment, as TOLLGATE_BROKER_ and its name in capitals, or
in a TOML file given with --config. TOLLGATE_ENDPOINT and TOLLGATE_DATA_DIR, which other commands
read too, set --bind and --data-dir. `tollgate config show` tells where each setting comes from.

\b
Examples:
  tollgate broker --bind ipc:///run/user/1000/tollgate/broker.sock --jobs 100000
  tollgate broker --in-memory --log-format json 2>&1 | tee broker.log
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="a TOML file with settings, by the names of these options with _ for -",
)
@cli.setting_options(AllSettings.model_fields, COMPUTED_DEFAULTS)
def main(config: Path | None, **options: Any) -> None:  # noqa: ANN401 - one for each setting
    """Run the tollgate broker until SIGTERM, SIGINT or SIGHUP."""
    given = cli.given(options)
    with (
        cli.complaining(PROGRAM, SettingsError, exit_code=2),
        cli.complaining(PROGRAM, EndpointError, JournalError, KeyRingError),
    ):
        settings = load(given, config)
        writer = configure_log(settings.log_level, settings.log_format)
        run(settings, writer)


def run(settings: Settings, log_writer: Writer) -> None:
    """Serve until a signal comes. Raises what `main` reports."""
    share_one_arena()
    use_private_umask()
    check_libzmq(settings)
    connections = connections_per_router(settings)
    notifier, counters = Notifier(), Counters()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # a parent may have blocked them
    for number in obeyed_stops():
        signal.signal(number, _leave_early)
    if settings.in_memory:
        log.warning("jobs are kept in memory only: they end with this process")
    with ExitStack() as stack:
        # The replayed state stays, and serving leaves no garbage in cycles (a test checks that): a
        # collection would be a pause for nothing.
        gc.disable()
        broker = assemble(
            settings, connections, stack, stop_fd=_stop_fd, counters=counters, notifier=notifier
        )
        sys.setswitchinterval(SWITCH_S)
        gc.freeze()
        bound = [url for router in broker.routers for url in router.bound]
        jobs = broker.state.jobs.count()
        log.info("ready", bind=bound, jobs=jobs, pid=os.getpid())
        notifier.ready(f"{jobs} jobs, at {' '.join(bound)}")
        broker.server.run()
        for router in broker.routers:
            router.housekeeping()
    if log_writer.dropped:
        counters["log_line"] = log_writer.dropped
    log.info("left", dropped=dict(counters))


def _leave_early(number: int, _: object) -> None:
    """Exit at a signal that comes during the start: a replay may be long, and nothing is taken."""
    _hear_no_more()
    log.info("left before it was ready", signal=signal.Signals(number).name)
    sys.exit(0)


def _stop_fd() -> int:
    """Return a file descriptor that becomes readable at a signal to stop.

    The interpreter writes to it when the signal comes. A Python handler would run only after
    libzmq's poll, which goes on after a signal.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    for number in obeyed_stops():
        signal.signal(number, _note_stop)
    return read_fd


def _note_stop(number: int, _: object) -> None:
    _hear_no_more()
    log.info("stopping", signal=signal.Signals(number).name)


def _hear_no_more() -> None:
    """Do nothing at further signals to stop.

    By a handler: if one that came together with the first were ignored, Python would complain.
    """
    for number in obeyed_stops():
        signal.signal(number, lambda *_: None)


if __name__ == "__main__":
    run_program(main, PROGRAM, aborted=cli.INTERRUPTED, serves=True)
