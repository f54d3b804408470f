"""Simulated payments: each is confirmed, refused or never comes, by a seed and the job's id."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from tollgate.client.results import Lease
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.models import Job
from tollgate.domain.results import MOCK_PREFIX
from tollgate.domain.status import JobStatus
from tollgate.worker.call import CallResult
from tollgate.worker.context import Key, Schema
from tollgate.worker.held import HeldJob
from tollgate.worker.outcome import GiveBack, Move, Outcome
from tollgate.worker.settings import WorkerSettings
from tollgate.worker.stage import StageOwner

_HALF_BYTES: Final = 8
_RANGE: Final = 2 ** (8 * _HALF_BYTES)
_FLOATS: Final = 2**53
"""Evenly spaced floats from 0 to below 1; with one more bit, a draw could round up to 1."""
_SPARE_BITS: Final = 8 * _HALF_BYTES - 53


class RealPaymentError(TollgateError):
    """A job has a payment that has to be settled: it must not be simulated."""


class Kind(StrEnum):
    """What can happen to a payment."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to one payment, and how long after the job's creation it is known."""

    kind: Kind
    delay_ms: int
    """In milliseconds; 0 for a payment that never comes."""


class PaymentSimulator:
    """Draws a verdict for each job.

    The same seed and job id always give the same verdict, in every process and in any order. So a
    run can be repeated, and another worker continues where one died.

    `refused_share` and `never_share` are the parts of all payments, 0 to 1, that are refused and
    that never come; the others are confirmed. A payment takes `delay_ms_min` to `delay_ms_max`
    milliseconds, both included; each number is equally likely.

    Raises:
        ValueError: a share is not from 0 to 1, their sum is above 1, or the delays are not a range.

    """

    def __init__(
        self,
        seed: int = 0,
        *,
        refused_share: float = 0.0,
        never_share: float = 0.0,
        delay_ms_min: int = 0,
        delay_ms_max: int = 0,
    ) -> None:
        for name, share in (("refused_share", refused_share), ("never_share", never_share)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {share}")
        if refused_share + never_share > 1:
            raise ValueError("refused_share and never_share must not add up to more than 1")
        if not 0 <= delay_ms_min <= delay_ms_max:
            raise ValueError(f"{delay_ms_min} to {delay_ms_max} ms is not a range of delays")
        self._seed = seed
        self._refused_below = refused_share
        self._never_below = refused_share + never_share
        self._delay_ms_min = delay_ms_min
        self._delays = delay_ms_max - delay_ms_min + 1

    def draw(self, job_id: str) -> Verdict:
        """Return what happens to the payment of the job `job_id`."""
        digest = blake2b(f"{self._seed}/{job_id}".encode(), digest_size=2 * _HALF_BYTES).digest()
        # Two independent numbers: with one for both, refused payments would have short delays.
        kind_draw = (int.from_bytes(digest[:_HALF_BYTES]) >> _SPARE_BITS) / _FLOATS
        delay_draw = int.from_bytes(digest[_HALF_BYTES:])
        if self._refused_below <= kind_draw < self._never_below:
            return Verdict(Kind.NEVER, 0)
        delay_ms = self._delay_ms_min + delay_draw * self._delays // _RANGE
        kind = Kind.REFUSED if kind_draw < self._refused_below else Kind.CONFIRMED
        return Verdict(kind, delay_ms)


def simulator_of(settings: WorkerSettings) -> PaymentSimulator:
    """Return the simulator of payments. Raises ValueError."""
    return PaymentSimulator(
        settings.seed,
        refused_share=settings.refused_share,
        never_share=settings.never_share,
        delay_ms_min=settings.pay_delay_ms_min,
        delay_ms_max=settings.pay_delay_ms_max,
    )


class PaymentStage:
    """Lets the simulator decide payments, up to `limit` at once.

    A payment is known `delay_ms` after its job was created, so a worker that takes over does not
    wait anew. The lease on a job that is never paid is left to lapse, which costs nothing in
    `awaiting_payment`; the broker's deadline ends the job. At the first job that has a payment to
    be settled, the worker ends: such a job would come back at once, and its gate is another's.
    """

    name = "payments"
    status = JobStatus.AWAITING_PAYMENT

    def __init__(
        self,
        simulator: PaymentSimulator,
        limit: int,
        owner: StageOwner,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.queues: tuple[str, ...] | None = None
        """Payments of all queues are decided."""
        self._simulator = simulator
        self.slots = limit
        self._owner = owner
        self._clock = clock
        self._pending: set[HeldJob] = set()

    @property
    def is_idle(self) -> bool:
        """Whether no payment is awaited that will come."""
        return not self._pending

    @property
    def is_quiet(self) -> bool:
        """The same: nothing here waits for an answer."""
        return not self._pending

    def room(self, settling: int = 0) -> int:
        """Return how many more payments can pend."""
        return self.slots - len(self._pending) - settling

    def ignores(self, lease: Lease) -> bool:
        """Return whether the job is never paid."""
        return _is_made_up(lease.job) and self._simulator.draw(lease.job.job_id).kind is Kind.NEVER

    def take(self, held: HeldJob) -> None:
        """Wait until the payment is known, and tell the broker what happened to it."""
        self._pending.add(held)
        if not _is_made_up(held.job):
            message = f"job {held.job_id} has a payment that has to be settled: not simulated"
            self._owner.give_up(RealPaymentError(message))
            return
        verdict = self._simulator.draw(held.job_id)
        delay_s = verdict.delay_ms / 1_000
        waited_s = self._clock() - held.job.created_at.timestamp()
        pause_s = min(max(delay_s - waited_s, 0.0), delay_s)  # the clock may have gone back
        held.timer = asyncio.get_running_loop().call_later(pause_s, self._decided, held, verdict)

    def lost_call(self, job_id: str) -> HeldJob | None:  # noqa: ARG002 - as `Stage`
        """No handler is called."""
        return None

    def take_back(self, held: HeldJob) -> None:
        """No handler is called."""

    def lost(self, held: HeldJob) -> None:
        """Stop waiting for the payment of a job that is no longer this worker's."""
        held.stop_timer()
        if held in self._pending:
            self._pending.discard(held)
            held.is_over = True
            self._owner.check_again()

    def tell(self, held: HeldJob) -> None:
        """Somebody asked for a stop: a payment is decided all the same."""

    def begin_stop(self) -> None:
        """Give the leases back: other workers decide these payments."""
        for held in [*self._pending]:
            held.stop_timer()
            self._end(held, GiveBack())

    def cancel_all(self) -> None:
        """Nothing is left after `begin_stop`."""

    def give_back_all(self) -> None:
        """Nothing is left after `begin_stop`."""

    def call_ended(self, held: HeldJob, result: CallResult) -> None:
        """See `held.Stage`: no handler is called."""

    async def ask(self, held: HeldJob, schema: Schema, key: Key) -> str:
        """See `held.Stage`: no handler is called."""
        raise NotImplementedError

    def call_began(self, held: HeldJob) -> None:
        """See `held.Stage`: no handler is called."""

    def progressed(self) -> None:
        """See `held.Stage`: no handler is called."""

    def _decided(self, held: HeldJob, verdict: Verdict) -> None:
        held.timer = None
        is_paid = verdict.kind is Kind.CONFIRMED
        self._end(held, Move.paid() if is_paid else Move.failed("payment refused"))

    def _end(self, held: HeldJob, outcome: Outcome) -> None:
        self._pending.discard(held)
        held.is_over = True
        self._owner.settle(held, outcome)
        self._owner.check_again()


def _is_made_up(job: Job) -> bool:
    """Return whether a job has no payment that something else has to prove on chain."""
    return job.settlement is None or job.blockchain_identifier.startswith(MOCK_PREFIX)
