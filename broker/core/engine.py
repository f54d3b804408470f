"""Runs of commands in, their results out: where each command goes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import msgspec

from tollgate.broker.core.context import Answer, Desk, Turn, alone
from tollgate.broker.core.deadlines import Schedule
from tollgate.broker.core.dispatch import Gates, not_authorized
from tollgate.broker.core.events import (
    AnyEvent,
    SessionEvicted,
    SessionOpened,
)
from tollgate.broker.core.job_commands import HANDLERS
from tollgate.broker.core.lease_commands import LENDING, serve_claim
from tollgate.broker.core.limits import Limits
from tollgate.broker.core.outcomes import AnyOutcome, result_again
from tollgate.broker.core.principal import Principal
from tollgate.broker.core.records import Record
from tollgate.broker.core.request_log import WINDOW
from tollgate.broker.core.runs import runs
from tollgate.broker.core.sizes import GRANTS_MAX, result_bytes_max
from tollgate.broker.core.state import State
from tollgate.broker.core.timers import Instant
from tollgate.broker.core.waiters import Ticket
from tollgate.broker.repository.creation import SCAN_JOBS_MAX
from tollgate.domain.commands import Claim, Command, Hello
from tollgate.domain.exceptions import (
    DrainingError,
    InternalError,
    NotAuthorizedError,
    Refusal,
    RequestConflictError,
    StorageFullError,
)
from tollgate.domain.messages import PROTOCOL_VERSION, Request
from tollgate.domain.results import HelloResult, Result, error_of


class Engine:
    """Decides commands in order. Has no clock: whoever calls says what time it is.

    `server` and `boot_id` are what `hello` tells: the version, and a name for this run.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        new_id: Callable[[], str],
        server: str,
        boot_id: str,
        state: State | None = None,
    ) -> None:
        self.limits = limits
        self._desk = desk = Desk(limits, new_id, state or State())
        self.events: Sequence[AnyEvent] = desk.events
        """What has happened since it was last taken."""
        self.take_events = desk.take_events
        """Returns that, and it is so taken."""
        self.answers = desk.answers
        """What parked commands are to be answered; who answers one takes it out."""
        self._server = server
        self._boot_id = boot_id
        self._result_bytes_max = result_bytes_max(limits)
        """What the result of any command takes at most, but of those that fit to the room."""
        self.schedule = Schedule(desk, limits)
        """What happens by itself in time."""
        self._gates = Gates(limits, {**HANDLERS, **LENDING, Hello: alone(self._hello)})

    def turn(self, ticket: Ticket, now: Instant, frame_bytes: int, *, writable: bool) -> Turn:
        """Return what the commands of a message of that size are to be decided with."""
        is_long = frame_bytes > self.limits.text_bytes
        handlers, tight_handlers = self._gates.tables(ticket.principal.role, is_long, writable)
        return Turn(
            ticket, now.wall, now.mono_ms, handlers, tight_handlers, frame_bytes,
            self.limits.reply_bytes, writable,
        )  # fmt: skip

    def decide(
        self, commands: Sequence[Command], turn: Turn
    ) -> Iterator[tuple[Sequence[Command], list[Any]]]:
        """Decide commands, a run at a time; yield it with a Result of each, or None if parked.

        Results show jobs as they are held: encode them before the next run is decided. A refusal
        changes nothing, and is a result. An error that is none is a fault of ours: InternalError if
        nothing had happened yet, raised if something had, and then the broker must stop.
        """
        if len(commands) == 1:
            yield commands, self._decide(commands, turn)
            return
        for run in runs(self._desk, commands, turn):
            yield run, self._decide(run, turn)

    def _decide(self, run: Sequence[Command], turn: Turn) -> list[Any]:
        desk, before, handlers = self._desk, len(self._desk.events), turn.handlers
        if turn.room_bytes < self._result_bytes_max and len(run) == 1:
            handlers = turn.tight_handlers
        try:
            return handlers[type(run[0])](desk, run, turn)
        except Exception as fault:
            if desk.is_torn or len(desk.events) != before:
                raise
            if len(run) == 1:
                return [error_of(_refusal_of(fault))]
        return [self._decide([command], turn)[0] for command in run]

    def decide_again(self, command: Command, outcome: AnyOutcome, turn: Turn) -> Result:
        """Build the result of a command anew, for who may still ask: a role can be taken away."""
        if turn.handlers[type(command)] is not_authorized:
            return cast("Result", self._decide([command], turn)[0])
        state = self._desk.state
        return result_again(outcome, state.jobs.find, state.leases.stands)

    def recall(
        self, request: Request, digest: bytes, principal: Principal
    ) -> list[AnyOutcome] | None:
        """Return what the commands that change things came to, if the request is a repeat.

        Raises the Refusal of a request whose session does not allow it, or is another's, and
        RequestConflictError if it was another request then.
        """
        session, seq = request.session, request.seq
        if not session:
            return None
        ledger = self._desk.state.ledger
        outcomes = ledger.recall(session, seq, request.acked, digest, principal)
        if outcomes is None:
            waiters = self._desk.waiters
            if waiters.parked and waiters.has_other(session, seq, digest):
                raise RequestConflictError(f"request {seq} is parked, and is another one")
        elif len(outcomes) != sum(command.changes for command in request.commands):
            raise RequestConflictError(f"request {seq} had other commands before")
        return outcomes

    def make_room(self, request: Request, now_ms: int) -> None:
        """Forget the sessions least recently used, if this request's outcomes need their place."""
        ledger = self._desk.state.ledger
        parked = len(self._desk.waiters.parked)  # a parked claim has a place too
        needed = len(request.commands) + parked
        if ledger.outcomes + needed * (1 + GRANTS_MAX) <= self.limits.outcomes:
            return  # even if all of them were claims
        if Claim in set(map(type, request.commands)):
            needed += sum(each.limit for each in request.commands if isinstance(each, Claim))
        while ledger.outcomes + needed > self.limits.outcomes:
            oldest = ledger.most_outcomes(but=request.session)
            if oldest is None:
                break
            self._desk.record(SessionEvicted(oldest), now_ms)

    def remember(self, record: Record) -> None:
        """Keep what a message came to."""
        self._desk.state.remember(record)

    def forgets(self, request: Request) -> bool:
        """Return whether a request that only acknowledges lets something be forgotten."""
        return (
            request.session > 0
            and not request.commands
            and self._desk.state.ledger.forgets(request.session, request.acked)
        )

    def serve_claim(self, now: Instant) -> Answer | None:
        """Grant one parked claim what has become free; None if nobody waits for what there is."""
        return serve_claim(self._desk, now.mono_ms, self.limits.reply_bytes)

    def expel(self, name: str) -> None:
        """Answer the parked commands of a principal: what it was allowed, it is no more."""
        for parked in self._desk.waiters.everybody():
            if parked.ticket.principal.name == name:
                self._desk.waiters.remove(parked)
                refusal = NotAuthorizedError("the role that this was asked with was taken away")
                self._desk.answers.append(Answer(parked.ticket, error_of(refusal)))

    def drain(self) -> None:
        """Answer all parked commands: nobody will be there to do so later."""
        for parked in self._desk.waiters.everybody():
            self._desk.waiters.remove(parked)
            refusal = DrainingError("the broker is about to leave")
            self._desk.answers.append(Answer(parked.ticket, error_of(refusal)))

    @property
    def parked(self) -> int:
        """How many commands wait for their answer."""
        return len(self._desk.waiters.parked)

    @property
    def is_tired(self) -> bool:
        """Whether so much was looked at for pages that the batch should end."""
        return self._desk.scans_left <= 0

    def rest(self) -> None:
        """Begin a batch: as much may be looked at as in any."""
        self._desk.scans_left = SCAN_JOBS_MAX

    def _hello(self, desk: Desk, command: Hello, turn: Turn) -> HelloResult:
        session = self._open_session(desk, turn) if command.open_session else None
        return HelloResult(
            protocol=PROTOCOL_VERSION,
            server=self._server,
            boot_id=self._boot_id,
            session=session,
            remembers=True,
            role=str(turn.ticket.principal.role),
            limits={**msgspec.structs.asdict(self.limits), "window": WINDOW},
        )

    def _open_session(self, desk: Desk, turn: Turn) -> int:
        if not turn.writable:
            raise StorageFullError("the disk has no room for another session")
        ledger = desk.state.ledger
        mine = turn.ticket.session
        while len(ledger) >= self.limits.sessions and (oldest := ledger.most_sessions(but=mine)):
            desk.record(SessionEvicted(oldest), turn.now_ms)
        number = ledger.last_session + 1
        desk.record(SessionOpened(number, turn.ticket.principal.name), turn.now_ms)
        return number


def _refusal_of(fault: Exception) -> Refusal:
    if isinstance(fault, Refusal):
        return fault
    return InternalError(f"{type(fault).__name__}: {fault!s:.200}")
