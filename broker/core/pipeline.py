"""A batch of frames in, records to write and replies to send out: the page to read first.

    bytes ──▶ command ──▶ decision ──▶ event ──▶ record ─ ─ ▶ journal, sync
                                         └──▶ result ──▶ reply ─ ─ ▶ bytes

The pipeline does neither of the two things on the right. It returns the records and the replies;
the server's group commit (`commit`) writes and syncs the records, and only then sends the replies.

`accept` reads a request. The `engine` has its commands decided and encodes the reply. `deadlines`
decides what happens by itself in time.

A message is put off, to the next batch, if a batch has too little left for it: then nothing of it
has happened. A long message may also be decided by several batches; between them it is unfinished.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from tollgate.broker.core.batch import RECORDS_MAX, REPLIES_MAX, Arrival, Output, ReplyFrame
from tollgate.broker.core.context import Answer, RequestContext
from tollgate.broker.core.engine import RUNS_MAX, Engine, Execution, execution_of
from tollgate.broker.core.event_commands import (
    are_due,
    serve_readers,
    wake_up_for_readers,
)
from tollgate.broker.core.events import LogBegan, SessionEvicted
from tollgate.broker.core.feed import RECORD_BYTES
from tollgate.broker.core.lease_commands import serve_claim
from tollgate.broker.core.limits import COMMAND_BYTES_MIN, Limits
from tollgate.broker.core.records import Record
from tollgate.broker.core.roles import Principal
from tollgate.broker.core.timers import Instant
from tollgate.broker.core.waiters import Ticket
from tollgate.broker.repository.listing import SCAN_JOBS_MAX
from tollgate.domain.commands import Command, StopWaiting
from tollgate.domain.exceptions import (
    REFUSALS,
    DrainingError,
    ExpiredError,
    MalformedError,
    NotAuthorizedError,
    Refusal,
    TooLargeError,
)
from tollgate.domain.figures import Denied
from tollgate.domain.messages import Request, encode_refused, read_envelope, read_request
from tollgate.domain.results import ErrorResult, refusal_of

SCANS_KEPT: Final = SCAN_JOBS_MAX // 2
"""What parked claims leave of the scan budget of a batch: its messages are decided, too."""
LONG_BYTES: Final = RUNS_MAX * COMMAND_BYTES_MIN
"""A longer message begins a batch: it may take several."""


Steps = Iterator[Execution | None]
"""What is left to decide of a message: None for each batch that is not the last, and its end."""


class Pipeline:
    """Turns batches into outputs, in order, over one engine."""

    def __init__(self, engine: Engine, refused: Counter[str], batch_reply_bytes: int) -> None:
        """Count in `refused` how often each code was answered.

        A batch ends with the reply that makes its replies `batch_reply_bytes` long.
        """
        self.deadlines = engine.deadlines
        self.figures = engine.context.figures
        """What is counted; the server adds what only it knows."""
        self.feed = engine.context.state.feed
        """The events; the server has it pack them while it rests."""
        self._seen = self.figures.seen
        self._engine = engine
        self._context = engine.context
        self._refused = refused
        self._batch_reply_bytes = batch_reply_bytes
        self._was_full = False
        self._unfinished: tuple[Steps, Request, RequestContext] | None = None
        """The message in whose middle the last batch has ended."""
        self._is_draining = False

    def run(
        self,
        batch: Sequence[Arrival],
        now: Instant,
        undelivered: Sequence[tuple[str, int]] = (),
        *,
        writable: bool = True,
        active: bool | None = None,
    ) -> Output:
        """Decide what is due at `now`, and then a batch of messages.

        `undelivered` are grants of earlier replies that could not be sent. Without `writable` the
        journal has no room: nothing changes, and commands that change something are refused; but
        with `active`, what is due happens, since it is only memory that has no room. No
        message is decided while a deadline that has passed is not: then `taken` is 0. A message
        that takes so long that the next batch goes on with it is not taken; see `is_deciding`.
        """
        output = Output([], [], room_bytes=self._batch_reply_bytes)
        context, deadlines = self._context, self.deadlines
        active = writable if active is None else active
        with context.state.jobs:  # one acquisition of its lock for all looks and changes
            has_room = True
            if self._unfinished is not None:
                batch = batch[:1]  # the disk may have no room reserved for more than that
            else:
                context.begin_batch(now)
                left_over = undelivered or self._was_full or context.answers
                if left_over or deadlines.is_due(now, writable=active):
                    lease_at = now if writable else None
                    has_room = self._decide_due(now, undelivered, output, lease_at, active=active)
            if has_room:
                self._decide_messages(batch, now, output, writable=writable)
            if output.records:
                deadlines.look_at_finished(now)
                is_due = context.state.feed.room < 0 or context.waiters.readers
                if is_due and self._unfinished is None:
                    self._tend_feed(now, output)
            if writable:
                self._was_full = (
                    context.scans_left <= SCANS_KEPT
                    or not context.state.jobs.queues.drops_left
                    or context.are_owed
                    or _is_full(output)
                )
        return output

    @property
    def last_record_at(self) -> datetime:
        """The time of the last record."""
        return self._context.state.at

    @property
    def is_deciding(self) -> bool:
        """Whether the last batch has ended in the middle of a message.

        The next one must begin with the same message. Until then the time stands still, nothing
        else is decided, and `run` takes no `undelivered`, and the same `writable`.
        """
        return self._unfinished is not None

    def is_behind(self, *, writable: bool = True) -> bool:
        """Return whether the last batch was too full for all answers to parked commands."""
        may_grant = writable and self._was_full and bool(self._context.waiters.parked)
        return may_grant or bool(self._context.answers)

    def begin_log(self, now: Instant) -> Output:
        """Name the log, if it has no name yet. Call this when the journal has room."""
        output = Output([], [], room_bytes=self._batch_reply_bytes)
        context = self._context
        if not context.state.log_id:
            context.begin_batch(now)
            context.record_one(LogBegan(self._engine.boot_id.replace("-", "")), now.mono_ms)
        return self._settle(None, output)

    def expel(self, *principals: Principal) -> Output:
        """Refuse the parked commands of principals whose key or roles were taken away."""
        refusal = NotAuthorizedError("the role that this was asked with was taken away")
        self._engine.answer_parked(refusal, frozenset(principals))
        return self._settle_apart()

    def drain(self) -> Output:
        """Refuse all parked commands, and from now on every request."""
        self._is_draining = True
        self._engine.answer_parked(DrainingError("the broker is about to leave"))
        return self._settle_apart()

    def _decide_due(
        self,
        now: Instant,
        undelivered: Sequence[tuple[str, int]],
        output: Output,
        lease_at: Instant | None,
        *,
        active: bool,
    ) -> bool:
        """Decide what is due at `now`; return whether the batch has room for messages."""
        is_left = self.deadlines.decide_due(now, undelivered, writable=active)
        self._settle(lease_at, output)
        self._tend_feed(now, output)
        return not is_left and not self._is_spent(output)

    def _decide_messages(
        self, batch: Sequence[Arrival], now: Instant, output: Output, *, writable: bool
    ) -> None:
        """Decide messages, in order, until one is left to the next batch; count them as taken."""
        lease_at = now if writable else None
        for arrival in batch:
            if output.taken and (len(arrival.frames[0]) > LONG_BYTES or self._is_spent(output)):
                return
            is_decided = self._decide(arrival, now, output, writable=writable)
            if self._unfinished is not None:  # what has happened so far is no whole record
                return
            self._settle(lease_at, output)  # also if it was put off: sessions may be evicted
            if not is_decided:
                return
            output.taken += 1

    def _decide(self, arrival: Arrival, now: Instant, output: Output, *, writable: bool) -> bool:
        """Take one message from its bytes to its record and its reply.

        Returns whether it is decided. If not, the next batch begins with it: it was put off, or it
        is `_unfinished`.
        """
        engine, context = self._engine, self._context
        if self._unfinished is not None:
            return self._go_on(*self._unfinished, output)
        try:
            request, digest = accept(arrival.frames, engine.limits, now)
            remembered = engine.recall(request, digest, arrival.principal)
            if self._is_draining and remembered is None:
                raise DrainingError("the broker is about to leave")
        except Refusal as refusal:
            self._refuse(arrival, refusal, output)
            return True
        ticket = Ticket(arrival.peer, arrival.principal, request.session, request.seq, digest)
        origin = context.act_for(ticket)
        self._seen[origin.by, origin.client] = ticket, origin
        request_context = RequestContext(
            ticket, origin.at, now.mono_ms, len(arrival.frames[0]),
            engine.limits.reply_bytes, writable,
        )  # fmt: skip
        if remembered is not None:
            execution = engine.repeat(request, remembered, request_context)
            if not context.lacks_budget:  # if it does, it is put off: a repeat makes no events
                self._conclude(ticket, request.acked, execution, output)
            return not context.lacks_budget
        commands = request.commands
        parks = len(commands) == 1 and commands[0].parks
        is_remembered = request.session > 0 and writable and (not parks or commands[0].changes)
        if is_remembered and not engine.make_room(request, now.mono_ms):
            context.figures.put_off(commands, were_counted=False)
            return False
        if parks:
            return self._decide_parking(arrival, commands[0], request_context, output)
        steps: Steps
        if len(commands) == 1:  # the common case, in one step
            steps = iter([engine.execute_one(request, request_context)])
        else:
            steps = engine.execute(request, request_context)
        return self._go_on(steps, request, request_context, output)

    def _go_on(
        self, steps: Steps, request: Request, request_context: RequestContext, output: Output
    ) -> bool:
        """Decide a message, or as much of it as one batch may; return whether it is decided."""
        execution, context = next(steps), self._context
        if execution is None:
            self._unfinished = steps, request, request_context
            return False
        self._unfinished = None
        if context.lacks_budget:
            if {SessionEvicted}.issuperset(map(type, context.events)):
                context.figures.put_off(request.commands, were_counted=True)
                return False
            context.lacks_budget = False  # too late to put it off: the refusal is sent
        self._conclude(
            request_context.ticket, request.acked, execution, output, request_context.frame_bytes
        )
        if context.answers and StopWaiting in map(type, request.commands):
            self._answer_stopped(output)
        return True

    def _decide_parking(
        self, arrival: Arrival, command: Command, request: RequestContext, output: Output
    ) -> bool:
        """Decide a command that may park, and answer it if it does not; see `_decide`."""
        result = self._engine.decide_one(command, request)
        if self._context.lacks_budget:
            self._context.figures.put_off([command], were_counted=True)
            return False
        if isinstance(result, ErrorResult) and REFUSALS[result.code].refuses_message:
            self._note_refused(request.ticket, type(command), result.code)
            self._refuse(arrival, refusal_of(result), output)
        elif result is not None:
            self._answer(Answer(request.ticket, result, type(command)), output)
        return True

    def _answer_stopped(self, output: Output) -> None:
        """Answer the parked commands that the last request has stopped, before the request.

        Waits that it has ended are answered with them, as far as there is room.
        """
        reply, answers = output.replies.pop(), self._context.answers
        while answers and output.room_bytes > 0 and (answer := self._context.next_answer()):
            self._answer(answer, output)
        output.replies.append(reply)

    def _settle(self, lease_at: Instant | None, output: Output) -> Output:
        """Record what happened by itself, and answer the parked commands that it ended.

        Parked claims are granted leases from `lease_at` on; None grants no lease.
        """
        context, queues = self._context, self._context.state.jobs.queues
        claims = context.waiters.claims
        if context.events:
            origin = context.origin
            record = Record(context.take_events(), by=origin.by, at=origin.at, client=origin.client)
            context.state.feed.fresh.append(record)
            output.records.append(record)
        if not claims:
            queues.changed.clear()
        while context.answers or (claims and lease_at and queues.changed):
            answer = None if _is_full(output) else self._next_answer(lease_at)
            if answer is None:
                context.are_owed = lease_at is not None and bool(queues.changed)
                break
            self._answer(answer, output)
        return output

    def _settle_apart(self) -> Output:
        """Send answers between two batches; in the middle of a message the next batch does it."""
        output = Output([], [], room_bytes=self._batch_reply_bytes)
        return output if self.is_deciding else self._settle(None, output)

    def _next_answer(self, lease_at: Instant | None) -> Answer | None:
        context = self._context
        if context.answers and (answer := context.next_answer()):
            return answer
        if lease_at is None or context.scans_left <= SCANS_KEPT or context.serves_left <= 0:
            return None
        return serve_claim(context, lease_at.mono_ms, context.limits.reply_bytes)

    def _tend_feed(self, now: Instant, output: Output) -> None:
        """Put the fresh events in order; answer parked readers, as far as the batch has room."""
        context = self._context
        context.state.feed.settle()
        if not context.waiters.readers:
            return
        if not _is_full(output) and are_due(context, now.mono_ms):
            for answer in serve_readers(context, now.mono_ms, SCANS_KEPT):
                self._answer(answer, output)
                if _is_full(output):
                    break
        wake_up_for_readers(context)

    def _is_spent(self, output: Output) -> bool:
        """Return whether the batch has done as much as one may."""
        context = self._context
        return (
            _is_full(output) or context.scans_left <= 0
            or not context.state.jobs.queues.drops_left
        )  # fmt: skip

    def _answer(self, answer: Answer, output: Output) -> None:
        execution = execution_of(answer, happened=bool(self._context.events))
        self._conclude(answer.ticket, 0, execution, output)

    def _conclude(
        self,
        ticket: Ticket,
        acked: int,
        execution: Execution,
        output: Output,
        frame_bytes: int = RECORD_BYTES,
    ) -> None:
        """Make one record of everything that a request has done, and one reply."""
        context = self._context
        if context.events or execution.is_kept:
            events, origin = context.take_events(), context.origin
            record = Record(
                events, ticket.session, ticket.seq, acked, ticket.digest, execution.outcomes,
                ticket.principal.name, origin.at, origin.client,
            )  # fmt: skip
            context.state.requests.remember(record)
            feed = context.state.feed
            events_bytes = RECORD_BYTES * len(events)  # a short claim may get many leases
            feed.room -= max(frame_bytes, events_bytes)
            feed.fresh.append(record)
            output.records.append(record)
        for kind, code in execution.refused:
            self._refused[f"refused_{code}"] += 1
            self._note_refused(ticket, kind, code)
        output.replies.append(ReplyFrame(ticket.peer, execution.frame, execution.grants))
        output.room_bytes -= len(execution.frame)

    def _note_refused(self, ticket: Ticket, kind: type[Command], code: str) -> None:
        """Count a refusal; of one for lack of a role, note who sent what."""
        context = self._context
        context.figures.refused[kind][code] += 1
        if code == NotAuthorizedError.code:
            client = context.state.requests.client_of(ticket.session)
            tag = str(kind.__struct_config__.tag)
            context.figures.last_denied = Denied(ticket.principal.name, tag, context.wall, client)

    def _refuse(self, arrival: Arrival, refusal: Refusal, output: Output) -> None:
        """Refuse a whole message. Nothing of it has happened, so there is no record."""
        seq = read_envelope(arrival.frames[0])[1] if len(arrival.frames) == 1 else None
        self._refused[f"refused_{refusal.code}"] += 1
        frame = encode_refused(seq, refusal)
        output.replies.append(ReplyFrame(arrival.peer, frame))
        output.room_bytes -= len(frame)


def accept(frames: Sequence[bytes], limits: Limits, now: Instant) -> tuple[Request, bytes]:
    """Return the request in the frames of a message, and the digest of its commands.

    Raises the first Refusal in TG/1's order: MalformedError or UnsupportedVersionError, then
    TooLargeError, then ExpiredError. The session is checked after that.
    """
    if len(frames) != 1:
        raise MalformedError(
            f"a request is one frame, this was {len(frames)}; send it from a DEALER"
        )
    frame = frames[0]
    request, digest = read_request(frame)
    if len(frame) > limits.request_bytes:
        limit = limits.request_bytes
        raise TooLargeError(f"the request holds more than {limit} bytes", limit=limit)
    if len(request.commands) > limits.commands:
        limit = limits.commands
        raise TooLargeError(f"the request holds more than {limit} commands", limit=limit)
    if request.valid_until is not None and request.valid_until < now.wall:
        raise ExpiredError("the request came after its valid_until")
    return request, digest


def _is_full(output: Output) -> bool:
    """Return whether the batch must end: replies are held back until all records are durable."""
    return (
        output.room_bytes <= 0 or len(output.records) >= RECORDS_MAX
        or len(output.replies) >= REPLIES_MAX
    )  # fmt: skip
