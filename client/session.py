"""Makes requests of calls, and gives the calls what the answers hold; does no I/O.

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

from collections.abc import Callable, Iterable
from typing import Any, Final

from tollgate.client.errors import (
    ClientClosedError,
    ClosedOutcomeUnknown,
    OutcomeUnknown,
    ProtocolError,
)
from tollgate.client.framing import Framer
from tollgate.client.inflight import MAYBE, Call, PendingRequest, SessionState
from tollgate.client.results import jobs_of, values_of
from tollgate.client.revision import FIELDS_SINCE, REVISION
from tollgate.client.sending import COMMANDS_MAX, RELEASE_S, REQUEST_BYTES_MAX, Sender
from tollgate.domain.commands import AnyCommand, Events, Hello, StopWaiting, Wait
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

OPENING: Final = Hello(open_session=True)
"""Opens a session, for a client without a name."""

_UNDONE: Final = frozenset({ReplyFullError, DrainingError, SessionEvictedError})


class Session(Sender):
    """The calls of one client, and what the answers to its requests mean for them."""

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

    def broker_time(self, wall: float) -> float:
        """Return the broker's time of day, as far as known, at the time `wall` of this machine."""
        return self._clock.time(wall)

    @property
    def ready_for_changes(self) -> bool:
        """Whether a change can be sent without opening a session first."""
        state = self._changes.state
        return state is SessionState.OPEN or state is SessionState.NEVER

    # --- answers ----------------------------------------------------------------------------------

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
            request.refusals += 1
            self._handle_refusal(request, refusal_of(answer.error), now)
        elif answer.v != PROTOCOL_VERSION:
            self._finish(request, ProtocolError(f"an answer of version {answer.v} came"))
        else:
            self._handle_results(request, answer.results, now)

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
        if request.sends > 1 and [] in values:  # a late copy may still be granted jobs
            self._abandoned.add(request, answered=1)
        request.call.put(payload, values)

    def _handle_partial_results(
        self, request: PendingRequest, values: list[Any], now: float
    ) -> None:
        """Ask again for results that did not fit, or for what a draining broker no longer holds."""
        payload = request.payload
        if isinstance(values[0], DrainingError) and isinstance(payload.commands[0], Wait | Events):
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
            self._handle_eviction(request, refusal, now, executed=request.under_way > 0)
        elif refusal.retryable:
            self._retry_refused(request, now, refusal)
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
            is_unknown = request.under_way > 0 and request.uncertain  # a copy may have come in time
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
        self._is_old = self._is_first = True
        request.payload = request.payload.replaced(self.hello(open_session=command.open_session))
        self._retry(request, now)
        self._timers.set(request, now)
        return True

    def _handle_greeting(self, request: PendingRequest, greeting: HelloResult, now: float) -> None:
        self.greeting, self._greeted_at = greeting, now
        self._is_old = greeting.revision < REVISION
        self._is_first = greeting.revision < FIELDS_SINCE
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
        if executed and not (request.payload.repeatable or request.payload.only_leases):
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

    def _supported(self, command: Any) -> Any:  # noqa: ANN401 - a command, or an error
        """Return a command, or the reason why the broker does not know it."""
        return self._unsupported(command) or command
