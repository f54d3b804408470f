"""One run of a broker in a thread of this process, from its assembly until it has left."""

import logging
import os
import resource
from collections.abc import Callable
from contextlib import ExitStack
from threading import Event, Thread
from typing import Final

from tollgate.broker.assembly import Assembled, assemble
from tollgate.broker.core.state import State
from tollgate.broker.settings import Settings
from tollgate.broker.telemetry import Counters, Notifier
from tollgate.broker.transport.binding import check_libzmq
from tollgate.testing.clock import SteppedClock, SteppedTime

CONNECTIONS_MAX: Final = 1_000
STOP_S: Final = 30.0
"""A broker that does not leave in this time hangs."""

# The broker's log is for those who ask for it. Without any handler, Python writes it to stderr.
logging.getLogger("tollgate.broker").addHandler(logging.NullHandler())


class BrokerThread:
    """A broker that runs from `start` to `stop`, or until it fails.

    It has its own thread for all that it does, because sockets belong to one thread. The host's
    signals, garbage collector, limits and log settings stay as they are.
    """

    def __init__(
        self, settings: Settings, stepped: SteppedTime, on_failure: Callable[[], None]
    ) -> None:
        self.failure: BaseException | None = None
        """Why it ended without being stopped."""
        self._settings = settings
        self._stepped = stepped
        self._clock: SteppedClock | None = None
        self._on_failure = on_failure
        self._assembled: Assembled | None = None
        self._is_bound = Event()
        self._is_over = False
        self._stop_fd, self._stopper = os.pipe()
        self._thread = Thread(target=self._run, name="tollgate broker", daemon=True)

    def start(self) -> None:
        """Return when clients can connect; raise why it could not start."""
        check_libzmq(self._settings)
        self._thread.start()
        self._is_bound.wait()
        if self._assembled is None and self.failure is not None:
            self._join()
            raise self.failure

    def stop(self) -> None:
        """Let it answer what it has taken, and leave. Raises TimeoutError if it hangs."""
        if not self._is_over:
            os.write(self._stopper, b"\0")
            self._join()

    def has_work(self) -> bool:
        """Return whether something was due at its last turn and is not decided; in any thread."""
        if self._assembled is None or self._clock is None:
            return False
        pipeline = self._assembled.pipeline
        return pipeline.is_behind() or pipeline.deadlines.is_due(self._clock.last)

    def _join(self) -> None:
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            raise TimeoutError(f"the broker did not leave in {STOP_S:.0f} s")
        self._is_over = True
        os.close(self._stop_fd)
        os.close(self._stopper)

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                self._assembled = assemble(
                    self._settings,
                    _connections(self._settings),
                    stack,
                    stop_fd=lambda: self._stop_fd,
                    counters=Counters(),
                    notifier=Notifier(environment={}),
                    new_clock=self._new_clock,
                )
                self._is_bound.set()
                self._assembled.server.run()
        except BaseException as fault:  # noqa: BLE001 - it is raised in the thread of the test
            self.failure = fault
            self._on_failure()
        finally:
            self._is_bound.set()

    def _new_clock(self, state: State) -> SteppedClock:
        self._stepped.begin_at(state.at)
        self._clock = SteppedClock(self._stepped)
        return self._clock


def _connections(settings: Settings) -> int:
    """Return how many clients may connect; the process's limit of open files stays as it is."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = CONNECTIONS_MAX if files == resource.RLIM_INFINITY else files // 4
    return settings.connections or max(1, min(CONNECTIONS_MAX, few))
