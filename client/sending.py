"""Sends the requests of a client until they are answered or their time is over; does no I/O.

A request that changes something is sent in a session, and held back while the window of that
session is closed, or while there is none. What is not answered is sent again, under its number as
long as the broker may have executed it.

`now` is monotonic, in seconds; `wall` is the time of day, in seconds of Unix time, for
`valid_until`.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from math import inf
from typing import Final, cast

from tollgate.client.clock import clock_of
from tollgate.client.framing import PENDING, Payload, payload_of
from tollgate.client.inflight import (
    AbandonedClaims,
    Call,
    PendingRequest,
    RequestSession,
    SessionState,
    Timers,
)
from tollgate.client.revision import unsupported
from tollgate.domain.commands import AnyCommand, Hello, StopWaiting
from tollgate.domain.exceptions import Refusal, TollgateError
from tollgate.domain.results import HelloResult

COMMANDS_MAX: Final = 1_000
REQUEST_BYTES_MAX: Final = 256 * 1_024
"""What a request holds, until `hello` tells."""
RELEASE_S: Final = 10.0
"""How long to try to give back the leases of an abandoned claim, or to end it at the broker."""
GREETING_S: Final = 10.0
"""How long to try to greet the broker again after a new connection."""
GREETINGS_APART_S: Final = 1.0
"""How long after a greeting no other one is needed: a busy socket looks like a lost connection."""
STOPS_MAX: Final = 1_000
"""How many parked commands one `stop_waiting` ends."""

CHANGES_FIRST_SEQ: Final = 2**51
"""The first number of requests that the broker remembers."""
CLAIMS_FIRST_SEQ: Final = 2**52
"""The first number of claims that may wait: they have a session of their own."""


class Sender:
    """The requests in flight of one client, across reconnects.

    `broker` names the other side in error messages; `jitter` returns numbers from 0 to 1, which
    spread the repeats of many clients. `warn` is told what an operator should know. `name` returns
    the name of the client.
    """

    def __init__(
        self,
        broker: str,
        jitter: Callable[[], float],
        warn: Callable[[str], None] = lambda _: None,
        name: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Start without knowing the broker; `greeting` is None until a hello is answered."""
        self.greeting: HelloResult | None = None
        self.strays = 0
        """How many frames came that match no pending request."""
        self._broker = broker
        self._jitter = jitter
        self._name = name
        self._clock = clock_of(broker, warn)
        self._is_old = False  # whether the broker lacks something, as far as it has told
        self._is_first = False  # whether it has revision 1
        self._commands_max = COMMANDS_MAX
        self._bytes_max = REQUEST_BYTES_MAX
        self._seqs = count(1)
        self._requests: dict[int, PendingRequest] = {}
        self._unstamped: list[PendingRequest] = []
        self._send_queue: deque[PendingRequest] = deque()
        self._timers = Timers(self._requests)
        self._abandoned = AbandonedClaims()
        self._changes = RequestSession(CHANGES_FIRST_SEQ)
        self._claims = RequestSession(CLAIMS_FIRST_SEQ)
        self._stops: dict[RequestSession | None, PendingRequest] = {}
        self._greeted_at = 0.0
        self._greeting_again: Call | None = None
        self._expired: list[PendingRequest] = []  # they wait for the broker's time
        self._complaint = ""  # the last thing that came and matched no request

    def submit_one(
        self, command: AnyCommand, *, deadline: float, notify: Callable[[], None] | None = None
    ) -> Call:
        """Start a call of one command, to be answered by `deadline`; there is nothing to pull."""
        payload = payload_of(command, self._bytes_max)
        if self._is_old and (fault := self._unsupported(command)) is not None:
            payload = fault
        if isinstance(payload, TollgateError):
            return Call([payload], deadline)
        call = Call([PENDING], deadline, notify)
        self._add(call, payload)
        return call

    def abandon(self, call: Call) -> None:
        """Forget a call whose caller has left: what is not sent yet is never sent."""
        call.stopped = True
        for request in [*call.requests]:
            self._remove(request)
            self._end_at_broker(request)

    def hello(self, *, open_session: bool = False) -> Hello:
        """Return a hello with the name of the client, which an older broker would refuse.

        A client whose first command is a change opens a session with it: one round trip less.
        """
        return Hello(open_session=open_session, client=None if self._is_first else self._name())

    # --- called for the socket --------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight to which an answer could have come."""
        return not self._requests and not self._abandoned.seqs

    def next_frame(self, now: float, wall: float) -> bytes | None:
        """Let time pass; return the frame to send next, or None. It stays next until `sent`."""
        if self._unstamped:
            self._stamp(now)
        while (due := self._timers.pop_due(now)) is not None:
            self._wake(due, now)
        queue = self._send_queue
        while queue:
            request = queue[0]
            if not request.queued:
                queue.popleft()
            elif now >= request.deadline:
                self._expire(request)
            else:
                return request.frame(now, wall, self._clock.offset_s)
        return None

    def blocked(self, now: float) -> None:
        """Record that the socket did not take the frame: as a rule, there is no connection.

        The next connection may lead to another broker, with another clock, so greet it first.
        """
        queue = self._send_queue
        if self.greeting is None or not queue or now < self._greeted_at + GREETINGS_APART_S:
            return
        if queue[0].wake_at is None:
            self._timers.set(queue[0], queue[0].deadline)
        if self._greet_again(now + GREETING_S):
            queue.rotate(1)

    def sent(self, now: float) -> bool:
        """Record that the socket took the frame which `next_frame` returned last.

        Return whether there may be another one to send.
        """
        request = self._send_queue.popleft()
        request.queued = False
        request.sends += 1
        request.attempts += 1
        # The broker remembers it, or it does no harm twice.
        if request.session_number or request.payload.repeatable:
            self._timers.set(request, now + request.backoff_s(self._jitter()))
        elif request.wake_at is None:
            self._timers.set(request, request.deadline)
        return bool(self._send_queue)

    def next_wakeup(self) -> float | None:
        """Return when to call `next_frame` at the latest, or None if nothing is in flight."""
        if self._send_queue:
            first = self._send_queue[0]
            if first.wake_at is None and first.queued:  # the socket did not take it
                self._timers.set(first, first.deadline)
        return self._timers.next()

    # --- windows ----------------------------------------------------------------------------------

    def _add(self, call: Call, payload: Payload, session: RequestSession | None = None) -> None:
        """Make a request of a payload: one that changes something is sent in its session."""
        if payload.changes:
            # A claim that waits would keep the window of the other requests closed for long.
            session = self._claims if payload.parks else self._changes
            if session.state is SessionState.NEVER:
                session = None
        seq = next(self._seqs) if session is None else session.take_seq()
        request = PendingRequest(seq, call, payload, session, call.deadline)
        self._requests[seq] = request
        call.requests.add(request)
        if call.each_s is not None:
            self._unstamped.append(request)
        self._queue_or_hold(request)
        if not request.queued or self._send_queue[0] is not request:
            self._timers.set(request, request.deadline)

    def _queue_or_hold(self, request: PendingRequest) -> None:
        session = request.session
        if not request.call.held and (session is None or session.admits(request)):
            self._queue(request)
            return
        request.call.held += 1
        session = session or self._changes
        session.hold(request)
        self._queue_waiting(session)

    def _queue(self, request: PendingRequest) -> None:
        if request.session is not None and not request.sends:  # a repeat stays in its session
            request.session_number = request.session.number
        request.queued = True
        self._send_queue.append(request)

    def _queue_waiting(self, session: RequestSession) -> None:
        """Queue the waiting requests that may be sent now; open a session if they need one."""
        waiting = session.waiting
        while waiting:
            request = waiting[0]
            if request.seq in self._requests:
                if not session.admits(request):
                    break
                self._queue(request)
            request.call.held -= 1
            waiting.popleft()
        if not waiting and session.opener is not None:
            opener, session.opener = session.opener, None
            session.state = SessionState.CLOSED
            self.abandon(opener)
        elif waiting and session.state is SessionState.CLOSED:
            session.state = SessionState.OPENING
            notify = partial(self._handle_opening_failure, session)
            opening = self.hello(open_session=True)
            session.opener = self.submit_one(opening, deadline=inf, notify=notify)

    def _handle_opening_failure(self, session: RequestSession) -> None:
        """If no session was opened, give the requests that wait for it the reason."""
        opener = session.opener
        if opener is None or not isinstance(opener.slot_values[0], TollgateError):
            return
        session.opener, session.state = None, SessionState.CLOSED
        waiting = [*session.waiting]
        session.waiting.clear()
        for request in waiting:
            request.call.held -= 1
            if request.seq in self._requests:
                self._finish(request, opener.slot_values[0])

    # --- sending again, and giving up -------------------------------------------------------------

    def _stamp(self, now: float) -> None:
        """Set the deadlines of requests made since the last turn whose call has `each_s`."""
        for request in self._unstamped:
            request.deadline = now + (request.call.each_s or 0.0) + request.payload.waits_s
            if request.wake_at is not None:  # else it is the next to be sent, or was removed
                self._timers.set(request, request.deadline)
        self._unstamped.clear()

    def _wake(self, request: PendingRequest, now: float) -> None:
        if now >= request.deadline:
            self._expire(request)
            return
        if request.sends:
            self._repeat(request)
        else:
            self._queue_or_hold(request)
        self._timers.set(request, request.deadline)

    def _repeat(self, request: PendingRequest) -> None:
        """Send a request again, after the earlier ones of its call.

        If the broker has lost them all, it must not get the later one first.
        """
        for each in sorted(request.call.requests, key=lambda each: each.first_slot):
            if each.sends and not each.queued and each.first_slot <= request.first_slot:
                self._queue(each)

    def _retry_refused(self, request: PendingRequest, now: float, refusal: Refusal) -> None:
        """Send a request later that was refused, under its number while a copy is under way.

        The broker may still execute that copy. Then it answers the next one in the same way, which
        is sent when it would have been sent without the refusal.
        """
        if not request.session_number or not request.under_way:
            self._retry(request, now, refusal)
            return
        request.refusal = refusal
        request.make_anew()  # it acknowledges what was answered since

    def _retry(self, request: PendingRequest, now: float, refusal: Refusal | None = None) -> None:
        """Send a request later under a new number: the broker executed nothing of it."""
        request.refusal = refusal
        del self._requests[request.seq]
        old_seq, session = request.seq, request.session
        request.renumber(next(self._seqs) if session is None else session.take_seq())
        self._requests[request.seq] = request
        if session is not None:
            session.finish(old_seq)
            self._queue_waiting(session)
        self._timers.set(request, now + request.backoff_s(self._jitter()))

    def _expire(self, request: PendingRequest) -> None:
        request.call.stopped = True
        self._finish(request, request.timeout_error(self._broker, self._complaint))
        self._end_at_broker(request)

    def _finish(self, request: PendingRequest, reason: TollgateError) -> None:
        self._remove(request)
        request.call.put(request.payload, [reason] * len(request.payload.slots))

    def _remove(self, request: PendingRequest) -> None:
        del self._requests[request.seq]
        request.call.requests.discard(request)
        request.queued = False
        request.wake_at = None
        if request.session is not None:
            request.session.finish(request.seq)
            self._queue_waiting(request.session)

    def _end_at_broker(self, request: PendingRequest) -> None:
        """After the caller has left, take care that the broker holds nothing for it.

        Leases that may still come are given back; a parked command is ended.
        """
        self._abandoned.add(request)
        session, seq = request.session, request.seq
        if not request.sends or not request.payload.parks or not self._knows_stop_waiting:
            return
        if session is not None and session.number != request.session_number:
            return  # evicted, and so is what was parked in it
        stop = self._stops.get(session)
        if stop is not None and stop.seq in self._requests and not stop.sends:
            seqs = cast("StopWaiting", stop.payload.commands[0]).seqs
            if len(seqs) < STOPS_MAX:
                seqs.append(seq)
                return
        payload = Payload()
        payload.add(0, StopWaiting(seqs=[seq]), b"")  # which is encoded when it is sent
        call = Call([PENDING], inf, each_s=RELEASE_S)
        self._add(call, payload, session)
        self._stops[session] = next(iter(call.requests))

    @property
    def _knows_stop_waiting(self) -> bool:
        return self.greeting is not None and not self._is_first

    def _unsupported(self, command: object) -> TollgateError | None:
        return None if self.greeting is None else unsupported(command, self.greeting)

    def _greet_again(self, deadline: float) -> bool:
        """Ask for the broker's limits and time; return whether that was not under way already."""
        again = self._greeting_again
        if is_new := again is None or again.done:
            again = self._greeting_again = self.submit_one(self.hello(), deadline=deadline)
        for request in again.requests:
            request.deadline = max(request.deadline, deadline)
        return is_new
