"""The engine: requests in, encoded replies and outcomes to remember out, over one state.

A repeat is not decided again. For each of its commands that changes something, the remembered
outcome is encoded again; its commands that only read are decided anew.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from tollgate.broker.core.context import Answer, Context, Handlers, RequestContext, one_by_one
from tollgate.broker.core.deadlines import Deadlines
from tollgate.broker.core.event_commands import EVENT_COMMANDS
from tollgate.broker.core.events import SessionEvicted, SessionOpened
from tollgate.broker.core.explain_commands import EXPLAIN_COMMANDS
from tollgate.broker.core.job_commands import JOB_COMMANDS
from tollgate.broker.core.lease_commands import LEASE_COMMANDS
from tollgate.broker.core.limits import (
    GRANTS_MAX,
    Limits,
    check_texts,
    result_bytes_max,
    text_checks,
)
from tollgate.broker.core.list_commands import LIST_COMMANDS
from tollgate.broker.core.records import (
    AnyOutcome,
    LeasesOutcome,
    RefusedOutcome,
    grants_of,
    outcome_of,
    outcomes_of,
    result_again,
    without_texts,
)
from tollgate.broker.core.roles import Principal, Role, roles_for
from tollgate.broker.core.runs import LONG_RUN, check_room, is_slow, runs
from tollgate.broker.core.state import State
from tollgate.broker.core.stats_commands import STATS_COMMANDS
from tollgate.domain.commands import (
    Annotate,
    Cancel,
    Claim,
    Command,
    Get,
    Hello,
    Hold,
    ProvideInput,
    Release,
    RequestStop,
    Resume,
    Settle,
    StopWaiting,
    Touch,
    Transition,
)
from tollgate.domain.exceptions import (
    InternalError,
    NotAuthorizedError,
    OverloadedError,
    Refusal,
    ReplyFullError,
    RequestConflictError,
    StorageFullError,
)
from tollgate.domain.messages import (
    PROTOCOL_VERSION,
    REFUSAL_BYTES,
    REPLY_BYTES_MAX,
    WINDOW,
    Request,
    begin_reply,
    encode_reply,
    encode_result,
    encode_results,
)
from tollgate.domain.results import ErrorResult, HelloResult, LeasesResult, Result, error_of

REVISION: Final = 3
"""Which commands and fields of TG/1 this broker knows."""
EVICTED_MAX: Final = 1_000
"""How many sessions one message evicts in a batch; fewer if many principals have sessions."""
EVICTED_MIN: Final = 16
FORGOTTEN_MAX: Final = 32_000
"""After so many outcomes a message evicts no other session in the same batch."""
FORGOTTEN_A_SCAN: Final = 8
"""To forget so many outcomes takes as long as to look at a job."""
RUNS_MAX: Final = 256
"""How many runs of a message one batch decides: alone, a command takes some 10 us."""
READ_BYTES: Final = 64 * 1_024
"""To read a message of that length takes little."""
BYTES_A_RUN: Final = 1_536
"""To read so many bytes more may take as long as to decide a run: then the first batch of a message
decides fewer."""
CHARGED: Final = frozenset[type[Command]](
    {Get, Transition, ProvideInput, Cancel, Hold, Resume, RequestStop, Annotate, Settle, Touch,
     Release}
)  # fmt: skip
"""The kinds that take long if a job has a long history or many rounds of input."""
LEASES_A_RUN: Final = 4
"""To grant so many leases takes as long as to decide a run."""
NOTHING_GRANTED: Final = LeasesOutcome([])
"""A claim without a grant has changed nothing: a repeat of it is decided like any claim."""


class Execution(msgspec.Struct, frozen=True, gc=False):
    """The result of a request: the frame of the reply, and what the request log remembers."""

    frame: bytes
    outcomes: list[int | AnyOutcome] = []
    """One for each command that changes something: what a repeat of the request is answered."""
    is_kept: bool = False
    """Whether the journal gets a record of it, although no event happened."""
    refused: Sequence[tuple[type[Command], str]] = ()
    """The refusals among the results: the kind of the command, and the code."""
    grants: Sequence[tuple[str, int]] = ()
    """Job and token of each lease granted."""


class Engine:
    """Decides commands in order. Has no clock: the caller says what time it is.

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
        self.context = Context(limits, new_id, state or State())
        self.deadlines = Deadlines(self.context, limits)
        """What happens by itself in time."""
        self._server = server
        self.boot_id = boot_id
        self.context.server, self.context.boot_id = server, boot_id
        self._decided = self.context.figures.decided
        self._text_bytes = limits.text_bytes
        self._checks = text_checks(limits)
        self._checks_of_short = text_checks(limits, below_bytes=limits.text_bytes)
        """The checks that a request needs if the whole request is no longer than `text_bytes`."""
        self._result_bytes_max = result_bytes_max(limits)
        self._handlers: Handlers = {
            **JOB_COMMANDS, **LIST_COMMANDS, **LEASE_COMMANDS, **EVENT_COMMANDS, **STATS_COMMANDS,
            **EXPLAIN_COMMANDS,
            Hello: one_by_one(self._hello),
        }  # fmt: skip

    def execute_one(self, request: Request, request_context: RequestContext) -> Execution:
        """Decide the only command of a new request."""
        context, command = self.context, request.commands[0]
        events, outcomes = context.events, list[int | AnyOutcome]()
        place = len(events)
        request_context.room_bytes -= REPLY_BYTES_MAX
        results = self.decide(request.commands, request_context)
        result = results[0]
        kind = type(result)
        if command.changes and request.session > 0 and request_context.writable:
            outcomes += outcomes_of(results, events, place, {kind})
        if context.state.jobs.texts.are_long:
            context.charge_texts(results)
        return Execution(
            encode_reply(request.seq, results),
            outcomes,
            is_kept=not events and any(map(_must_be_told, outcomes)),
            refused=[(type(command), result.code)] if kind is ErrorResult else (),
            grants=grants_of(result) if kind is LeasesResult else (),
        )

    def execute(
        self, request: Request, request_context: RequestContext
    ) -> Iterator[Execution | None]:
        """Decide the commands of a new request in order, until the reply is full.

        Yields None where the next batch is to go on, and in the end what the request came to.
        """
        commands, context = request.commands, self.context
        events = context.events
        is_remembered = request.session > 0 and request_context.writable
        parts: list[bytes] = []
        outcomes: list[int | AnyOutcome] = []
        refused: list[tuple[type[Command], str]] = []
        grants: list[tuple[str, int]] = []
        place, left = len(events), len(commands)  # where the run's events begin; commands to decide
        runs_left = RUNS_MAX if left <= RUNS_MAX else _runs_at_first(request_context.frame_bytes)
        # Each command behind a run takes at least its refusal.
        request_context.room_bytes -= REPLY_BYTES_MAX + (left - 1) * REFUSAL_BYTES
        for run in runs(context, commands, request_context):
            if runs_left <= 0:
                yield None
                runs_left = RUNS_MAX
            runs_left -= len(run) if len(run) >= LONG_RUN and is_slow(context, run) else 1
            results = self.decide(run, request_context)
            left -= len(run)
            if len(run) == len(commands):  # the common case: the whole reply in one call
                parts.append(encode_reply(request.seq, results))
            else:
                parts += [] if parts else [begin_reply(request.seq, len(commands))]
                parts.append(part := encode_results(results))
                request_context.room_bytes += len(run) * REFUSAL_BYTES - len(part)
            kinds = set(map(type, results))
            if is_remembered and run[0].changes:
                outcomes += outcomes_of(results, events, place, kinds)
            place = len(events)
            if context.state.jobs.texts.are_long:
                context.charge_texts(results)
            if LeasesResult in kinds:
                grants += (granted := _granted(results))
                runs_left -= len(granted) // LEASES_A_RUN
            if ErrorResult not in kinds:
                continue
            refused += _refused(type(run[0]), results)
            if left and _is_full(results[-1]):  # and so it is for all commands that are left
                rest, refusals = commands[-left:], [results[-1]] * left
                context.figures.decided.update(map(type, rest))
                parts.append(encode_results(refusals))
                refused += [(type(each), ReplyFullError.code) for each in rest]
                if is_remembered:
                    outcomes += [outcome_of(results[-1]) for each in rest if each.changes]
                break
        is_kept = is_remembered and not events and self._is_kept(request, outcomes)
        frame = b"".join(parts) if parts else encode_reply(request.seq, [])
        yield Execution(frame, outcomes, is_kept, refused, grants)

    def _is_kept(self, request: Request, outcomes: Sequence[int | AnyOutcome]) -> bool:
        """Return whether the journal gets a record of a request that has made no event."""
        if not request.commands:  # it only acknowledges
            return self.context.state.requests.forgets(request.session, request.acked)
        return any(map(_must_be_told, outcomes))

    def repeat(
        self, request: Request, remembered: Sequence[AnyOutcome], request_context: RequestContext
    ) -> Execution:
        """Return the reply to a repeat: `remembered` again, and reads as they are now."""
        commands = request.commands
        self.context.figures.repeats += 1
        head = begin_reply(request.seq, len(commands))
        # Each command takes at least its refusal.
        request_context.room_bytes -= len(head) + len(commands) * REFUSAL_BYTES
        changing = [command for command in commands if command.changes]
        again = [
            self.decide_again(command, outcome, request_context)
            for command, outcome in zip(changing, remembered, strict=True)
        ]
        # They come first: a refusal for lack of room would wrongly say that nothing was executed.
        told = _encode_within(request_context.room_bytes, again)
        request_context.room_bytes += sum(REFUSAL_BYTES - len(part) for part in told)
        parts, told_parts = [head], iter(told)
        for command in commands:
            if command.changes:
                parts.append(next(told_parts))
                continue
            request_context.room_bytes += REFUSAL_BYTES
            result = self.decide_one(command, request_context)
            if self.context.state.jobs.texts.are_long:
                self.context.charge_texts([result])
            parts.append(part := encode_result(result))
            request_context.room_bytes -= len(part)
        return Execution(b"".join(parts))

    def decide(self, run: Sequence[Any], request: RequestContext) -> list[Any]:
        """Return the Result of each command of a run, or None for one that was parked.

        A refusal changes nothing. Any other error is a fault of the broker: the result is
        InternalError if nothing of the run has happened; otherwise the error is raised, and the
        process must stop.
        """
        context, kind = self.context, type(run[0])
        before = len(context.events)
        self._decided[kind] += len(run)
        try:
            if kind not in request.ticket.principal.rights.commands:
                return [error_of(_not_authorized(kind, request))] * len(run)
            is_short = request.frame_bytes <= self._text_bytes
            checks = (self._checks_of_short if is_short else self._checks).get(kind)
            if checks is not None:
                check_texts(run, checks, request.frame_bytes)
            if context.scans_left <= 0 and kind in CHARGED:
                context.check_scans()
            if not request.writable and kind.changes:
                return [error_of(_storage_full())] * len(run)
            if request.room_bytes < self._result_bytes_max and len(run) == 1:
                check_room(context, run[0], request)
            return self._handlers[kind](context, run, request)
        except Exception as fault:
            is_over = isinstance(fault, MemoryError)  # the next allocation may abort the process
            if is_over or context.is_torn or len(context.events) != before:
                raise
            if len(run) == 1:
                return [error_of(_refusal_of(fault))]
        self._decided[kind] -= len(run)  # each is decided again
        return [self.decide([command], request)[0] for command in run]

    def decide_one(self, command: Command, request: RequestContext) -> Any:  # noqa: ANN401 - as a run
        """Decide a single command: see `decide`."""
        return self.decide([command], request)[0]

    def decide_again(self, command: Command, outcome: AnyOutcome, request: RequestContext) -> Any:  # noqa: ANN401 - as a run
        """Build the result of a remembered command again, if its sender still has the role."""
        if type(command) not in request.ticket.principal.rights.commands:
            return self.decide_one(command, request)
        return result_again(outcome, self.context.state.jobs.find)

    def recall(
        self, request: Request, digest: bytes, principal: Principal
    ) -> list[AnyOutcome] | None:
        """Return the outcomes of the commands that change something, if the request is a repeat.

        Raises the Refusal of a request that its session does not allow, and RequestConflictError if
        the request was another one before.
        """
        session, seq = request.session, request.seq
        if not session:
            return None
        try:
            outcomes = self.context.state.requests.recall(
                session, seq, request.acked, digest, principal
            )
        except OverloadedError:
            if [*map(type, request.commands)] != [StopWaiting]:
                raise
            return None  # parked claims may have closed the window, and nothing of it is kept
        waiters = self.context.waiters
        if outcomes is None and waiters.parked and waiters.has_other(session, seq, digest):
            raise RequestConflictError(f"request {seq} is parked, and is another one")
        return outcomes

    def make_room(self, request: Request, now_ms: int) -> bool:
        """Evict the sessions least recently used, if the outcomes of a new request need their room.

        Return whether there is room then: one batch evicts a limited number of sessions.
        """
        requests, limit = self.context.state.requests, self.limits.outcomes
        commands = request.commands
        # A parked claim will need room as well.
        needed = len(commands) + len(self.context.waiters.parked)
        if requests.outcomes + needed * (1 + GRANTS_MAX) <= limit:
            return True  # even if all of them are claims
        needed += sum(each.limit for each in commands if isinstance(each, Claim))
        least = requests.outcomes - FORGOTTEN_MAX
        for _ in range(self._evicted_max()):
            if requests.outcomes + needed <= limit:
                return True
            if requests.outcomes <= least:
                return False
            oldest = requests.most_outcomes(but=request.session)
            if oldest is None:
                return True  # all other outcomes are its own
            self.context.record_one(SessionEvicted(oldest), now_ms)
        return False

    def _evicted_max(self) -> int:
        """Return how many sessions one message may evict in a batch."""
        return max(EVICTED_MIN, EVICTED_MAX // (1 + self.context.state.requests.owners // 16))

    def answer_parked(self, refusal: Refusal, of: frozenset[Principal] | None = None) -> None:
        """Answer the parked commands with a refusal: all, or those of some principals and keys."""
        context = self.context
        context.answers.append(context.waiters.end_all(error_of(refusal), of))

    def _hello(self, context: Context, command: Hello, request: RequestContext) -> HelloResult:
        session = None
        if command.open_session:
            session = self._open_session(context, request, command.client or "")
        principal = request.ticket.principal
        return HelloResult(
            protocol=PROTOCOL_VERSION,
            server=self._server,
            boot_id=self.boot_id,
            session=session,
            remembers=True,
            role=principal.roles_text,
            limits={**msgspec.structs.asdict(self.limits), "window": WINDOW},
            roles=[role.value for role in Role if role in principal.roles],
            time=context.wall,
            revision=REVISION,
        )

    def _open_session(self, context: Context, request: RequestContext, client: str) -> int:
        if not request.writable:
            raise StorageFullError("there is no room for another session on the disk, or in memory")
        requests, own = context.state.requests, request.ticket.session
        # Usually one; if the limit was lowered, the next ones that are opened evict more.
        for _ in range(self._evicted_max()):
            oldest = requests.most_sessions(but=own)
            if len(requests) < self.limits.sessions or oldest is None:
                break
            if context.scans_left <= 0:
                raise context.put_off()
            before = requests.outcomes
            context.record_one(SessionEvicted(oldest), request.now_ms)
            context.scans_left -= (before - requests.outcomes) // FORGOTTEN_A_SCAN
        number = requests.last_session + 1
        opened = SessionOpened(number, request.ticket.principal.name, client)
        context.record_one(opened, request.now_ms)
        return number


def _runs_at_first(frame_bytes: int) -> int:
    """Return how many runs of a message the batch decides that has read it, half at least."""
    return max(RUNS_MAX // 2, RUNS_MAX - max(0, frame_bytes - READ_BYTES) // BYTES_A_RUN)


def execution_of(answer: Answer, *, happened: bool) -> Execution:
    """Return the execution of a request whose only command has this answer.

    Its outcome is remembered for a repeat only if an event has `happened`.
    """
    ticket, result = answer.ticket, answer.result
    frame = encode_reply(ticket.seq, [result])
    outcomes: list[int | AnyOutcome] = []
    if ticket.session and happened:
        outcomes.append(outcome_of(result))
    refused = [(answer.kind, result.code)] if type(result) is ErrorResult else ()
    grants = grants_of(result) if type(result) is LeasesResult else ()
    return Execution(frame, outcomes, refused=refused, grants=grants)


def _storage_full() -> StorageFullError:
    return StorageFullError(
        "nothing can change now: the disk is full, a file of the journal is missing, or the"
        " broker's memory limit is reached"
    )


def _not_authorized(kind: type[Command], request: RequestContext) -> NotAuthorizedError:
    return NotAuthorizedError(
        f"{kind.__struct_config__.tag} takes the role {' or '.join(roles_for(kind))};"
        f" this peer has {request.ticket.principal.roles_text}"
    )


def _refusal_of(fault: Exception) -> Refusal:
    if isinstance(fault, Refusal):
        return fault
    return InternalError(f"{type(fault).__name__}: {fault!s:.200}")


def _encode_within(room_bytes: int, results: Sequence[Any]) -> list[bytes]:
    """Return results encoded; without the texts of jobs if those have grown too large."""
    parts = [*map(encode_result, results)]
    if sum(map(len, parts)) <= room_bytes:
        return parts
    return [encode_result(without_texts(result)) for result in results]


def _refused(kind: type[Command], results: Sequence[Result]) -> list[tuple[type[Command], str]]:
    return [(kind, result.code) for result in results if isinstance(result, ErrorResult)]


def _granted(results: Sequence[Result]) -> list[tuple[str, int]]:
    leases = [result for result in results if isinstance(result, LeasesResult)]
    return [*chain.from_iterable(map(grants_of, leases))]


def _is_full(result: Result) -> bool:
    return isinstance(result, ErrorResult) and result.code == ReplyFullError.code


def _must_be_told(outcome: int | AnyOutcome) -> bool:
    """Return whether a repeat must be told this outcome; other commands are decided again."""
    if isinstance(outcome, RefusedOutcome):
        return outcome.code != NotAuthorizedError.code
    return outcome != NOTHING_GRANTED
