"""Puts a broker together from its settings: journal, state, engine, sockets and loop.

The process of a broker (`__main__`) uses it, and so does `tollgate.testing`, which runs one in a
thread of a test. Nothing here touches signals, the collector or other things of the process.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from typing import Final, NamedTuple
from uuid import uuid4

import zmq

from tollgate.broker.access.permissions import UnsafeError, make_private
from tollgate.broker.clock import LoopClock
from tollgate.broker.compaction import Compactor
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.limits import BATCH_REPLY_BYTES
from tollgate.broker.core.pipeline import Pipeline
from tollgate.broker.core.replay import replay
from tollgate.broker.core.state import State
from tollgate.broker.figures import SESSIONS_PER_MS, ServerFigures, starts_of
from tollgate.broker.journal import Journal, JournalError, NoJournal
from tollgate.broker.journal.file import FileJournal
from tollgate.broker.server import Server
from tollgate.broker.settings import Settings
from tollgate.broker.telemetry import Counters, Notifier, ReplayLog
from tollgate.broker.transport.binding import Binding, check_process_threads
from tollgate.broker.transport.router import Router
from tollgate.log import get_logger

FIRST_SESSION_MAX: Final = 2**53 - 2**40
"""A clock that is centuries ahead must not use up the numbers that a message can hold."""

log = get_logger("tollgate.broker")


class Assembled(NamedTuple):
    """A broker that is bound, and serves as soon as its server runs."""

    server: Server
    pipeline: Pipeline
    routers: list[Router]
    state: State


def assemble(  # noqa: PLR0913 - what differs between a process and a test
    settings: Settings,
    connections: int,
    stack: ExitStack,
    *,
    stop_fd: Callable[[], int],
    counters: Counters,
    notifier: Notifier,
    new_clock: Callable[[State], LoopClock] = lambda _: LoopClock(),
) -> Assembled:
    """Open, replay and bind what the settings name; `stack` gives all of it back.

    `connections` is the limit of one router. `stop_fd` returns the descriptor that stops the
    server; it is called after the replay. Raises JournalError, SettingsError, EndpointError and
    KeyRingError.
    """
    journal = _open_journal(settings, notifier)
    stack.callback(journal.close)
    binding = Binding(settings, connections, stack)
    state = State()
    replay(journal.replay(), state)
    clock = new_clock(state)  # not before the replay: it would take that for a pause
    # The journal may be a copy from the past, or new. So go on with numbers that no earlier run can
    # have given: two clients in one session would get the answers of each other.
    starts = starts_of(number for number, _ in state.requests.sessions())
    unused = min(time.time_ns() // 1_000_000 * SESSIONS_PER_MS, FIRST_SESSION_MAX)
    state.requests.last_session = max(state.requests.last_session, unused)
    engine = Engine(
        settings.limits(),
        new_id=lambda: str(uuid4()),
        server=f"tollgate {version('tollgate')}",
        boot_id=str(uuid4()),
        state=state,
    )
    kept = journal if isinstance(journal, FileJournal) else None
    compactor = Compactor(kept, settings.data_dir)
    stack.callback(compactor.close)
    check_process_threads()
    context = zmq.Context()
    stack.callback(context.destroy, linger=settings.linger_ms)
    routers = binding.open_routers(context, counters)
    state.leases.restart(clock.read().mono_ms)  # from when workers can connect
    pipeline = Pipeline(engine, counters, BATCH_REPLY_BYTES)
    server = Server(
        pipeline, journal, compactor, routers, settings, stop_fd(),
        counters=counters, notifier=notifier, keys=binding.keys, clock=clock,
        figures=ServerFigures(
            clock, journal=kept, directory=settings.data_dir, fsync=settings.fsync, starts=starts
        ),
    )  # fmt: skip
    stack.callback(server.close)
    return Assembled(server, pipeline, routers, state)


def _open_journal(settings: Settings, notifier: Notifier) -> Journal:
    """Open the journal that the settings ask for. Raises JournalError."""
    if settings.in_memory:
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
