"""Claims jobs for one stage: in the message that settles others, or parked at the broker."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from tollgate.client.errors import may_pass
from tollgate.client.results import Lease
from tollgate.domain.commands import Claim
from tollgate.domain.exceptions import InternalError, TollgateError
from tollgate.worker.broker_status import Backoff, BrokerStatus
from tollgate.worker.link import Link
from tollgate.worker.settings import CLAIM_WAIT_MS, SILENCE_S_MAX
from tollgate.worker.stage import Stage

if TYPE_CHECKING:
    from tollgate.client.inflight import Call

CLAIM_LIMIT: Final = 1_000
"""Most jobs that one claim asks for (docs/protocol.md)."""


class ClaimOwner(Protocol):
    """Takes what claims are answered."""

    def take_leases(self, stage: Stage, leases: list[Lease], asked_at: float) -> None:
        """Begin to work on what a claim was granted that was sent at `asked_at`: maybe nothing."""
        ...

    def claim_refused(self, refusal: TollgateError) -> None:
        """The broker is there, and refuses a claim; another claim comes after a pause."""
        ...

    def check_again(self) -> None:
        """Check whether there is room for more jobs."""
        ...


class Claims:
    """The claims of one stage; one is under way at a time.

    A busy worker claims in the message that settles jobs: a round trip serves both. A calm one
    parks a claim at the broker right after that message: there it waits until there is a job.
    """

    def __init__(
        self,
        stage: Stage,
        link: Link,
        broker: BrokerStatus,
        lease_ms: int,
        owner: ClaimOwner,
    ) -> None:
        self.stage = stage
        self._link = link
        self._broker = broker
        self._lease_ms = lease_ms
        self._owner = owner
        self._backoff = Backoff()
        self._pause: asyncio.TimerHandle | None = None
        self._parked: Call | None = None
        self.is_under_way = False
        self.found_nothing = False
        """Whether the last claim was granted no job."""
        self.is_calm = False
        """Whether there was no further job when the last settlement was answered."""

    def command(self, room: int, wait_ms: int) -> Claim | None:
        """Return the next claim, or None if there is no room, or one is under way or must wait."""
        if room < 1 or self.is_under_way or self._pause is not None:
            return None
        self.is_under_way = True
        queues = self.stage.queues
        return Claim(
            status=self.stage.status,
            lease_ms=self._lease_ms,
            wait_ms=wait_ms,
            limit=min(room, CLAIM_LIMIT),
            queues=None if queues is None else list(queues),
        )

    def park(self, room: int, wait_ms: int = CLAIM_WAIT_MS) -> None:
        """Post a claim of its own, which the broker answers when there is a job."""
        command = self.command(room, wait_ms)
        if command is None:
            return
        asked_at = monotonic()
        self._parked = self._link.post(
            [command],
            lambda answers: self.answered(answers[0], asked_at),
            wait_ms / 1_000 + SILENCE_S_MAX,
        )

    def answered(self, answer: Any, asked_at: float) -> None:  # noqa: ANN401 - leases or an error
        """Take the answer to a claim that was sent at `asked_at`."""
        self.is_under_way = False
        self._parked = None
        if isinstance(answer, TollgateError):
            if may_pass(answer) or isinstance(answer, InternalError):
                self._broker.lost(answer, asked_at)
            else:
                self._owner.claim_refused(answer)
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(self._backoff.next_s(), self._go_on)
            return
        self._backoff = Backoff()
        self._broker.back()
        self.found_nothing = not answer
        if not answer:
            self.is_calm = True
        self._owner.take_leases(self.stage, answer, asked_at)

    def look(self) -> None:
        """Look whether a claim is still parked now that a settlement has been answered."""
        asyncio.get_running_loop().call_soon(self._look, self._parked)

    def _look(self, parked: "Call | None") -> None:
        self.is_calm = parked is not None and parked is self._parked

    def stop(self) -> None:
        """Claim nothing more. What a parked claim still gets is released by the client."""
        if self._pause is not None:
            self._pause.cancel()
        if self._parked is not None:
            self._link.withdraw(self._parked)
            self._parked = None
            self.is_under_way = False

    def _go_on(self) -> None:
        self._pause = None
        self._owner.check_again()
