"""One command in, one result out: where each command goes."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from broker.desk import Answer, Desk, Handlers, Turn
from broker.events import (
    AnyEvent,
    SessionEvicted,
    SessionOpened,
)
from broker.handlers import HANDLERS
from broker.ledger import WINDOW
from broker.lending import LENDING, serve_claim
from broker.limits import Limits
from broker.outcomes import AnyOutcome, result_again
from broker.principal import Principal
from broker.records import Record
from broker.repository import SCAN_JOBS_MAX
from broker.schedule import Schedule
from broker.sizes import (
    RESULT_BYTES,
    check_texts,
    command_bytes,
    job_bytes_max,
    result_bytes_max,
    text_checks,
)
from broker.state import State
from broker.stored import StoredJob
from broker.timers import Instant
from broker.waiters import Ticket
from domain.commands import Claim, Command, Get, Hello, List
from domain.exceptions import (
    DrainingError,
    InternalError,
    JobNotFoundError,
    NotAuthorizedError,
    Refusal,
    ReplyFullError,
    RequestConflictError,
    StorageFullError,
)
from domain.messages import PROTOCOL_VERSION, Request
from domain.results import HelloResult, Result, error_of
from domain.roles import MAY, roles_for

FIT_TO_ROOM: Final = frozenset[type[Command]]({Claim, List})
"""The commands that give as many jobs as there is room for in the reply."""


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
        self._desk = Desk(limits, new_id, state or State())
        self._server = server
        self._boot_id = boot_id
        self._checks = text_checks(limits)
        self._checks_of_short = text_checks(limits, below_bytes=limits.text_bytes)
        """What is left of them in a message that is no longer than most of its texts may be."""
        self._result_bytes_max = result_bytes_max(limits)
        """What the result of any command takes at most, but of those that fit to the room."""
        self.schedule = Schedule(self._desk, limits)
        """What happens by itself in time."""
        handlers: Handlers = {**HANDLERS, **LENDING, Hello: self._hello}
        self._handlers = {
            role: {kind: handlers[kind] for kind in kinds} for role, kinds in MAY.items()
        }

    def turn(self, ticket: Ticket, now: Instant, frame_bytes: int, *, writable: bool) -> Turn:
        """Return what the commands of a message of that size are to be decided with."""
        return Turn(
            ticket,
            now,
            self._handlers[ticket.principal.role],
            self._checks if frame_bytes > self.limits.text_bytes else self._checks_of_short,
            self.limits.reply_bytes,
            writable,
        )

    def execute(self, command: Command, turn: Turn) -> Result | None:
        """Decide one command; None if it was parked. A refusal changes nothing, and is a result.

        An error that is none is a fault of ours: InternalError if nothing had happened yet, raised
        if something had, and then the broker must stop.
        """
        desk, kind = self._desk, type(command)
        before = len(desk.events)
        try:
            handler = turn.handlers.get(kind)
            if handler is None:
                return error_of(_not_authorized(command, turn.ticket.principal))
            if kind in turn.checks:
                check_texts(command, turn.checks[kind])
            if not turn.writable and command.changes:
                return error_of(_storage_full())
            if turn.room_bytes < self._result_bytes_max:
                self._check_room(command, turn.room_bytes)
            return handler(desk, command, turn)
        except Refusal as refusal:
            return error_of(refusal)
        except Exception as fault:
            if desk.applying or len(desk.events) != before:
                raise
            return error_of(InternalError(f"{type(fault).__name__}: {fault!s:.200}"))

    def execute_again(self, command: Command, outcome: AnyOutcome, principal: Principal) -> Result:
        """Build the result of a command anew, for who may still ask: a role can be taken away."""
        if type(command) not in MAY[principal.role]:
            return error_of(_not_authorized(command, principal))
        return self._again(outcome)

    def check(self, request: Request, principal: Principal) -> None:
        """Raise the Refusal of a request whose session does not allow it, or is another's."""
        if request.session:
            ledger = self._desk.state.ledger
            ledger.check(request.session, request.seq, request.acked, principal)

    def recall(self, request: Request, digest: bytes) -> list[AnyOutcome] | None:
        """Return what the commands that change things came to, if the request is a repeat.

        Raises RequestConflictError if it was another request then.
        """
        if not request.session:
            return None
        outcomes = self._desk.state.ledger.recall(request.session, request.seq, digest)
        if outcomes is None:
            if self._desk.waiters.has_other(request.session, request.seq, digest):
                raise RequestConflictError(f"request {request.seq} is parked, and is another one")
        elif len(outcomes) != sum(command.changes for command in request.commands):
            raise RequestConflictError(f"request {request.seq} had other commands before")
        return outcomes

    def _again(self, outcome: AnyOutcome) -> Result:
        state = self._desk.state
        return result_again(outcome, state.jobs.find, state.leases.stands)

    def make_room(self, request: Request, now: Instant) -> None:
        """Forget the sessions least recently used, if this request's outcomes need their place."""
        ledger = self._desk.state.ledger
        needed = len(request.commands) + len(self._desk.waiters)  # a parked claim has a place too
        if Claim in set(map(type, request.commands)):
            needed += sum(each.limit for each in request.commands if isinstance(each, Claim))
        while ledger.outcomes + needed > self.limits.outcomes:
            oldest = ledger.most_outcomes(but=request.session)
            if oldest is None:
                break
            self._desk.record(SessionEvicted(oldest), now)

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
        return serve_claim(self._desk, now, self.limits.reply_bytes)

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
        return len(self._desk.waiters)

    @property
    def events(self) -> Sequence[AnyEvent]:
        """What has happened since it was last taken."""
        return self._desk.events

    def take_events(self) -> list[AnyEvent]:
        """Return what has happened since the last call."""
        return self._desk.take_events()

    @property
    def answers(self) -> deque[Answer]:
        """What parked commands are to be answered; who answers one takes it out."""
        return self._desk.answers

    @property
    def is_tired(self) -> bool:
        """Whether so much was looked at for pages that the batch should end."""
        return self._desk.scans_left <= 0

    def rest(self) -> None:
        """Begin a batch: as much may be looked at as in any."""
        self._desk.scans_left = SCAN_JOBS_MAX

    def _check_room(self, command: Command, room_bytes: int) -> None:
        """Refuse a command whose result may not fit, while it has not been executed."""
        needed = RESULT_BYTES
        if type(command) not in FIT_TO_ROOM:
            job = self._job_of(command)
            needed = (job_bytes_max(job) if job else RESULT_BYTES) + command_bytes(command)
        if needed > room_bytes:
            raise ReplyFullError("the result would not fit in this reply")

    def _job_of(self, command: Command) -> StoredJob | None:
        jobs = self._desk.state.jobs
        try:
            if isinstance(command, Get) and command.blockchain_identifier is not None:
                return jobs.get_by_payment(command.blockchain_identifier)
        except JobNotFoundError:
            return None
        job_id = getattr(command, "job_id", None)
        return jobs.find(job_id) if job_id else None

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
            raise _storage_full()
        ledger = desk.state.ledger
        mine = turn.ticket.session
        while len(ledger) >= self.limits.sessions and (oldest := ledger.most_sessions(but=mine)):
            desk.record(SessionEvicted(oldest), turn.now)
        number = ledger.last_session + 1
        desk.record(SessionOpened(number, turn.ticket.principal.name), turn.now)
        return number


def _not_authorized(command: Command, principal: Principal) -> NotAuthorizedError:
    kind = type(command)
    return NotAuthorizedError(
        f"{kind.__struct_config__.tag} takes the role {' or '.join(roles_for(kind))};"
        f" this peer has {principal.role or 'none'}"
    )


def _storage_full() -> StorageFullError:
    return StorageFullError("the disk has no room for what this command would change")
