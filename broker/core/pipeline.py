"""A batch of frames in, what to write down and what to send out: the page to read first.

    bytes ──▶ command ──▶ decision ──▶ event ──▶ record ─ ─ ▶ journal, sync
                                         └──▶ result ──▶ reply ─ ─ ▶ bytes

The pipeline does neither of the two things on the right. It hands back the records and the
replies, and whoever runs it (`server`) sends none through its `outbox` before those are safe.

`intake` reads a request. `execution` has its commands decided and words the reply; `repeats` does
so where they were decided before. `agenda` knows what there is to do that no message asks for.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from tollgate.broker.core.agenda import Agenda
from tollgate.broker.core.bounds import records_max
from tollgate.broker.core.context import Answer, Turn
from tollgate.broker.core.engine import Engine
from tollgate.broker.core.execution import Verdict, execute, execute_parking, verdict_of
from tollgate.broker.core.intake import accept
from tollgate.broker.core.principal import Principal
from tollgate.broker.core.records import Record
from tollgate.broker.core.repeats import repeat
from tollgate.broker.core.timers import Instant
from tollgate.broker.core.waiters import Ticket
from tollgate.domain.exceptions import REFUSALS, DrainingError, Refusal
from tollgate.domain.messages import Request, encode_refused, read_envelope
from tollgate.domain.results import ErrorResult, refusal_of


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message as the socket gave it: its connection, its frames, and who has sent it."""

    peer: bytes
    frames: Sequence[bytes]
    principal: Principal


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A frame for a peer. If it cannot be sent, `grants` (job and token) are to be taken back."""

    peer: bytes
    frame: bytes
    grants: Sequence[tuple[str, int]] = ()


class Outcome(msgspec.Struct, gc=False):
    """What a batch comes to: first the records are made safe, then the replies are sent."""

    records: list[Record]
    replies: list[Reply]
    taken: int = 0
    """How many messages of the batch were decided."""
    room_bytes: int = 0
    """How much room for replies was left; none, or less than that, if the batch was full."""


class Pipeline:
    """Turns batches into outcomes, in order, over one engine."""

    def __init__(self, engine: Engine, refused: Counter[str], batch_reply_bytes: int) -> None:
        """Decide with `engine`; how often each code was answered is counted in `refused`.

        A batch ends with the reply that makes it `batch_reply_bytes` long: replies are held back
        until all of it is safe.
        """
        self.agenda = Agenda(engine)
        """When there is something to do without a message."""
        self._engine = engine
        self._refused = refused
        self._batch_reply_bytes = batch_reply_bytes
        self._is_draining = False

    def run(
        self,
        batch: Sequence[Arrival],
        now: Instant,
        undelivered: Sequence[tuple[str, int]] = (),
        *,
        writable: bool = True,
    ) -> Outcome:
        """Decide a batch at `now`, after what time has brought by then.

        `undelivered` are grants of earlier replies that could not be sent. Without `writable`
        there is no room for records: nothing changes, and what would change something is refused.
        `taken` of the outcome is how much of the batch was decided; the rest is to come again.
        """
        outcome, engine = self._begin(), self._engine
        engine.rest()
        lease_at = now if writable else None
        if undelivered or not self.agenda.calm_ms(now, writable=writable):
            self.agenda.pass_time(now, undelivered, writable=writable)
            self._settle(lease_at, outcome)
        for arrival in batch:
            self._answer(arrival, now, outcome, writable=writable)
            self._settle(lease_at, outcome)
            outcome.taken += 1
            if outcome.room_bytes <= 0 or engine.is_tired:
                break
        self.agenda.foresee(now, is_full=outcome.room_bytes <= 0, writable=writable)
        return outcome

    def expel(self, name: str) -> Outcome:
        """Answer whatever is parked for a principal that may not have it any more."""
        self._engine.expel(name)
        return self._settle(None, self._begin())

    def drain(self) -> Outcome:
        """Wake all who are parked; from now on refuse all that comes in."""
        self._is_draining = True
        self._engine.drain()
        return self._settle(None, self._begin())

    def records_max(self, batch: Sequence[Arrival], undelivered: int = 0) -> tuple[int, int]:
        """Return bounds on the records of a batch, before it is decided: bytes and number.

        `undelivered` is how many grants `run` will be told of that could not be sent.
        """
        messages = [arrival.frames for arrival in batch]
        return records_max(messages, undelivered, self._engine.parked, self._engine.limits)

    def _begin(self) -> Outcome:
        return Outcome([], [], room_bytes=self._batch_reply_bytes)

    def _answer(self, arrival: Arrival, now: Instant, outcome: Outcome, *, writable: bool) -> None:
        """Take one message from its bytes to its record and its reply."""
        engine = self._engine
        try:
            request, digest = accept(arrival.frames, engine.limits, now)
            remembered = engine.recall(request, digest, arrival.principal)
            if self._is_draining and remembered is None:
                raise DrainingError("the broker is about to leave")
        except Refusal as refusal:
            self._refuse(arrival, refusal, outcome)
            return
        ticket = Ticket(arrival.peer, arrival.principal, request.session, request.seq, digest)
        turn = engine.turn(ticket, now, len(arrival.frames[0]), writable=writable)
        if remembered is not None:
            verdict = Verdict(repeat(engine, request, remembered, turn))
            self._conclude(ticket, request.acked, verdict, outcome)
        elif len(request.commands) == 1 and request.commands[0].parks:
            self._answer_or_park(arrival, request, turn, outcome)
        else:
            verdict = execute(engine, request, turn)
            self._conclude(ticket, request.acked, verdict, outcome)

    def _answer_or_park(
        self, arrival: Arrival, request: Request, turn: Turn, outcome: Outcome
    ) -> None:
        answer = execute_parking(self._engine, request, turn)
        if answer is None:
            return
        if isinstance(answer.result, ErrorResult) and REFUSALS[answer.result.code].refuses_message:
            self._refuse(arrival, refusal_of(answer.result), outcome)
        else:
            self._conclude_alone(answer, outcome)

    def _settle(self, lease_at: Instant | None, outcome: Outcome) -> Outcome:
        """Write down what has happened by itself, and answer those parked until it did."""
        if self._engine.events:
            outcome.records.append(Record(self._engine.take_events()))
        while outcome.room_bytes > 0 and (answer := self.agenda.next_answer(lease_at)):
            self._conclude_alone(answer, outcome)
        return outcome

    def _conclude_alone(self, answer: Answer, outcome: Outcome) -> None:
        verdict = verdict_of(answer, happened=bool(self._engine.events))
        self._conclude(answer.ticket, 0, verdict, outcome)

    def _conclude(self, ticket: Ticket, acked: int, verdict: Verdict, outcome: Outcome) -> None:
        """Make one record of all that a message has made happen, and one reply."""
        events = self._engine.take_events()
        if events or verdict.is_kept:
            record = Record(
                events, ticket.session, ticket.seq, acked, ticket.digest, verdict.outcomes,
                ticket.principal.name,
            )  # fmt: skip
            self._engine.remember(record)
            outcome.records.append(record)
        self._send(Reply(ticket.peer, verdict.frame, verdict.grants), verdict.refused, outcome)

    def _refuse(self, arrival: Arrival, refusal: Refusal, outcome: Outcome) -> None:
        """Refuse a whole message: nothing of it has happened, so there is no record."""
        seq = read_envelope(arrival.frames[0])[1] if len(arrival.frames) == 1 else None
        self._send(Reply(arrival.peer, encode_refused(seq, refusal)), [refusal.code], outcome)

    def _send(self, reply: Reply, refused: Sequence[str], outcome: Outcome) -> None:
        for code in refused:
            self._refused[f"refused_{code}"] += 1
        outcome.replies.append(reply)
        outcome.room_bytes -= len(reply.frame)
