"""The engine: commands in, results out, over one state; and the sessions of requests."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from tollgate.broker.core.context import Answer, Context, Handlers, RequestContext, one_by_one
from tollgate.broker.core.deadlines import Deadlines
from tollgate.broker.core.dispatch import Dispatcher, runs
from tollgate.broker.core.events import SessionEvicted, SessionOpened
from tollgate.broker.core.job_commands import JOB_COMMANDS
from tollgate.broker.core.lease_commands import LEASE_COMMANDS
from tollgate.broker.core.limits import GRANTS_MAX, Limits
from tollgate.broker.core.records import AnyOutcome, result_again
from tollgate.broker.core.request_log import WINDOW
from tollgate.broker.core.roles import MAY, Principal
from tollgate.broker.core.state import State
from tollgate.domain.commands import Claim, Command, Hello
from tollgate.domain.exceptions import Refusal, RequestConflictError, StorageFullError
from tollgate.domain.messages import PROTOCOL_VERSION, Request
from tollgate.domain.results import HelloResult, error_of


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
        self._boot_id = boot_id
        handlers: Handlers = {**JOB_COMMANDS, **LEASE_COMMANDS, Hello: one_by_one(self._hello)}
        self._dispatcher = Dispatcher(limits, handlers)

    def decide(
        self, commands: Sequence[Command], request: RequestContext
    ) -> Iterator[tuple[Sequence[Command], list[Any]]]:
        """Decide commands a run at a time; yield each run with its results, None if parked.

        Results show jobs as they are stored: encode them before the next run is decided.
        """
        for run in runs(self.context, commands, request):
            yield run, self._dispatcher.decide(self.context, run, request)

    def decide_one(self, command: Command, request: RequestContext) -> Any:  # noqa: ANN401 - as a run
        """Decide a single command: see `decide`."""
        return self._dispatcher.decide(self.context, [command], request)[0]

    def decide_again(self, command: Command, outcome: AnyOutcome, request: RequestContext) -> Any:  # noqa: ANN401 - as a run
        """Build the result of a remembered command again, if its sender still has the role."""
        if type(command) not in MAY[request.ticket.principal.role]:
            return self.decide_one(command, request)
        state = self.context.state
        return result_again(outcome, state.jobs.find, state.leases.stands)

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
        outcomes = self.context.state.requests.recall(
            session, seq, request.acked, digest, principal
        )
        waiters = self.context.waiters
        if outcomes is None and waiters.parked and waiters.has_other(session, seq, digest):
            raise RequestConflictError(f"request {seq} is parked, and is another one")
        return outcomes

    def make_room(self, request: Request, now_ms: int) -> None:
        """Evict the sessions least recently used, if this request's outcomes need their room."""
        requests, limit = self.context.state.requests, self.limits.outcomes
        # A parked claim will need room as well.
        needed = len(request.commands) + len(self.context.waiters.parked)
        if requests.outcomes + needed * (1 + GRANTS_MAX) <= limit:
            return  # even if all of them are claims
        needed += sum(each.limit for each in request.commands if isinstance(each, Claim))
        while requests.outcomes + needed > limit:
            oldest = requests.most_outcomes(but=request.session)
            if oldest is None:
                break
            self.context.record_one(SessionEvicted(oldest), now_ms)

    def answer_parked(self, refusal: Refusal, name: str | None = None) -> None:
        """Answer the parked commands with a refusal: all, or those of the principal `name`."""
        waiters = self.context.waiters
        for parked in waiters.all_parked():
            if name is None or parked.ticket.principal.name == name:
                waiters.remove(parked)
                self.context.answers.append(Answer(parked.ticket, error_of(refusal)))

    def _hello(self, context: Context, command: Hello, request: RequestContext) -> HelloResult:
        session = self._open_session(context, request) if command.open_session else None
        return HelloResult(
            protocol=PROTOCOL_VERSION,
            server=self._server,
            boot_id=self._boot_id,
            session=session,
            remembers=True,
            role=str(request.ticket.principal.role),
            limits={**msgspec.structs.asdict(self.limits), "window": WINDOW},
        )

    def _open_session(self, context: Context, request: RequestContext) -> int:
        if not request.writable:
            raise StorageFullError("the disk has no room for another session")
        requests, own = context.state.requests, request.ticket.session
        while len(requests) >= self.limits.sessions and (oldest := requests.most_sessions(but=own)):
            context.record_one(SessionEvicted(oldest), request.now_ms)
        number = requests.last_session + 1
        context.record_one(SessionOpened(number, request.ticket.principal.name), request.now_ms)
        return number
