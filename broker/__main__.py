"""The composition root: picks endpoints, clock, ids and limits, and runs the broker."""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import click
import structlog
import zmq

from tollgate.broker.access.keyring import KeyRing, KeyRingError
from tollgate.broker.access.permissions import UnsafeError, make_private
from tollgate.broker.admin import cli as tool
from tollgate.broker.compaction import Compactor
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.pipeline import Pipeline
from tollgate.broker.core.replay import replay
from tollgate.broker.core.state import State
from tollgate.broker.journal import Journal, JournalError, NoJournal
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.journal.recovery import Observer
from tollgate.broker.server import Server
from tollgate.broker.settings import Settings, SettingsError, load
from tollgate.broker.telemetry.counters import Counters
from tollgate.broker.telemetry.log import configure
from tollgate.broker.telemetry.systemd import Notifier
from tollgate.broker.transport.binding import check_libzmq, group_of, open_doors, open_files
from tollgate.broker.transport.endpoints import Endpoint, EndpointError

PROGRAM: Final = "tollgate broker"
DEFAULTS: Final = {
    "bind": "in your runtime directory",
    "data_dir": "in your state directory",
    "keys": "none",
    "socket_group": "none",
}
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
START_MS: Final = 30_000
"""How long a replay may be silent before the service manager takes it for hung."""
SWITCH_S: Final = 0.0005
"""How long a thread waits for the interpreter: whoever counts connections must not be late."""
PROGRESS_S: Final = 1.0
"""How often a long replay says how far it has come."""
SESSIONS_A_MILLISECOND: Final = 1_024
"""Session numbers set aside for each millisecond: more than can be opened in it."""

log = structlog.get_logger("tollgate.broker")

EPILOG = """
Every option can also be set in the environment, as TOLLGATE_BROKER_ and its name in capitals, or
in a TOML file given with --config.

\b
Example:
  tollgate broker --bind ipc:///run/user/1000/tollgate/broker.sock --jobs 100000
"""


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting."""
    for name, field in reversed(Settings.model_fields.items()):
        many = name == "bind"
        option = f"--{name.replace('_', '-')}"
        if field.annotation is bool:
            command = click.option(option, is_flag=True, help=field.description)(command)
            continue
        default = DEFAULTS.get(name, field.default)
        command = click.option(
            option,
            type=int if field.annotation is int else str,
            multiple=many,
            metavar="URL" if many else None,
            help=f"{field.description} [default: {default}]",
        )(command)
    return command


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="a TOML file with settings, by the names of these options with _ for -",
)
@_options
def main(config: Path | None, **options: Any) -> None:  # noqa: ANN401 - one for every setting
    """Run the tollgate broker until SIGTERM or SIGINT."""
    given = {
        name: value
        for name, value in options.items()
        if value not in (None, ()) and value is not False
    }
    if "bind" in given:
        given["bind"] = list(given["bind"])
    with (
        tool.complaining(PROGRAM, SettingsError, exit_code=2),
        tool.complaining(PROGRAM, EndpointError, JournalError, KeyRingError),
    ):
        settings = load(given, config)
        configure(settings.log_level)
        run(settings)


def run(settings: Settings) -> None:
    """Serve with these settings until a signal comes. Raises EndpointError or JournalError."""
    limits = settings.limits()
    settings = open_files(settings)
    check_libzmq(settings)
    notifier = Notifier()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))  # in a long replay there is nothing to answer
    with ExitStack() as stack:
        journal = _journal(settings, notifier)
        stack.callback(journal.close)
        group = group_of(settings.socket_group)
        endpoints: dict[str, Endpoint] = {
            url: stack.enter_context(Endpoint(url, group))
            for url in settings.bind
            if url.startswith("ipc:")
        }
        keys = None if settings.keys is None else KeyRing(settings.keys)
        # What is replayed stays, and what serving leaves behind is no garbage that only a
        # collector finds (a test sees to that): a collection would be a pause for nothing.
        gc.disable()
        state = _restored(journal)
        engine = Engine(
            limits,
            new_id=lambda: str(uuid4()),
            server=_version(),
            boot_id=str(uuid4()),
            state=state,
        )
        on_disk = journal if isinstance(journal, FileJournal) else None
        compactor = Compactor(on_disk, settings.data_dir)
        stack.callback(compactor.close)
        counters = Counters()
        context = zmq.Context()
        stack.callback(context.destroy, linger=settings.linger_ms)
        doors = list(open_doors(context, settings, endpoints, group, keys, counters, stack))
        pipeline = Pipeline(engine, counters, settings.batch_reply_bytes)
        server = Server(
            pipeline, journal, compactor, doors, settings, _stop_fd(),
            counters=counters, notifier=notifier, keys=keys,
        )  # fmt: skip
        sys.setswitchinterval(SWITCH_S)
        gc.freeze()
        bound = [url for door in doors for url in door.bound]
        log.info("ready", bind=bound, jobs=state.jobs.count(), pid=os.getpid())
        notifier.ready(f"{state.jobs.count()} jobs, at {' '.join(bound)}")
        server.run()
        for door in doors:
            door.tend()
    log.info("left", dropped=dict(counters))


def _journal(settings: Settings, notifier: Notifier) -> Journal:
    if settings.in_memory:
        log.warning("jobs are kept in memory only: they end with this process")
        return NoJournal()
    log.info("journal", directory=str(settings.data_dir), fsync=settings.fsync)
    try:
        make_private(settings.data_dir)
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
    """Return the state that the journal has kept, with its leases running anew."""
    state = State()
    replay(journal.replay(), state)
    if state.requests.last_session == 0:
        # Nothing is known of earlier runs: begin with numbers that none of them can have given.
        state.requests.last_session = time.time_ns() // 1_000_000 * SESSIONS_A_MILLISECOND
    state.leases.restart(time.monotonic_ns() // 1_000_000)
    return state


class ReplayLog(Observer):
    """Says in the log how far a long replay has come, and what it met."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._next_s = time.monotonic() + PROGRESS_S

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Report now and then."""
        if time.monotonic() >= self._next_s:
            self._next_s += PROGRESS_S
            percent = 100 * done_bytes // max(1, total_bytes)
            self._notifier.starting(f"replaying: {percent} %", START_MS)
            log.info("replaying", percent=percent, done_bytes=done_bytes, total_bytes=total_bytes)

    def torn(self, file: Path, offset: int, length: int) -> None:
        """Report a write that was never finished, nor acknowledged."""
        log.warning("torn write cut off", file=str(file), offset=offset, bytes=length)

    def skipped(self, file: Path, reason: str) -> None:
        """Report a damaged snapshot that is not needed."""
        log.error("damaged snapshot skipped", file=str(file), reason=reason)


def _stop_fd() -> int:
    """Return a file descriptor that becomes readable at SIGTERM or SIGINT.

    The interpreter writes to it when the signal comes. A handler of ours would have to wait for
    the end of libzmq's poll, which goes on after a signal.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    return read_fd


def _version() -> str:
    try:
        return f"tollgate {version('tollgate')}"
    except PackageNotFoundError:
        return "tollgate"


if __name__ == "__main__":
    tool.run(main, PROGRAM, aborted=tool.INTERRUPTED)
