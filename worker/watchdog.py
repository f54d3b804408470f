"""Watches the worker's loop from a thread: says who blocks it, and ends what does not end."""

import asyncio
import faulthandler
import logging
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, process_time
from typing import Final

from tollgate.streams import STDERR
from tollgate.worker.leaving import say
from tollgate.worker.signals import StopSignals

log = logging.getLogger("tollgate.worker")

LOOK_S: Final = 0.25
"""How often to look whether the loop still turns."""
BLOCKED_S: Final = 1.0
"""How long a turn of the loop may take until it is called blocked."""
STANDSTILL_S: Final = 1.0
"""If this thread itself has not run for so long, the whole process stood still."""
OVERRUN_S: Final = 1.0
"""How long after its time limit a handler may block the loop."""
HELD_S_MIN: Final = 300.0
HELD_LEASES: Final = 10
"""The process ends if its interpreter is held for so many leases, and for HELD_S_MIN at least.

To the timer, a process that was stopped (SIGSTOP, a container that was paused) is like one that is
held, and it would end that as it goes on. So its time is longer than most pauses. It is no harm to
the jobs: their leases have long lapsed."""
HELD_TOLD_S: Final = 5.0
"""How long nothing of the process may run until that is logged afterwards."""
_HERE: Final = str(Path(__file__).parent)


def held_limit_s(lease_ms: int) -> float:
    """Return how long the interpreter may be held, in s."""
    return max(HELD_S_MIN, HELD_LEASES * lease_ms / 1_000)


class Watchdog:
    """Looks at the loop four times a second, and at the stop signals at once."""

    def __init__(  # noqa: PLR0913 - what it tells, and whom
        self,
        loop: asyncio.AbstractEventLoop,
        signals: StopSignals | None,
        *,
        on_signal: Callable[[int], None],
        at_work: Callable[[object], tuple[str, float | None] | None],
        on_overrun: Callable[[str], None],
        on_beat: Callable[[], None],
        held_s: float | None = None,
    ) -> None:
        """Watch `loop`, which runs in the calling thread.

        With `held_s`, end the process if nothing of Python has run for so long: C code holds the
        interpreter, and this thread cannot run either. `faulthandler` does it, whose thread needs
        no interpreter: it writes where all threads are, and exits with code 1.

        `on_signal` is called in this thread with the number of signals so far. `at_work` returns,
        for a task, the id of its job and when its time limit ends. `on_overrun` is called if such a
        handler blocks the loop beyond that. `on_beat` is called in the loop, four times a second.
        """
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._signals = signals
        self._on_signal = on_signal
        self._at_work = at_work
        self._on_overrun = on_overrun
        self._on_beat = on_beat
        self._held_s = held_s
        self._held_until = 0.0
        self._is_closed = False
        self._beat_at = monotonic()
        self._is_beat_due = False
        self._signals_seen = 0
        self._deadline: tuple[float, Callable[[], None]] | None = None
        self._blocked_since = 0.0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="tollgate watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, and wait for that: it reads the signals."""
        if self._is_closed:
            return
        self._is_closed = True
        os.eventfd_write(self._wake, 1)
        self._thread.join(timeout=10 * LOOK_S)
        os.close(self._wake)
        if self._held_s is not None:
            faulthandler.cancel_dump_traceback_later()

    def end_by(self, deadline: float, act: Callable[[], None]) -> None:
        """Call `act` in this thread at `deadline` (monotonic, in s), unless it is closed before."""
        self._deadline = (deadline, act)

    def _run(self) -> None:
        poller = select.poll()  # not `select`: the process may have more than 1,024 open files
        poller.register(self._wake, select.POLLIN)
        signals_fd = -1
        if self._signals is not None:
            with suppress(OSError, ValueError):  # they are closed
                signals_fd = self._signals.fileno()
                poller.register(signals_fd, select.POLLIN)
        looked_at, worked = monotonic(), process_time()
        self._put_off_end(looked_at)
        while not self._is_closed:
            ready: dict[int, int] = {}
            with suppress(OSError, ValueError):
                ready = dict(poller.poll(self._pause_s() * 1_000))
            if ready.get(signals_fd, 0) & select.POLLNVAL:
                poller.unregister(signals_fd)  # closed: it would be ready for ever
            now = monotonic()
            if now - looked_at > LOOK_S + STANDSTILL_S:
                self._beat_at = now  # stopped by SIGSTOP, or with the whole machine
                self._tell_standstill(now - looked_at, process_time() - worked)
            looked_at, worked = now, process_time()
            self._put_off_end(now)
            if self._signals is not None and signals_fd in ready:
                count = self._signals.count()
                if count > self._signals_seen:
                    self._signals_seen = count
                    self._on_signal(count)
            if self._deadline is not None and now >= self._deadline[0]:
                _, act = self._deadline
                self._deadline = None
                act()
            self._look(now)

    def _put_off_end(self, now: float) -> None:
        """Say that the interpreter runs code. A timer costs a thread: it is set now and then."""
        if self._held_s is None or now < self._held_until - self._held_s * 3 / 4:
            return
        self._held_until = now + self._held_s
        with suppress(OSError, ValueError, RuntimeError):  # no memory, no thread, no stderr
            faulthandler.dump_traceback_later(self._held_s, exit=True, file=STDERR)

    def _tell_standstill(self, for_s: float, worked_s: float) -> None:
        """Log that nothing ran for a while, in which the process computed for `worked_s`."""
        if for_s < HELD_TOLD_S:
            return
        if worked_s > for_s / 2:
            say(
                logging.WARNING,
                "the interpreter was held for %.1f s, by C code of a handler that does not release"
                " it: nothing else ran, and no lease was kept. Run such a handler in processes"
                ' (isolation="process")', for_s,
            )  # fmt: skip
        else:
            say(
                logging.INFO,
                "nothing of this worker ran for %.1f s: its process or its machine was stopped, or"
                " C code of a handler waited and held the interpreter", for_s,
            )  # fmt: skip

    def _pause_s(self) -> float:
        """Return how long to wait until the next look, or until the deadline."""
        if self._deadline is None:
            return LOOK_S
        return min(LOOK_S, max(0.0, self._deadline[0] - monotonic()))

    def _look(self, now: float) -> None:
        """Check whether the loop still turns; log which handler blocks it if not."""
        if not self._is_beat_due:
            self._is_beat_due = True
            self._beat_at = now
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._beat)
        blocked_s = now - self._beat_at
        if blocked_s < BLOCKED_S:
            return
        task = asyncio.current_task(self._loop)
        job_id, limit_at = self._at_work(task) or ("", None)
        if not self._blocked_since:
            self._blocked_since = self._beat_at
            say(
                logging.WARNING,
                "%s blocks the event loop, and with it all other async handlers, at %s. Its lease"
                " is kept. Make it a plain function (def), which runs in a thread, or use"
                " asyncio.to_thread",
                f"job {job_id}: its handler" if job_id else "something", self._place(),
                **({"job_id": job_id} if job_id else {}),
            )  # fmt: skip
        if limit_at is not None and now > limit_at + OVERRUN_S:
            self._on_overrun(job_id)

    def _beat(self) -> None:
        self._is_beat_due = False
        if not self._is_closed:
            self._on_beat()
        if self._blocked_since:
            log.warning("the event loop was blocked for %.1f s", monotonic() - self._blocked_since)
            self._blocked_since = 0.0

    def _place(self) -> str:
        """Return where the loop's thread is."""
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the way to do it
        if frame is None:
            return "an unknown place"
        entries = traceback.extract_stack(frame)
        outside = [each for each in entries if not each.filename.startswith(_HERE)]
        entry = (outside or entries)[-1]
        return f"{Path(entry.filename).name}:{entry.lineno} ({entry.name}: {entry.line})"
