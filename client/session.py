"""Numbers requests, matches answers, and decides what is sent again and when; does no I/O.

A driver passes in the frames that it received and the time, and gets the frames to send:

    call = session.submit(commands, deadline=now + 10)
    while not call.done:
        session.pull(call)                            # may run the caller's iterator
        while frame := session.next_frame(now, wall): # give it to the socket, then say so:
            session.sent(now)                         # False: nothing more to send now
                                                      # if the socket is full: session.blocked(now)
        ...                                           # until session.next_wakeup() at the latest:
        session.receive(frame, now)
    call.values

`now` is monotonic, in seconds; `wall` is the time of day, in seconds of Unix time, for
`valid_until`. A driver passes in all frames that have arrived before it asks for frames to send,
since only that call lets time pass; unless the session is `idle`.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from math import inf
from typing import Any, Final, cast

from tollgate.client.clock import clock_of
from tollgate.client.errors import (
    ClientClosedError,
    ClosedOutcomeUnknown,
    OutcomeUnknown,
    ProtocolError,
)
from tollgate.client.framing import PENDING, Framer, Payload, payload_of
from tollgate.client.inflight import (
    MAYBE,
    AbandonedClaims,
    Call,
    PendingRequest,
    RequestSession,
    SessionState,
)
from tollgate.client.results import jobs_of, values_of
from tollgate.client.revision import REVISION, unsupported
from tollgate.client.timers import Timers
from tollgate.domain.commands import AnyCommand, Hello, StopWaiting, Wait
from tollgate.domain.exceptions import (
    DrainingError,
    ExpiredError,
    MalformedError,
    Refusal,
    ReplyFullError,
    SessionEvictedError,
    TollgateError,
)
from tollgate.domain.messages import PROTOCOL_VERSION, Refused, Reply, decode_plain, read_envelope
from tollgate.domain.results import AnyResult, HelloResult, refusal_of

CALL_REQUESTS_MAX: Final = 4
"""How many requests of one call are in flight at most."""
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

OPENING: Final = Hello(open_session=True)
"""Opens a session, for a client without a name."""

_UNDONE: Final = frozenset({ReplyFullError, DrainingError, SessionEvictedError})


class Session:
    """The requests of one client, across reconnects.

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
        self._is_old = False  # whether the broker has revision 1, as far as it has told
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

    # --- called for the user ----------------------------------------------------------------------

    def submit(
        self,
        commands: Iterable[AnyCommand | TollgateError],
        *,
        deadline: float,
        each_s: float | None = None,
        message_commands: int | None = None,
        notify: Callable[[], None] | None = None,
    ) -> Call:
        """Start a call; `pull` takes its commands from the iterable.

        Each request of it must be answered by `deadline`, or `each_s` seconds after it was made. A
        request has at most `message_commands` commands, or as many as the broker takes. `notify` is
        called whenever values have come. An exception among the commands becomes its own value.
        """
        commands_max = min(message_commands or self._commands_max, self._commands_max)
        framer = Framer(commands, commands_max, self._bytes_max)
        if self._is_old:
            framer.check(self._supported)
        return Call(framer.values, deadline, notify, each_s, framer)

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

    def pull(self, call: Call) -> None:
        """Make requests of the call's next commands, as many as may be in flight."""
        while self.pull_one(call):
            pass

    def pull_one(self, call: Call) -> bool:
        """Make a request of the call's next commands, if another one may be in flight.

        Return whether one was made: then it can be sent, and there may be more.
        """
        framer = call.framer
        if framer is None or call.stopped or len(call.requests) >= CALL_REQUESTS_MAX:
            return False
        payload = framer.next()
        if framer.exhausted:
            call.framer = None
        if payload is None:
            return False
        self._add(call, payload)
        return True

    def abandon(self, call: Call) -> None:
        """Forget a call whose caller has left: what is not sent yet is never sent."""
        call.stopped = True
        for request in [*call.requests]:
            self._remove(request)
            self._end_at_broker(request)

    def withdraw(self, call: Call, slots: set[int]) -> None:
        """Forget some commands of a call; a request that was sent stays whole."""
        for request in [*call.requests]:
            of_request = request.payload.slots
            kept = [position for position, slot in enumerate(of_request) if slot not in slots]
            if not kept:
                self._remove(request)
                self._end_at_broker(request)
            elif len(kept) < len(of_request) and not request.sends:
                request.shrink(kept)
        if call.framer is not None:
            call.framer.forget(slots)

    def fail(self, reason: ClientClosedError) -> None:
        """End every call with `reason`, or that and OutcomeUnknown if a change may be made.

        What is left to send then tells the broker to end the calls that are parked there.
        """
        while waiting := [
            each for each in self._requests.values() if StopWaiting not in each.payload.kinds
        ]:
            for request in waiting:
                if request.seq not in self._requests:  # it was a hello that another one needed
                    continue
                request.call.stopped = True
                unknown = ClosedOutcomeUnknown(f"{reason}{MAYBE}")
                self._finish(request, unknown if request.uncertain else reason)
                self._end_at_broker(request)

    def hello(self, *, open_session: bool = False) -> Hello:
        """Return a hello with the name of the client, which an older broker would refuse.

        A client whose first command is a change opens a session with it: one round trip less.
        """
        return Hello(open_session=open_session, client=None if self._is_old else self._name())

    def broker_time(self, wall: float) -> float:
        """Return the broker's time of day, as far as known, at the time `wall` of this machine."""
        return self._clock.time(wall)

    @property
    def ready_for_changes(self) -> bool:
        """Whether a change can be sent without opening a session first."""
        state = self._changes.state
        return state is SessionState.OPEN or state is SessionState.NEVER

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
        if request.repeatable:
            self._timers.set(request, now + request.backoff_s(self._jitter()))
        elif request.wake_at is None:
            self._timers.set(request, request.deadline)
        return bool(self._send_queue)

    def receive(self, frame: bytes, now: float) -> None:
        """Take a frame that came. Nothing is raised, whatever it holds."""
        try:
            answer = decode_plain(frame)
        except MalformedError as fault:
            self._handle_unreadable(read_envelope(frame)[1], fault)
            return
        request = self._requests.get(answer.seq or 0)
        if request is None or not request.sends:
            self._handle_stray(answer, now)
            return
        self._complaint = ""
        if isinstance(answer, Refused):
            self._handle_refusal(request, refusal_of(answer.error), now)
        elif answer.v != PROTOCOL_VERSION:
            self._finish(request, ProtocolError(f"an answer of version {answer.v} came"))
        else:
            self._handle_results(request, answer.results, now)

    def next_wakeup(self) -> float | None:
        """Return when to call `next_frame` at the latest, or None if nothing is in flight."""
        if self._send_queue:
            first = self._send_queue[0]
            if first.wake_at is None and first.queued:  # the socket did not take it
                self._timers.set(first, first.deadline)
        return self._timers.next()

    # --- sending ----------------------------------------------------------------------------------

    def _add(self, call: Call, payload: Payload, session: RequestSession | None = None) -> None:
        """Make a request of a payload: one that changes something is sent in its session."""
        if payload.changes:
            # A claim that waits would keep the window of the other requests closed for long.
            session = self._claims if payload.parks else self._changes
            if session.state is SessionState.NEVER:
                session = None
        seq = self._take_seq(session)
        request = PendingRequest(seq, call, payload, session, call.deadline)
        self._requests[seq] = request
        call.requests.add(request)
        if call.each_s is not None:
            self._unstamped.append(request)
        self._queue_or_hold(request)
        if not request.queued or self._send_queue[0] is not request:
            self._timers.set(request, request.deadline)

    def _take_seq(self, session: RequestSession | None) -> int:
        return next(self._seqs) if session is None else session.take_seq()

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

    def _stamp(self, now: float) -> None:
        """Set the deadlines of requests made since the last turn whose call has `each_s`."""
        for request in self._unstamped:
            request.deadline = now + (request.call.each_s or 0.0)
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

    def _retry(self, request: PendingRequest, now: float, refusal: Refusal | None = None) -> None:
        """Send a request later under a new number: the broker executed nothing of it."""
        request.refusal = refusal
        del self._requests[request.seq]
        old_seq, session = request.seq, request.session
        request.renumber(self._take_seq(session))
        self._requests[request.seq] = request
        if session is not None:
            session.finish(old_seq)
            self._queue_waiting(session)
        self._timers.set(request, now + request.backoff_s(self._jitter()))

    def _expire(self, request: PendingRequest) -> None:
        request.call.stopped = True
        self._finish(request, request.timeout_error(self._broker, self._complaint))
        self._end_at_broker(request)

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
        return self.greeting is not None and not self._is_old

    def _unsupported(self, command: object) -> TollgateError | None:
        return None if self.greeting is None else unsupported(command, self.greeting)

    def _supported(self, command: Any) -> Any:  # noqa: ANN401 - a command, or an error
        """Return a command, or the reason why the broker does not know it."""
        return self._unsupported(command) or command

    def _greet_again(self, deadline: float) -> bool:
        """Ask for the broker's limits and time; return whether that was not under way already."""
        again = self._greeting_again
        if is_new := again is None or again.done:
            again = self._greeting_again = self.submit_one(self.hello(), deadline=deadline)
        for request in again.requests:
            request.deadline = max(request.deadline, deadline)
        return is_new

    # --- answers ----------------------------------------------------------------------------------

    def _handle_results(
        self, request: PendingRequest, results: list[AnyResult], now: float
    ) -> None:
        payload = request.payload
        if len(results) != len(payload.commands):
            counts = f"{len(payload.commands)} commands were answered with {len(results)} results"
            self._finish(request, ProtocolError(counts))
            return
        jobs = jobs_of(payload.kinds, results)
        if jobs is not None:
            self._remove(request)
            request.call.put(payload, jobs)
            return
        values = values_of(payload.commands, results)
        if not _UNDONE.isdisjoint(map(type, values)):
            self._handle_partial_results(request, values, now)
            return
        if isinstance(values[0], HelloResult):
            self._handle_greeting(request, values[0], now)
        self._remove(request)
        if request.sends > 1 and [] in values:
            self._abandoned.add(request)  # a copy that arrives late may still be granted jobs
        request.call.put(payload, values)

    def _handle_partial_results(
        self, request: PendingRequest, values: list[Any], now: float
    ) -> None:
        """Ask again for results that did not fit, or for a wait that a draining broker ended."""
        payload = request.payload
        if isinstance(values[0], DrainingError) and isinstance(payload.commands[0], Wait):
            self._retry(request, now, values[0])
            return
        if isinstance(values[0], SessionEvictedError) and payload.parks:
            self._handle_eviction(request, values[0], now, executed=False)
            return
        again = [
            position  # never the first: a reply that has no room for it alone never will
            for position, value in enumerate(values)
            if position and isinstance(value, ReplyFullError)
        ]
        kept = sorted({*range(len(values))}.difference(again))
        self._remove(request)
        if again:
            self._add(request.call, payload.only(again))
        request.call.put(payload.only(kept), [values[position] for position in kept])

    def _handle_refusal(self, request: PendingRequest, refusal: Refusal, now: float) -> None:
        if isinstance(refusal, SessionEvictedError):
            self._handle_eviction(request, refusal, now, executed=request.sends > 1)
        elif refusal.retryable:
            self._retry(request, now, refusal)
        elif isinstance(refusal, MalformedError):
            if not self._greet_without_name(request, now):
                self._finish(request, refusal)
        elif isinstance(refusal, ExpiredError):
            self._handle_expiry(request, refusal, now)
        else:
            self._finish(request, refusal)

    def _handle_expiry(self, request: PendingRequest, refusal: Refusal, now: float) -> None:
        """Once, send a request again that was refused as too late before its deadline.

        One of the clocks was set, or the broker's was not known, so ask for its time first. The
        same request is sent, so a copy of it that was executed is not executed again.
        """
        if now < request.deadline and request in self._expired:
            return
        if now >= request.deadline or request.retimed or self.greeting is None:
            is_unknown = request.sends > 1 and request.uncertain  # a copy may have come in time
            self._finish(request, OutcomeUnknown(f"{refusal}{MAYBE}") if is_unknown else refusal)
            return
        request.retimed = True
        if self.greeting.time is None:
            self._clock.outrun()
            self._send_anew(request)
        else:
            self._timers.set(request, request.deadline)
            self._expired.append(request)
            self._greet_again(request.deadline)

    def _send_anew(self, request: PendingRequest) -> None:
        request.make_anew()
        if not request.queued:
            self._queue(request)

    def _greet_without_name(self, request: PendingRequest, now: float) -> bool:
        """Send a hello again without a name: a broker of revision 1 knows no names.

        Return False if the request is not a hello with a name.
        """
        command = request.payload.commands[0]
        if not isinstance(command, Hello) or command.client is None:
            return False
        self._is_old = True
        request.payload = request.payload.replaced(self.hello(open_session=command.open_session))
        self._retry(request, now)
        self._timers.set(request, now)
        return True

    def _handle_greeting(self, request: PendingRequest, greeting: HelloResult, now: float) -> None:
        self.greeting, self._greeted_at = greeting, now
        self._is_old = greeting.revision < REVISION
        self._commands_max = greeting.limits.get("commands", COMMANDS_MAX)
        self._bytes_max = greeting.limits.get("request_bytes", REQUEST_BYTES_MAX)
        if greeting.time is not None and request.asked_at is not None:
            self._clock.measure(greeting.time, request.asked_at, now)
        expired, self._expired = self._expired, []
        for each in expired:
            if self._requests.get(each.seq) is each:
                self._send_anew(each)
        changes, claims = self._changes, self._claims
        if request.call is claims.opener:
            session = claims
        elif request.call is changes.opener or (
            changes.state is SessionState.CLOSED and request.payload.opens_session
        ):
            session = changes
        else:
            if not greeting.remembers and changes.state is SessionState.CLOSED:
                changes.opened(None)
                claims.opened(None)
            return
        session.opened(greeting.session)
        self._queue_waiting(session)

    def _handle_eviction(
        self, request: PendingRequest, refusal: Refusal, now: float, *, executed: bool
    ) -> None:
        """Send a request in another session, unless an earlier copy may have been `executed`.

        A claim is sent again all the same: what an earlier copy was granted lapses by itself.
        """
        if request.session is None or StopWaiting in request.payload.kinds:  # no retry can help
            self._finish(request, refusal)
            return
        request.session.evicted(request.session_number)
        if executed and request.uncertain and not request.payload.only_leases:
            self._finish(request, OutcomeUnknown(f"{refusal}{MAYBE}"))
            return
        if executed:
            self._abandoned.add(request)
        is_first = request.attempts == 1
        self._retry(request, now, refusal)
        if is_first:  # it needs another session, and nothing that takes time
            self._timers.set(request, now)

    def _handle_unreadable(self, seq: int | None, fault: MalformedError) -> None:
        request = self._requests.get(seq or 0)
        if request is None or not request.sends:
            self.strays += 1
            self._complaint = str(fault)
        else:
            self._finish(request, ProtocolError(f"what the broker answered is {fault}"))

    def _handle_stray(self, answer: Reply | Refused, now: float) -> None:
        self.strays += 1
        if isinstance(answer, Refused) and answer.seq is None:
            self._complaint = answer.error.message
        releases = self._abandoned.releases(answer)
        if releases:
            self.pull(self.submit(releases, deadline=now + RELEASE_S))

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
