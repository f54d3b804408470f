"""A batch of frames in, what to write down and what to send out: the page to read first.

    bytes ──▶ command ──▶ decision ──▶ event ──▶ record ─ ─ ▶ journal, sync
                                         └──▶ result ──▶ reply ─ ─ ▶ bytes

The pipeline does neither of the two things on the right. It hands back the records and the
replies, and whoever runs it (`server`) sends none through its `outbox` before those are safe.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from broker.bounds import records_bytes_max
from broker.desk import Turn
from broker.engine import Engine
from broker.outcomes import (
    JOBS_ALONE,
    AnyOutcome,
    LeasesOutcome,
    RefusedOutcome,
    grants_of,
    outcome_of,
    outcomes_of,
    without_texts,
)
from broker.principal import Principal
from broker.records import Record
from broker.schedule import FAR_MS
from broker.timers import Instant
from broker.waiters import Ticket
from domain.exceptions import (
    REFUSALS,
    DrainingError,
    ExpiredError,
    MalformedError,
    NotAuthorizedError,
    Refusal,
    ReplyFullError,
    TooLargeError,
)
from domain.messages import (
    REFUSAL_BYTES,
    REPLY_BYTES_MAX,
    Request,
    begin_reply,
    encode_refused,
    encode_reply,
    encode_result,
    encode_results,
    read_envelope,
    read_request,
)
from domain.results import ErrorResult, LeasesResult, Result, refusal_of

NOTHING_GRANTED: Final = LeasesOutcome([])
"""A claim that got nothing has changed nothing: a repeat of it is a claim like any other."""


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


class Pipeline:
    """Turns batches into outcomes, in order, over one engine."""

    def __init__(self, engine: Engine, refused: Counter[str], batch_reply_bytes: int) -> None:
        """Decide with `engine`; how often each code was answered is counted in `refused`.

        A batch ends with the reply that makes it `batch_reply_bytes` long: replies are held back
        until all of it is safe.
        """
        self._engine = engine
        self._schedule = engine.schedule
        self._batch_reply_bytes = batch_reply_bytes
        self._reply_bytes = 0
        self._refused = refused
        self._limits = engine.limits
        self._draining = False
        self._owes_claims = False
        self._outcome = Outcome([], [])

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
        self._reply_bytes = 0
        self._engine.rest()
        if undelivered or self.is_behind or not writable or not self._schedule.calm_ms(now):
            self._pass_time(now, undelivered, writable=writable)
        taken = 0
        for arrival in batch:
            self._answer(arrival, now, writable=writable)
            taken += 1
            if self._is_full or self._engine.is_tired:
                break
        self._schedule.foresee(now)
        outcome, self._outcome = self._outcome, Outcome([], [])
        outcome.taken = taken
        return outcome

    def _pass_time(
        self, now: Instant, undelivered: Sequence[tuple[str, int]], *, writable: bool
    ) -> None:
        self._schedule.time_out(now)
        if writable:
            self._schedule.release(undelivered, now)
            self._schedule.tick(now)
        self._settle(now, writable=writable)

    def expel(self, name: str) -> Outcome:
        """Answer whatever is parked for a principal that may not have it any more."""
        self._reply_bytes = 0
        self._engine.expel(name)
        self._answer_parked()
        outcome, self._outcome = self._outcome, Outcome([], [])
        return outcome

    def drain(self) -> Outcome:
        """Wake all who are parked; from now on refuse all that comes in."""
        self._draining = True
        self._owes_claims = False
        self._reply_bytes = 0
        self._engine.drain()
        self._answer_parked()
        outcome, self._outcome = self._outcome, Outcome([], [])
        return outcome

    @property
    def is_behind(self) -> bool:
        """Whether there are answers, or leases for who waits, that there was no room for."""
        return self._owes_claims or bool(self._engine.answers)

    @property
    def _is_full(self) -> bool:
        return self._reply_bytes >= self._batch_reply_bytes

    def due_in_ms(self, now: Instant, *, writable: bool = True) -> int | None:
        """Return how long `run` has nothing to do without a message; None for ever."""
        if self._engine.answers or (writable and self._owes_claims):
            return 0
        return self._schedule.due_in_ms(now, writable=writable)

    def foresee(self, now: Instant) -> None:
        """Look when there will be something to do, before the first batch."""
        self._schedule.foresee(now)

    def calm_ms(self, now: Instant, *, writable: bool = True) -> int:
        """Return how long `run` has nothing to do, as the last one has foreseen; FAR_MS at most."""
        if writable and not self.is_behind:
            return self._schedule.calm_ms(now)
        due_in_ms = self.due_in_ms(now, writable=writable)
        return FAR_MS if due_in_ms is None else due_in_ms

    def is_overdue(self, now: Instant, *, writable: bool = True) -> bool:
        """Return whether a deadline, a lease or a wait is over that `run` has not decided yet."""
        if writable and self._schedule.calm_ms(now):
            return False
        return self._schedule.is_overdue(now, writable=writable)

    def records_max(self, batch: Sequence[Arrival]) -> tuple[int, int]:
        """Return bounds on the records of a batch, before it is decided: their bytes, their number.

        Each message makes two records at most, and each parked claim that is served one of its own.
        """
        frames = [each.frames[0] for each in batch if len(each.frames) == 1]  # others are refused
        size = records_bytes_max(frames, self._limits)
        return size, 2 * (1 + len(batch)) + self._engine.parked

    def _answer(self, arrival: Arrival, now: Instant, *, writable: bool) -> None:
        try:
            request, digest = self._accept(arrival, now)
            remembered = self._engine.recall(request, digest, arrival.principal)
            if self._draining and remembered is None:
                raise DrainingError("the broker is about to leave")
        except Refusal as refusal:
            self._refuse(arrival, refusal)
            return
        ticket = Ticket(arrival.peer, arrival.principal, request.session, request.seq, digest)
        turn = self._engine.turn(ticket, now, len(arrival.frames[0]), writable=writable)
        if remembered is not None:
            self._repeat(request, remembered, turn)
        elif len(request.commands) == 1 and request.commands[0].parks:
            self._execute_parking(request, arrival, turn)
        else:
            self._execute(request, turn)
        self._settle(now, writable=writable)

    def _accept(self, arrival: Arrival, now: Instant) -> tuple[Request, bytes]:
        """Return the request in a message and its digest, or raise why not, in TG/1's order.

        What its session has to say comes next.
        """
        if len(arrival.frames) != 1:
            raise MalformedError(
                f"a request is one frame, this was {len(arrival.frames)}; send it from a DEALER"
            )
        frame = arrival.frames[0]
        request, digest = read_request(frame)
        if len(frame) > self._limits.request_bytes:
            limit = self._limits.request_bytes
            raise TooLargeError(f"the request holds more than {limit} bytes", limit=limit)
        if len(request.commands) > self._limits.commands:
            limit = self._limits.commands
            raise TooLargeError(f"the request holds more than {limit} commands", limit=limit)
        if request.valid_until is not None and request.valid_until < now.wall:
            raise ExpiredError("the request came after its valid_until")
        return request, digest

    def _execute(self, request: Request, turn: Turn) -> None:
        """Decide the commands of a new request, write them down, and answer."""
        commands, session, events = request.commands, request.session, self._engine.events
        grants: list[tuple[str, int]] = []
        outcomes: list[int | AnyOutcome] = []
        if session and turn.writable:
            self._engine.make_room(request, turn.now_ms)
        place, left, parts = len(events), len(commands), list[bytes]()
        # The commands behind each are to be refused at least.
        turn.room_bytes -= REPLY_BYTES_MAX + (left - 1) * REFUSAL_BYTES
        for run, results in self._engine.decide(commands, turn):
            left -= len(run)
            if len(run) == len(commands):  # as most often: all of the reply in one go
                parts.append(part := encode_reply(request.seq, results))
            else:
                parts += [] if parts else [begin_reply(request.seq, len(commands))]
                parts.append(part := encode_results(results))
            turn.room_bytes += len(run) * REFUSAL_BYTES - len(part)
            if session and run[0].changes:
                outcomes += outcomes_of(results, events, place)
            place = len(events)
            if JOBS_ALONE.issuperset(map(type, results)):  # the common case, at the speed of C
                continue
            grants += self._note(results)
            if _is_full(results[-1]):
                parts += [part] * left
                refused = [each for each in commands[len(commands) - left :] if each.changes]
                outcomes += [outcome_of(results[-1])] * len(refused) if session else []
                self._refused[f"refused_{ReplyFullError.code}"] += left
                break
        if turn.writable:
            self._write_down(request, turn.ticket, outcomes)
        frame = b"".join(parts) if commands else encode_reply(request.seq, [])
        self._send(Reply(turn.ticket.peer, frame, grants))

    def _note(self, results: Sequence[Result]) -> list[tuple[str, int]]:
        """Count what was refused, and return job and token of each lease granted."""
        grants: list[tuple[str, int]] = []
        for result in results:
            if isinstance(result, ErrorResult):
                self._refused[f"refused_{result.code}"] += 1
            elif isinstance(result, LeasesResult):
                grants += grants_of(result)
        return grants

    def _repeat(self, request: Request, remembered: Sequence[AnyOutcome], turn: Turn) -> None:
        """Answer as the first time what has changed something then, and the rest as it is now."""
        commands = request.commands
        changing = [command for command in commands if command.changes]
        again = [
            self._engine.decide_again(command, outcome, turn)
            for command, outcome in zip(changing, remembered, strict=True)
        ]
        # Their room comes first: to say of what was executed that it did not fit would be a lie.
        kept = [*map(encode_result, again)]
        head = begin_reply(request.seq, len(commands))
        room_bytes = self._limits.reply_bytes - len(head) - len(commands) * REFUSAL_BYTES
        if sum(map(len, kept)) > room_bytes:
            # The jobs have grown since.
            kept = [encode_result(without_texts(result)) for result in again]
        turn.room_bytes = room_bytes - sum(map(len, kept)) + len(kept) * REFUSAL_BYTES
        parts, kept_parts = [head], iter(kept)
        for command in commands:
            if command.changes:
                parts.append(next(kept_parts))
                continue
            turn.room_bytes += REFUSAL_BYTES
            ((_, (result,)),) = self._engine.decide([command], turn)
            parts.append(part := encode_result(result))
            turn.room_bytes -= len(part)
        self._write_down(request, turn.ticket, [])
        self._send(Reply(turn.ticket.peer, b"".join(parts)))

    def _execute_parking(self, request: Request, arrival: Arrival, turn: Turn) -> None:
        if request.session and turn.writable and request.commands[0].changes:
            self._engine.make_room(request, turn.now_ms)
        ((_, (result,)),) = self._engine.decide(request.commands, turn)
        if type(result) is ErrorResult and REFUSALS[result.code].refuses_message:
            self._refuse(arrival, refusal_of(result))
        elif result is not None:
            self._answer_alone(turn.ticket, result)

    def _settle(self, now: Instant, *, writable: bool) -> None:
        """Write down what has happened, and answer whoever was parked until it did."""
        if self._engine.events:
            self._outcome.records.append(Record(self._engine.take_events()))
        if self._engine.answers:
            self._answer_parked()
        if writable:
            self._owes_claims = self._engine.parked > 0
            while self._owes_claims and not self._is_full:
                self._owes_claims = self._serve_claim(now)

    def _serve_claim(self, now: Instant) -> bool:
        """Answer a parked claim, if there is something for one; return whether there was."""
        answer = self._engine.serve_claim(now)
        if answer is None:
            return False
        self._answer_alone(answer.ticket, answer.result)
        return True

    def _answer_parked(self) -> None:
        """Answer who waits no more, as far as this batch has room for replies."""
        answers = self._engine.answers
        while answers and not self._is_full:
            answer = answers.popleft()
            self._answer_alone(answer.ticket, answer.result)

    def _answer_alone(self, ticket: Ticket, result: Result) -> None:
        """Answer a command that stands alone in its message, and write down what it did."""
        if type(result) is ErrorResult:
            self._refused[f"refused_{result.code}"] += 1
        events = self._engine.take_events()
        if events:
            outcomes: list[int | AnyOutcome] = [outcome_of(result)] if ticket.session else []
            self._record(
                Record(
                    events, ticket.session, ticket.seq, 0, ticket.digest, outcomes,
                    ticket.principal.name,
                )
            )  # fmt: skip
        grants = grants_of(result) if isinstance(result, LeasesResult) else ()
        self._send(Reply(ticket.peer, encode_reply(ticket.seq, [result]), grants))

    def _write_down(
        self, request: Request, ticket: Ticket, outcomes: list[int | AnyOutcome]
    ) -> None:
        """Make one record of a message, unless there is nothing in it that must be kept."""
        events = self._engine.take_events()
        kept = any(map(_is_kept, outcomes))
        if events or kept or self._engine.forgets(request):
            self._record(
                Record(
                    events, request.session, request.seq, request.acked, ticket.digest, outcomes,
                    ticket.principal.name,
                )
            )  # fmt: skip

    def _record(self, record: Record) -> None:
        self._engine.remember(record)
        self._outcome.records.append(record)

    def _refuse(self, arrival: Arrival, refusal: Refusal) -> None:
        self._refused[f"refused_{refusal.code}"] += 1
        seq = read_envelope(arrival.frames[0])[1] if len(arrival.frames) == 1 else None
        self._send(Reply(arrival.peer, encode_refused(seq, refusal)))

    def _send(self, reply: Reply) -> None:
        self._outcome.replies.append(reply)
        self._reply_bytes += len(reply.frame)


def _is_full(result: Result) -> bool:
    return isinstance(result, ErrorResult) and result.code == ReplyFullError.code


def _is_kept(outcome: int | AnyOutcome) -> bool:
    """Return whether a repeat must have this outcome: it is not decided anew, as those are."""
    if isinstance(outcome, RefusedOutcome):
        return outcome.code != NotAuthorizedError.code
    return outcome != NOTHING_GRANTED
