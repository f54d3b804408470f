"""The payment simulator: what becomes of a payment, as a function of a seed and the job's id."""

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final

_HALF_BYTES: Final = 8
_RANGE: Final = 2 ** (8 * _HALF_BYTES)
_FLOATS: Final = 2**53
"""So many floats lie evenly from 0 to below 1; with one more bit, a draw could round up to 1."""
_SPARE_BITS: Final = 8 * _HALF_BYTES - 53


class Kind(StrEnum):
    """What may become of a payment."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one payment, and how long after the job's creation that is known."""

    kind: Kind
    delay_ms: int
    """In milliseconds; 0 for a payment that never comes."""


class PaymentSimulator:
    """Draws a verdict for each job.

    The same seed and job id give the same verdict in every process, in any order and however often
    asked, so a run repeats whatever its timing, and a second worker goes on where one has died.

    `refused_share` and `never_share` are the parts of all payments, 0 to 1, that are refused and
    that never come; the others are confirmed. `delay_ms_min` and `delay_ms_max` are the bounds,
    both included, of the time that a payment takes; all milliseconds between are equally likely.

    Raises:
        ValueError: the shares are no parts of a whole, or the delays no range.

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
                raise ValueError(f"{name} is a part of all payments, 0 to 1, not {share}")
        if refused_share + never_share > 1:
            raise ValueError("refused_share and never_share are more than 1 together")
        if not 0 <= delay_ms_min <= delay_ms_max:
            raise ValueError(f"{delay_ms_min} to {delay_ms_max} ms is no range of delays")
        self._seed = seed
        self._refused_below = refused_share
        self._never_below = refused_share + never_share
        self._delay_ms_min = delay_ms_min
        self._delays = delay_ms_max - delay_ms_min + 1

    def draw(self, job_id: str) -> Verdict:
        """Return what becomes of the payment for the job `job_id`."""
        digest = blake2b(f"{self._seed}/{job_id}".encode(), digest_size=2 * _HALF_BYTES).digest()
        # Two independent numbers: were the delay drawn from the kind's, refusals would be quick.
        kind_draw = (int.from_bytes(digest[:_HALF_BYTES]) >> _SPARE_BITS) / _FLOATS
        delay_draw = int.from_bytes(digest[_HALF_BYTES:])
        if self._refused_below <= kind_draw < self._never_below:
            return Verdict(Kind.NEVER, 0)
        delay_ms = self._delay_ms_min + delay_draw * self._delays // _RANGE
        kind = Kind.REFUSED if kind_draw < self._refused_below else Kind.CONFIRMED
        return Verdict(kind, delay_ms)
