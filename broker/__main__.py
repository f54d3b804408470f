"""The composition root: reads the settings, puts the broker together, and runs it."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the current directory here, and with it any `click.py`

import gc
import os
import signal
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import click
import structlog
import zmq

from tollgate.broker.access.key_files import KeyRingError
from tollgate.broker.access.permissions import UnsafeError, make_private
from tollgate.broker.admin import cli
from tollgate.broker.compaction import Compactor
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.limits import BATCH_REPLY_BYTES
from tollgate.broker.core.pipeline import Pipeline
from tollgate.broker.core.replay import replay
from tollgate.broker.core.state import State
from tollgate.broker.journal import Journal, JournalError, NoJournal
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.server import Server
from tollgate.broker.settings import (
    COMPUTED_DEFAULTS,
    AllSettings,
    Settings,
    SettingsError,
    load,
)
from tollgate.broker.telemetry import Counters, Notifier, ReplayLog
from tollgate.broker.transport.binding import Binding, check_libzmq, connections_per_router
from tollgate.broker.transport.endpoints import EndpointError
from tollgate.log import configure as configure_log
from tollgate.streams import Writer
from tollgate.terminal.program import run as run_program

PROGRAM: Final = "tollgate broker"
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
SWITCH_S: Final = 0.0005
"""Longest wait of a thread for the interpreter: the connection monitor must not be late."""
SESSIONS_PER_MS: Final = 1_024
"""Session numbers reserved for each millisecond: more than can be opened in it."""

log = structlog.get_logger("tollgate.broker")

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
    """Run the tollgate broker until SIGTERM or SIGINT."""
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
    check_libzmq(settings)
    connections = connections_per_router(settings)
    notifier, counters = Notifier(), Counters()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # a parent may have blocked them
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))  # nothing is taken yet, in a long replay
    with ExitStack() as stack:
        journal = _open_journal(settings, notifier)
        stack.callback(journal.close)
        binding = Binding(settings, connections, stack)
        # The replayed state stays, and serving leaves no garbage in cycles (a test checks that): a
        # collection would be a pause for nothing.
        gc.disable()
        state = _restored(journal)
        engine = Engine(
            settings.limits(),
            new_id=lambda: str(uuid4()),
            server=f"tollgate {version('tollgate')}",
            boot_id=str(uuid4()),
            state=state,
        )
        on_disk = journal if isinstance(journal, FileJournal) else None
        compactor = Compactor(on_disk, settings.data_dir)
        stack.callback(compactor.close)
        context = zmq.Context()
        stack.callback(context.destroy, linger=settings.linger_ms)
        routers = binding.open_routers(context, counters)
        server = Server(
            Pipeline(engine, counters, BATCH_REPLY_BYTES), journal, compactor, routers, settings,
            _stop_fd(), counters=counters, notifier=notifier, keys=binding.keys,
        )  # fmt: skip
        sys.setswitchinterval(SWITCH_S)
        gc.freeze()
        bound = [url for router in routers for url in router.bound]
        log.info("ready", bind=bound, jobs=state.jobs.count(), pid=os.getpid())
        notifier.ready(f"{state.jobs.count()} jobs, at {' '.join(bound)}")
        server.run()
        for router in routers:
            router.housekeeping()
    if log_writer.dropped:
        counters["log_line"] = log_writer.dropped
    log.info("left", dropped=dict(counters))


def _open_journal(settings: Settings, notifier: Notifier) -> Journal:
    """Open the journal that the settings ask for. Raises JournalError."""
    if settings.in_memory:
        log.warning("jobs are kept in memory only: they end with this process")
        return NoJournal()
    log.info("journal", directory=str(settings.data_dir), fsync=settings.fsync)
    try:
        if settings.data_dir in make_private(settings.data_dir):
            log.info("the data directory is new: there are no jobs yet")
        return FileJournal(
            settings.data_dir, settings.fsync, settings.segment_bytes, observer=ReplayLog(notifier)
        )
    except OSError as fault:
        raise JournalError(
            f"the data directory {settings.data_dir} cannot be used: {fault.strerror};"
            " choose another with --data-dir, or --in-memory"
        ) from None
    except UnsafeError as fault:
        raise JournalError(f"the data directory cannot be used: {fault}") from None


def _restored(journal: Journal) -> State:
    """Return the state that the journal holds; its leases start again at full length."""
    state = State()
    replay(journal.replay(), state)
    # The journal may be a copy from the past, or new. So go on with numbers that no earlier run can
    # have given: two clients in one session would get the answers of each other.
    unused = time.time_ns() // 1_000_000 * SESSIONS_PER_MS
    state.requests.last_session = max(state.requests.last_session, unused)
    state.leases.restart(time.monotonic_ns() // 1_000_000)
    return state


def _stop_fd() -> int:
    """Return a file descriptor that becomes readable at SIGTERM or SIGINT.

    The interpreter writes to it when the signal comes. A Python handler would run only after
    libzmq's poll, which goes on after a signal.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    return read_fd


if __name__ == "__main__":
    run_program(main, PROGRAM, aborted=cli.INTERRUPTED, serves=True)
