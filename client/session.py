"""Numbers requests, matches replies, and decides what is asked again and when; does no I/O.

A driver hands in what it received and when it is, and gets the frames to send:

    exchange = session.submit(commands, deadline=now + 10)
    while not exchange.done:
        session.pull(exchange)                        # may run the caller's iterator
        while frame := session.next_frame(now, wall): # give it to the socket, then say so:
            session.sent(now)                         # False: there is no more to be sent now
        ...                                           # until session.next_wakeup() at the latest:
        session.receive(frame, now)
    exchange.values

`now` is monotonic, in seconds; `wall` is the time of day, in seconds of Unix time, for
`valid_until`. A driver hands in all that has arrived before it asks for frames, since only that
call lets time pass; unless `awaits_nothing`.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from math import inf
from operator import attrgetter
from typing import Any, Final

from tollgate.client.errors import OutcomeUnknown, ProtocolError
from tollgate.client.exchange import Exchange
from tollgate.client.forsaken import ForsakenClaims
from tollgate.client.framing import PENDING, Packer, pack_one
from tollgate.client.inflight import MAYBE, Message
from tollgate.client.memory import Memory, State
from tollgate.client.parcel import Parcel
from tollgate.client.results import jobs_of, values_of
from tollgate.client.timers import Timetable
from tollgate.domain.commands import AnyCommand, Hello, Wait
from tollgate.domain.exceptions import (
    DrainingError,
    ExpiredError,
    MalformedError,
    Refusal,
    ReplyFullError,
    SessionEvictedError,
    TollgateError,
)
from tollgate.domain.messages import PROTOCOL_VERSION, Refused, Reply, decode_answer, read_envelope
from tollgate.domain.results import AnyResult, HelloResult, refusal_of

WINDOW: Final = 4
"""How many messages of one call are under way at most."""
COMMANDS_MAX: Final = 1_000
REQUEST_BYTES_MAX: Final = 256 * 1_024
"""What a request holds, until `hello` tells."""
RELEASE_S: Final = 10.0
"""How long to try to give back what a claim got too late."""

REMEMBERED_SEQ: Final = 2**51
"""The first number of requests that the broker is to remember."""
CLAIM_SEQ: Final = 2**52
"""The first number of claims that may wait: they have a session of their own."""

OPENING: Final = Hello(open_session=True)
"""What begins a session; the first greeting may be it, and so save a round trip."""

_UNDONE: Final = frozenset({ReplyFullError, DrainingError, SessionEvictedError})


class Session:
    """One client's requests on one connection after the other.

    `broker` is what to call the other side in messages of errors; `jitter` gives numbers from 0 to
    1, by which repeats of many clients are spread.
    """

    def __init__(self, broker: str, jitter: Callable[[], float], *, window: int = WINDOW) -> None:
        """Begin without knowing the broker; `greeting` is None until some hello is answered."""
        self.greeting: HelloResult | None = None
        self.strays = 0
        """How many frames came that answer nothing which is still asked."""
        self._broker = broker
        self._jitter = jitter
        self._window = window
        self._commands_max = COMMANDS_MAX
        self._bytes_max = REQUEST_BYTES_MAX
        self._seqs = count(1)
        self._messages: dict[int, Message] = {}
        self._unstamped: list[Message] = []
        self._outbox: deque[Message] = deque()
        self._timetable = Timetable(self._messages)
        self._forsaken = ForsakenClaims()
        self._memory = Memory(REMEMBERED_SEQ)
        self._claims_memory = Memory(CLAIM_SEQ)
        self._complaint = ""  # what came that is no answer to anything

    # --- what the caller does ---------------------------------------------------------------------

    def submit(
        self,
        commands: Iterable[AnyCommand | TollgateError],
        *,
        deadline: float,
        each_s: float | None = None,
        message_commands: int | None = None,
        notify: Callable[[], None] | None = None,
    ) -> Exchange:
        """Begin a call; `pull` takes its commands off the iterable.

        Each message of it must be answered by `deadline`, or `each_s` seconds after it was made.
        A message has `message_commands` commands, or as many as the broker takes. `notify` is
        called whenever values have come. An exception among the commands becomes its
        own value.
        """
        commands_max = self._commands_max
        if message_commands is not None:
            commands_max = min(message_commands, commands_max)
        packer = Packer(commands, commands_max, self._bytes_max)
        return Exchange(packer.values, deadline, notify, each_s, packer)

    def submit_one(
        self,
        command: AnyCommand,
        *,
        deadline: float,
        notify: Callable[[], None] | None = None,
    ) -> Exchange:
        """Begin a call of one command, to be answered by `deadline`; there is nothing to pull."""
        parcel = pack_one(command, self._bytes_max)
        if isinstance(parcel, TollgateError):
            return Exchange([parcel], deadline)
        exchange = Exchange([PENDING], deadline, notify)
        self._post(exchange, parcel)
        return exchange

    def pull(self, exchange: Exchange) -> None:
        """Make messages of the call's next commands, as many as its window has room for."""
        while self.pull_one(exchange):
            pass

    def pull_one(self, exchange: Exchange) -> bool:
        """Make a message of the call's next commands, if its window has room for one.

        Return whether there is one: then it can be sent, and there may be more.
        """
        packer = exchange.packer
        if packer is None or exchange.broken or len(exchange.messages) >= self._window:
            return False
        parcel = packer.next()
        if packer.exhausted:
            exchange.packer = None
        if parcel is None:
            return False
        self._post(exchange, parcel)
        return True

    def drop(self, exchange: Exchange) -> None:
        """Forget a call whose caller has left: what of it is not sent yet never will be."""
        exchange.broken = True
        for message in [*exchange.messages]:
            self._remove(message)
            self._forsaken.add(message)

    def withdraw(self, exchange: Exchange, places: set[int]) -> None:
        """Forget some commands of a call, by their places in it; what has left stays whole."""
        for message in [*exchange.messages]:
            slots = message.parcel.slots
            wanted = [position for position, slot in enumerate(slots) if slot not in places]
            if not wanted:
                self._remove(message)
                self._forsaken.add(message)
            elif len(wanted) < len(slots) and not message.sent:
                message.shrink(wanted)
        if exchange.packer is not None:
            exchange.packer.forget(places)

    def fail(self, reason: TollgateError) -> None:
        """Give every call under way `reason`, or OutcomeUnknown where something may be done."""
        while self._messages:  # with the last that needs a session goes what was to open it
            message = next(iter(self._messages.values()))
            message.exchange.broken = True
            unknown = OutcomeUnknown(f"{reason}{MAYBE}")
            self._finish(message, unknown if message.uncertain else reason)

    @property
    def takes_changes(self) -> bool:
        """Whether a change need not wait until a session is opened for it."""
        state = self._memory.state
        return state is State.OPEN or state is State.NEVER

    # --- what the driver does ---------------------------------------------------------------------

    @property
    def awaits_nothing(self) -> bool:
        """Whether nothing is under way to which an answer could have come."""
        return not self._messages and not self._forsaken

    def next_frame(self, now: float, wall: float) -> bytes | None:
        """Let time pass, and return the frame to send next, or None; it stays until `sent`."""
        if self._unstamped:
            self._stamp(now)
        while (due := self._timetable.pop_due(now)) is not None:
            self._wake(due, now)
        outbox = self._outbox
        while outbox:
            message = outbox[0]
            if not message.queued:
                outbox.popleft()
            elif now >= message.deadline:
                self._expire(message)
            else:
                return message.frame(now, wall)
        return None

    def sent(self, now: float) -> bool:
        """Note that the socket took the frame which `next_frame` returned last.

        Return whether there may be another one to send.
        """
        message = self._outbox.popleft()
        message.queued = False
        message.sends += 1
        message.attempts += 1
        if message.repeatable:
            self._timetable.set(message, now + message.backoff_s(self._jitter()))
        elif message.wake_at is None:
            self._timetable.set(message, message.deadline)
        return bool(self._outbox)

    def receive(self, frame: bytes, now: float) -> None:
        """Take a frame that came; whatever it holds, nothing is raised."""
        try:
            answer = decode_answer(frame)
        except MalformedError as fault:
            self._unreadable(read_envelope(frame)[1], fault)
            return
        message = self._messages.get(answer.seq or 0)
        if message is None or not message.sends:
            self._stray(answer, now)
            return
        self._complaint = ""
        if isinstance(answer, Refused):
            self._refused(message, refusal_of(answer.error), now)
        elif answer.v != PROTOCOL_VERSION:
            self._finish(message, ProtocolError(f"an answer of version {answer.v} came"))
        else:
            self._answered(message, answer.results, now)

    def next_wakeup(self) -> float | None:
        """Return when `next_frame` must be called at the latest, or None: nothing is under way."""
        if self._outbox:
            first = self._outbox[0]
            if first.wake_at is None and first.queued:  # it could not leave
                self._timetable.set(first, first.deadline)
        return self._timetable.next()

    # --- the life of a message --------------------------------------------------------------------

    def _post(self, exchange: Exchange, parcel: Parcel) -> None:
        memory = self._memory_for(parcel) if parcel.changes else None
        seq = self._seq_in(memory)
        message = Message(seq, exchange, parcel, memory, exchange.deadline)
        self._messages[seq] = message
        exchange.messages.add(message)
        if exchange.each_s is not None:
            self._unstamped.append(message)
        self._queue(message)
        if not message.queued or self._outbox[0] is not message:
            self._timetable.set(message, message.deadline)

    def _memory_for(self, parcel: Parcel) -> Memory | None:
        """Return whose memory a parcel of changes needs: a claim that waits has its own.

        It is under way for long, and would stop the others at the end of their window.
        """
        memory = self._claims_memory if parcel.parks else self._memory
        return None if memory.state is State.NEVER else memory

    def _seq_in(self, memory: Memory | None) -> int:
        return next(self._seqs) if memory is None else memory.take_seq()

    def _queue(self, message: Message) -> None:
        """Have a message sent when it may be, in its turn."""
        memory = message.memory
        if not message.exchange.held and (memory is None or memory.admits(message)):
            self._to_outbox(message)
            return
        message.exchange.held += 1
        memory = memory or self._memory
        memory.hold(message)
        self._let_go(memory)

    def _to_outbox(self, message: Message) -> None:
        if message.memory is not None:
            message.session = message.memory.session
        message.queued = True
        self._outbox.append(message)

    def _open(self, memory: Memory) -> None:
        """Ask for a session, for as long as it takes; `_let_go` gives up if nobody needs it."""
        memory.state = State.OPENING
        told = partial(self._open_answered, memory)
        memory.opener = self.submit_one(OPENING, deadline=inf, notify=told)

    def _open_answered(self, memory: Memory) -> None:
        """Give who waits for a session the reason why there is none: nothing of theirs was sent."""
        opener = memory.opener
        if opener is None or not isinstance(opener.given[0], TollgateError):
            return
        memory.opener, memory.state = None, State.CLOSED
        waiting = [*memory.waiting]
        memory.waiting.clear()
        for message in waiting:
            message.exchange.held -= 1
            if message.seq in self._messages:
                self._finish(message, opener.given[0])

    def _let_go(self, memory: Memory) -> None:
        """Send what waited, as far as it may be sent now."""
        waiting = memory.waiting
        while waiting:
            message = waiting[0]
            if message.seq in self._messages:
                if not memory.admits(message):
                    break
                self._to_outbox(message)
            message.exchange.held -= 1
            waiting.popleft()
        if not waiting and memory.opener is not None:
            opener, memory.opener = memory.opener, None
            memory.state = State.CLOSED
            self.drop(opener)
        elif waiting and memory.state is State.CLOSED:
            self._open(memory)

    def _stamp(self, now: float) -> None:
        """Give what was made since the last turn a deadline of its own."""
        for message in self._unstamped:
            message.deadline = now + (message.exchange.each_s or 0.0)
            if message.wake_at is not None:  # else it is the first to leave, or dropped already
                self._timetable.set(message, message.deadline)
        self._unstamped.clear()

    def _wake(self, message: Message, now: float) -> None:
        if now >= message.deadline:
            self._expire(message)
            return
        if message.sent:
            self._repeat(message)
        else:
            self._queue(message)
        self._timetable.set(message, message.deadline)

    def _repeat(self, message: Message) -> None:
        """Send a message again, behind those of its call that came before it.

        If the broker has lost them all, it must not get the later one first.
        """
        before = [
            each
            for each in message.exchange.messages
            if each.sent and not each.queued and each.place <= message.place
        ]
        for each in sorted(before, key=attrgetter("place")):
            self._to_outbox(each)

    def _retry(self, message: Message, now: float, refusal: Refusal) -> None:
        """Ask again, later, under a new number: the broker executed nothing of it."""
        message.refusal = refusal
        del self._messages[message.seq]
        old_seq, memory = message.seq, message.memory
        message.renumber(self._seq_in(memory))
        self._messages[message.seq] = message
        if memory is not None:
            memory.settle(old_seq)
            self._let_go(memory)
        self._timetable.set(message, now + message.backoff_s(self._jitter()))

    def _expire(self, message: Message) -> None:
        message.exchange.broken = True
        self._finish(message, message.silence(self._broker, self._complaint))
        self._forsaken.add(message)

    # --- answers ----------------------------------------------------------------------------------

    def _answered(self, message: Message, results: list[AnyResult], now: float) -> None:
        parcel = message.parcel
        if len(results) != len(parcel.commands):
            counts = f"{len(parcel.commands)} commands were answered with {len(results)} results"
            self._finish(message, ProtocolError(counts))
            return
        jobs = jobs_of(parcel.kinds, results)
        if jobs is not None:
            self._remove(message)
            message.exchange.put(parcel, jobs)
            return
        values = values_of(parcel.commands, results)
        if not _UNDONE.isdisjoint(map(type, values)):
            self._partly_done(message, values, now)
            return
        if isinstance(values[0], HelloResult):
            self._greeted(message, values[0])
        self._remove(message)
        if message.sends > 1 and [] in values:
            self._forsaken.add(message)  # a copy that comes late may be granted what nobody awaits
        message.exchange.put(parcel, values)

    def _partly_done(self, message: Message, values: list[Any], now: float) -> None:
        """Ask anew for what the reply had no room for, or a wait that a leaving broker ended."""
        parcel = message.parcel
        if isinstance(values[0], DrainingError) and isinstance(parcel.commands[0], Wait):
            self._retry(message, now, values[0])
            return
        if isinstance(values[0], SessionEvictedError) and parcel.parks:
            self._evicted(message, values[0], now, executed=False)
            return
        again = [
            position  # never the first: a reply that has no room for it never will
            for position, value in enumerate(values)
            if position and isinstance(value, ReplyFullError)
        ]
        kept = sorted({*range(len(values))}.difference(again))
        self._remove(message)
        if again:
            self._post(message.exchange, parcel.only(again))
        message.exchange.put(parcel.only(kept), [values[position] for position in kept])

    def _refused(self, message: Message, refusal: Refusal, now: float) -> None:
        if isinstance(refusal, SessionEvictedError):
            self._evicted(message, refusal, now, executed=message.sends > 1)
        elif refusal.retryable:
            self._retry(message, now, refusal)
        elif isinstance(refusal, ExpiredError) and message.sends > 1 and message.uncertain:
            self._finish(message, OutcomeUnknown(f"{refusal}{MAYBE}"))  # a copy before may be done
        else:
            self._finish(message, refusal)

    def _greeted(self, message: Message, greeting: HelloResult) -> None:
        self.greeting = greeting
        self._commands_max = greeting.limits.get("commands", COMMANDS_MAX)
        self._bytes_max = greeting.limits.get("request_bytes", REQUEST_BYTES_MAX)
        if message.exchange is self._claims_memory.opener:
            memory = self._claims_memory
        elif message.exchange is self._memory.opener or (
            self._memory.state is State.CLOSED and message.parcel.commands[0] == OPENING
        ):
            memory = self._memory
        elif not greeting.remembers and self._memory.state is State.CLOSED:
            self._memory.opened(None)
            self._claims_memory.opened(None)
            return
        else:
            return
        memory.opened(greeting.session)
        self._let_go(memory)

    def _evicted(self, message: Message, refusal: Refusal, now: float, *, executed: bool) -> None:
        """Go on in another session, unless a copy sent before may have been `executed`."""
        if message.memory is None:  # it was sent in no session, so nobody may say so
            self._finish(message, refusal)
            return
        message.memory.evicted(message.session)
        if executed and message.uncertain:
            self._finish(message, OutcomeUnknown(f"{refusal}{MAYBE}"))
        else:
            self._retry(message, now, refusal)

    def _unreadable(self, seq: int | None, fault: MalformedError) -> None:
        message = self._messages.get(seq or 0)
        if message is None or not message.sent:
            self.strays += 1
            self._complaint = str(fault)
        else:
            self._finish(message, ProtocolError(f"what the broker answered is {fault}"))

    def _stray(self, answer: Reply | Refused, now: float) -> None:
        self.strays += 1
        if isinstance(answer, Refused) and answer.seq is None:
            self._complaint = answer.error.message
        releases = self._forsaken.releases(answer)
        if releases:
            self.pull(self.submit(releases, deadline=now + RELEASE_S))

    def _finish(self, message: Message, reason: TollgateError) -> None:
        self._remove(message)
        message.exchange.put(message.parcel, [reason] * len(message.parcel.slots))

    def _remove(self, message: Message) -> None:
        del self._messages[message.seq]
        message.exchange.messages.discard(message)
        message.queued = False
        message.wake_at = None
        if message.memory is not None:
            message.memory.settle(message.seq)
            self._let_go(message.memory)
