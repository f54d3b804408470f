"""The ROUTER loop: takes what has arrived, has it decided, and sends what came of it."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import structlog
import zmq

from broker.compactor import Compactor
from broker.journal import Journal
from broker.journal.fsync import parse_fsync
from broker.pipeline import Arrival, Outcome, Pipeline, Reply
from broker.principal import Principal
from broker.records import encode_records
from broker.settings import Settings
from broker.timers import Instant
from domain.roles import Role

OWN: Final = Principal(f"uid:{os.getuid()}", Role.ADMIN)
"""Who can open a socket of mode 0600."""

log = structlog.get_logger("tollgate.broker")

IDLE_MS: Final = 1_000
"""How long to sleep at most: by then a wall clock that was set is noticed, and a full segment."""
RETRY_MS: Final = 1_000
"""How long to wait for room on the disk before what is due is tried again."""
FRAME_FACTOR: Final = 4
"""A frame of up to so many times the limit is answered; a larger one ends its connection."""


class Server:
    """Runs a pipeline over one ROUTER socket until `stop_fd` becomes readable.

    Everything that a batch changed is in `journal` before anything of that batch is sent.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        journal: Journal,
        compactor: Compactor,
        settings: Settings,
        stop_fd: int,
    ) -> None:
        self._pipeline = pipeline
        self._journal = journal
        self._compactor = compactor
        self._settings = settings
        self._stop_fd = stop_fd
        # Under an interval policy, what is written waits no longer than that to be synced.
        self._idle_ms = min(IDLE_MS, parse_fsync(settings.fsync).interval_ms or IDLE_MS)
        self._undelivered: list[tuple[str, int]] = []
        self._writable = True
        self.dropped: Counter[str] = Counter()
        """How many replies could not be sent, by cause."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # hear of peers that are gone
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 0)  # nobody takes another's replies
        self._socket.setsockopt(zmq.MAXMSGSIZE, FRAME_FACTOR * settings.request_bytes)
        self._socket.setsockopt(zmq.SNDHWM, settings.send_window)
        self._socket.setsockopt(zmq.RCVHWM, settings.receive_window)

    def bind(self, endpoints: Sequence[str]) -> None:
        """Listen on ipc endpoints that this process holds; their socket files are its own."""
        umask = os.umask(0o177)
        try:
            for endpoint in endpoints:
                self._socket.bind(endpoint)
        finally:
            os.umask(umask)

    def run(self) -> None:
        """Serve until told to stop; then answer what was taken, and return.

        Raises JournalFailedError: nothing of the batch was sent, and the process must stop.
        """
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._stop_fd, zmq.POLLIN)
        batch: list[Arrival] = []
        while True:
            ready = dict(poller.poll(self._patience_ms(batch)))
            if self._stop_fd in ready:
                break
            self._catch_up(poller)
            batch = self._drain_socket() if self._socket in ready else []
            if batch or self._undelivered or not self._writable or self._due_in_ms() == 0:
                self._serve(batch)
            else:
                self._journal.sync()  # under an interval policy there may be something left
            self._compactor.step(_now().mono_ms)
        self._leave(poller)

    def _catch_up(self, poller: zmq.Poller) -> None:
        """Decide all deadlines that have passed: nobody acts on a job that one has ended."""
        while self._pipeline.is_overdue(_now(), writable=self._writable):
            self._serve([])
            if self._stop_fd in dict(poller.poll(0)):
                return

    def close(self) -> None:
        """Close the socket, once the replies on it are delivered or their time is over."""
        self._context.destroy(linger=self._settings.linger_ms)

    def _serve(self, batch: list[Arrival]) -> None:
        """Have a batch decided, if there is room on disk for all that it may change."""
        writable = self._journal.room(*self._pipeline.records_max(batch))
        if writable is not self._writable:
            self._writable = writable
            event = "there is room on the disk again" if writable else "the disk is full"
            log.warning(event, refused=None if writable else "all that changes something")
        undelivered, self._undelivered = self._undelivered, []
        outcome = self._pipeline.run(batch, _now(), undelivered, writable=self._writable)
        if not self._writable:
            self._undelivered += undelivered
        self._release(outcome)

    def _release(self, outcome: Outcome) -> None:
        """Send what a batch came to, once all of it is safe. No reply leaves by another way."""
        self._journal.append(encode_records(outcome.records))
        self._journal.sync()
        for reply in outcome.replies:
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        try:
            self._socket.send_multipart((reply.peer, reply.frame), zmq.DONTWAIT)
        except zmq.Again:
            self._drop(reply, "not_read")
        except zmq.ZMQError as fault:
            if fault.errno != zmq.EHOSTUNREACH:
                raise
            self._drop(reply, "peer_gone")

    def _drop(self, reply: Reply, cause: str) -> None:
        self.dropped[cause] += 1
        self._undelivered += reply.grants

    def _drain_socket(self) -> list[Arrival]:
        """Take what has arrived, within the bounds of a batch."""
        batch: list[Arrival] = []
        size = 0
        receive = self._socket.recv_multipart
        while len(batch) < self._settings.batch_messages and size < self._settings.batch_bytes:
            try:
                peer, *frames = receive(zmq.DONTWAIT)
            except zmq.Again:
                break
            batch.append(Arrival(peer, frames, OWN))
            size += sum(map(len, frames))
        return batch

    def _patience_ms(self, batch: list[Arrival]) -> int:
        if batch or (self._undelivered and self._writable):
            return 0  # there may be more where this came from
        due_in_ms = self._due_in_ms()
        idle_ms = self._idle_ms if self._writable else RETRY_MS
        return idle_ms if due_in_ms is None else min(due_in_ms, idle_ms)

    def _due_in_ms(self) -> int | None:
        return self._pipeline.due_in_ms(_now(), writable=self._writable)

    def _leave(self, poller: zmq.Poller) -> None:
        """Wake the parked, answer what is here already, and refuse what comes for a moment."""
        self._release(self._pipeline.drain())
        poller.unregister(self._stop_fd)
        leave_at_ms = _now().mono_ms + self._settings.drain_ms
        while (left_ms := leave_at_ms - _now().mono_ms) > 0:
            poller.poll(left_ms)
            self._serve(self._drain_socket())


def _now() -> Instant:
    return Instant(datetime.now(UTC), time.monotonic_ns() // 1_000_000)
