"""What is in flight: a call, its requests and their timers, and the session they are sent in."""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import datetime
from enum import Enum, auto
from typing import Any, Final

import msgspec

from tollgate.client.errors import NOT_SENT, BrokerUnreachableError, OutcomeUnknown
from tollgate.client.framing import PENDING, Framer, Payload
from tollgate.domain.commands import Claim, Events, Hello, Release, StopWaiting, Wait, date_of
from tollgate.domain.exceptions import Refusal, SessionEvictedError, TollgateError
from tollgate.domain.messages import WINDOW, Refused, Reply, encode_command, encode_frame
from tollgate.domain.results import LeasesResult

VALID_S_MAX: Final = 366 * 86_400.0
"""A request is valid for at most a year, even if its caller would wait longer."""
BACKOFFS_S: Final = (0.5, 1.0, 2.0, 4.0, 5.0)
"""How long to wait for an answer before the next attempt; the last one holds for all later ones."""
JITTER: Final = 0.5
"""Repeats are spread over this part of the backoff, half of it to either side."""
ABANDONED_MAX: Final = 1_000
"""How many abandoned claims to remember; beyond that, the oldest one's leases lapse."""
TIMERS_SLACK: Final = 64
"""How many outdated entries the heap of timers may hold before they are removed."""
MAYBE: Final = "; the command may have been executed or not"
_FRAMED_AT_SENDING: Final = frozenset({Wait, Events, Hello, StopWaiting})
"""Commands that are alone in their request, and whose frame depends on when it is sent."""


class Call(msgspec.Struct, eq=False):
    """The commands of one call, sent in one request or several, and their values in order."""

    slot_values: list[Any]
    """The value of each command that was taken so far, or PENDING."""
    deadline: float
    notify: Callable[[], None] | None = None
    """Is called whenever values have come."""
    each_s: float | None = None
    """If set, each request has a deadline of its own, this long after it was made."""
    framer: Framer | None = None
    """Makes payloads of the commands that are still to come; None when all are taken."""
    requests: "set[PendingRequest]" = set()
    held: int = 0
    """How many requests of the call are held back: later ones must not overtake them."""
    stopped: bool = False
    """Whether to make no further requests: the broker did not answer, or the caller left."""

    @property
    def done(self) -> bool:
        """Whether every command that was sent has its value, and no further one is sent."""
        return not self.requests and (self.framer is None or self.stopped)

    @property
    def values(self) -> list[Any]:
        """The values of the commands in order; refusals and other errors are values, too."""
        if self.stopped and self.framer is not None:  # some commands were never sent
            silent = BrokerUnreachableError(NOT_SENT)
            return [silent if value is PENDING else value for value in self.slot_values]
        return self.slot_values

    @property
    def answered(self) -> int:
        """How many commands have their value."""
        asked = sum(len(request.payload.slots) for request in self.requests)
        held = 0 if self.framer is None else self.framer.held
        return len(self.slot_values) - held - asked

    def put(self, payload: Payload, values: list[Any]) -> None:
        """Store the values of a payload's commands, and notify the caller."""
        first, behind = payload.slots[0], payload.slots[-1] + 1
        if behind - first == len(values):  # the slots are consecutive
            self.slot_values[first:behind] = values
        else:
            for slot, value in zip(payload.slots, values, strict=True):
                self.slot_values[slot] = value
        if self.notify is not None:
            self.notify()


class PendingRequest(msgspec.Struct, eq=False):
    """A request that is sent or waits to be sent, until it is answered or given up."""

    seq: int
    call: Call
    payload: Payload
    session: "RequestSession | None"
    """The session to send it in; None if the broker need not remember it."""
    deadline: float
    session_number: int = 0
    """The number of the session it was queued for; 0 is no session."""
    queued: bool = False
    """Whether it is in the send queue."""
    sends: int = 0
    """How often it was sent under its present `seq`. If at all, it may be executed."""
    refusals: int = 0
    """How many of these copies the broker has refused, without executing anything."""
    attempts: int = 0
    """How often it was sent, under any `seq`."""
    refusal: Refusal | None = None
    """The broker's last retryable refusal."""
    wake_at: float | None = None
    """The time of its one valid entry in the timers."""
    retimed: bool = False
    """Whether the broker has refused it as `expired` before its deadline."""
    asked_at: tuple[float, float] | None = None
    """When a hello that is alone was first sent: the monotonic time, and this machine's time."""
    _frame: bytes | None = None
    _wait_until: float | None = None

    @property
    def first_slot(self) -> int:
        """The index in the call of its first command."""
        return self.payload.slots[0]

    @property
    def under_way(self) -> int:
        """How many copies of it the broker may execute, or has executed, under its `seq`."""
        return self.sends - self.refusals

    @property
    def uncertain(self) -> bool:
        """Whether it may have changed something that its caller would not know of.

        A `create` counts, too: it does no harm when it is sent again, but a caller who calls again
        gets another job, because each call makes its own id.
        """
        return self.sends > 0 and self.payload.changes

    def frame(self, now: float, wall: float, offset_s: float) -> bytes:
        """Return the frame to send, in most cases the same each time.

        `wall` is the time of day of this machine; the broker's is `offset_s` ahead of it.
        """
        if self._frame is not None:
            return self._frame
        valid_until = date_of(wall + offset_s + min(self.deadline - now, VALID_S_MAX))
        acked = self.session.acked if self.session_number and self.session else 0
        commands = self.payload.commands
        if type(commands[0]) in _FRAMED_AT_SENDING and len(commands) == 1:
            return self._frame_now(acked, now, wall, valid_until)
        self._frame = encode_frame(
            self.session_number, self.seq, acked, len(commands), self.payload.pieces, valid_until
        )
        return self._frame

    def _frame_now(
        self, acked: int, now: float, wall: float, valid_until: datetime | None
    ) -> bytes:
        command = self.payload.commands[0]
        if isinstance(command, Wait):  # it asks for the time that is left
            if self._wait_until is None:  # a restarted broker does not know the time waited before
                self._wait_until = now + command.timeout_ms / 1_000
            left_ms = max(0, round((self._wait_until - now) * 1_000))
            command = msgspec.structs.replace(command, timeout_ms=left_ms)
        elif isinstance(command, Events):  # and so does a reader
            if self._wait_until is None:
                self._wait_until = now + command.wait_ms / 1_000
            left_ms = max(0, round((self._wait_until - now) * 1_000))
            command = msgspec.structs.replace(command, wait_ms=left_ms)
        elif isinstance(command, Hello):  # it asks for the broker's time, so it is valid at any
            valid_until = None
            if not self.sends:
                self.asked_at = (now, wall)
        return encode_frame(
            self.session_number, self.seq, acked, 1, [encode_command(command)], valid_until
        )

    def renumber(self, seq: int) -> None:
        """Make it a new request: nothing was executed under the old number."""
        self.seq = seq
        self.session_number = self.sends = self.refusals = 0
        self.queued = False
        self._frame = None

    def make_anew(self) -> None:
        """Let the next frame be made anew: the same request, by the broker's clock as known now."""
        self._frame = None

    def shrink(self, positions: list[int]) -> None:
        """Keep only the commands at these positions; it was not sent under its present `seq`."""
        self.payload = self.payload.only(positions)
        self._frame = None

    def backoff_s(self, jitter: float) -> float:
        """Return how long to wait before the next attempt; `jitter` is from 0 to 1."""
        backoff_s = BACKOFFS_S[min(self.attempts, len(BACKOFFS_S)) - 1]
        return backoff_s * (1 + JITTER * (jitter - 0.5))

    def timeout_error(self, broker: str, complaint: str) -> TollgateError:
        """Return the error for a request without an answer at its deadline.

        `broker` names the other side; `complaint` is what came and matched no request, or empty.
        """
        if not self.sends:
            if isinstance(
                self.refusal, SessionEvictedError
            ):  # true of one session, not of the call
                return BrokerUnreachableError(
                    f"the broker at {broker} has forgotten the session, and opened no other in time"
                )
            return self.refusal or BrokerUnreachableError(f"no broker at {broker}")
        late = f"the broker at {broker} did not answer in time"
        if self.refusal is not None:
            late += f" (it has refused a copy: {self.refusal})"
        if complaint:
            late += f" (what did come was: {complaint})"
        return OutcomeUnknown(late + MAYBE) if self.uncertain else BrokerUnreachableError(late)


class Timers:
    """The next wake-up time of each pending request, its `wake_at`.

    The heap holds numbers only, so a finished request and its commands are freed at once.
    """

    def __init__(self, requests: dict[int, PendingRequest]) -> None:
        """Start empty; `requests` are those in flight, by their numbers."""
        self._requests = requests
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        """Return the number of entries, outdated ones included."""
        return len(self._heap)

    def set(self, request: PendingRequest, at: float) -> None:
        """Wake `request` at `at` or its deadline; this replaces an earlier wake-up time."""
        at = min(at, request.deadline)
        request.wake_at = at
        if len(self._requests) == 1:  # the usual case: all other entries are outdated
            self._heap = [(at, request.seq)]
            return
        heapq.heappush(self._heap, (at, request.seq))
        if len(self._heap) > 2 * len(self._requests) + TIMERS_SLACK:
            pending = self._requests.values()
            self._heap = [(each.wake_at, each.seq) for each in pending if each.wake_at is not None]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """Return the earliest time, or None."""
        heap = self._heap
        while heap:
            at, seq = heap[0]
            request = self._requests.get(seq)
            if request is not None and request.wake_at == at:
                return at
            heapq.heappop(heap)  # it is outdated
        return None

    def pop_due(self, now: float) -> PendingRequest | None:
        """Remove and return a request whose time has come; None if there is none."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, seq = heapq.heappop(heap)
            request = self._requests.get(seq)
            if request is not None and request.wake_at == at:
                request.wake_at = None
                return request
        return None


class SessionState(Enum):
    """Whether there is a session to send requests in."""

    CLOSED = auto()
    OPENING = auto()
    OPEN = auto()
    NEVER = auto()
    """The broker remembers no requests."""


class RequestSession:
    """The session in which the broker remembers requests, and the requests in flight in it.

    After an eviction another session takes its place. An answer names its request by `seq` alone,
    so each `RequestSession` of a connection has a range of numbers of its own, from `first_seq`.
    """

    def __init__(self, first_seq: int) -> None:
        """Start without a session."""
        self.state = SessionState.CLOSED
        self.number = 0
        self.opener: Call | None = None
        """The call that opens a session, while it is in flight."""
        self.waiting: deque[PendingRequest] = deque()
        """Requests that may not be sent yet, in order; some of them may be given up already."""
        self._next_seq = first_seq
        self._in_flight: OrderedDict[int, None] = OrderedDict()

    @property
    def acked(self) -> int:
        """The number up to which every request is finished."""
        return next(iter(self._in_flight), self._next_seq) - 1

    def take_seq(self) -> int:
        """Return the number for another request, which is in flight from now on."""
        seq = self._next_seq
        self._next_seq += 1
        self._in_flight[seq] = None
        return seq

    def finish(self, seq: int) -> None:
        """Record that a request is finished, successfully or not."""
        self._in_flight.pop(seq, None)

    def hold(self, request: PendingRequest) -> None:
        """Keep a request until it may be sent, in the order of numbers.

        A lower number behind a higher one would never be sent, since it keeps the window closed.
        """
        position = len(self.waiting)
        if request.session is not None:
            while position:
                before = self.waiting[position - 1]
                if before.session is None or before.seq < request.seq:
                    break
                position -= 1
        self.waiting.insert(position, request)

    def admits(self, request: PendingRequest) -> bool:
        """Return whether a request may be sent now.

        The window holds no `stop_waiting` back: the claims that it ends may keep the window closed.
        """
        if self.state is SessionState.NEVER or request.session is None:
            return True
        return self.state is SessionState.OPEN and (
            request.seq <= self.acked + WINDOW or StopWaiting in request.payload.kinds
        )

    def opened(self, number: int | None) -> None:
        """Record the answer to `hello`: a number, or None if the broker remembers nothing."""
        self.number = number or 0
        self.state = SessionState.NEVER if number is None else SessionState.OPEN
        self.opener = None

    def evicted(self, number: int) -> None:
        """Record that the broker has forgotten a session; it may be an earlier one than ours."""
        if self.number == number and self.state is SessionState.OPEN:
            self.number = 0
            self.state = SessionState.CLOSED


class AbandonedClaims:
    """Claims in flight whose callers have left; what they are granted is given back."""

    def __init__(self) -> None:
        self.seqs: OrderedDict[int, int] = OrderedDict()
        """How many copies of each request may still be answered."""

    def add(self, request: PendingRequest, answered: int = 0) -> None:
        """Remember an abandoned request if an answer may hold leases; so many copies had one."""
        under_way = request.under_way - answered
        if under_way > 0 and Claim in request.payload.kinds:
            self.seqs[request.seq] = under_way
            if len(self.seqs) > ABANDONED_MAX:
                self.seqs.popitem(last=False)

    def releases(self, answer: Reply | Refused) -> list[Release]:
        """Return the commands that give back the leases in an answer to an abandoned claim."""
        if answer.seq is None or answer.seq not in self.seqs:
            return []
        self.seqs[answer.seq] -= 1
        if not self.seqs[answer.seq]:
            del self.seqs[answer.seq]
        return [
            Release(job_id=grant.job.job_id, lease=grant.lease)
            for result in (answer.results if isinstance(answer, Reply) else [])
            if isinstance(result, LeasesResult)
            for grant in result.leases
        ]
