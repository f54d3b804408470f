"""What can be configured about a worker, in one class."""

from dataclasses import dataclass
from typing import Final

CLAIM_WAIT_MS: Final = 2_000
"""How long the broker may keep a claim for which there is no job yet. A stop waits for it."""
SILENCE_S_MAX: Final = 2.0
"""How long beyond that a broker may be silent before it counts as lost. Nothing is lost by being
wrong about it: what a claim is answered too late, the client gives back."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a worker; the command line checks their ranges."""

    endpoint: str
    key: str | None = None
    handler: str = "tollgate.worker.example_handler:describe"
    only: str | None = None
    """`payments` or `work`; None for both."""
    concurrency: int = 4
    """How many jobs are worked on at once; of as many again the outcome may be on its way."""
    payments_max: int = 64
    """How many payments pend at once, those that never come aside."""
    unpaid_max: int = 10_000
    """How many leases on jobs that are never paid are remembered, to be given back at a stop."""
    lease_ms: int = 30_000
    """How long a job stays with a worker that has died; a living one touches it in time."""
    seed: int = 0
    refused_share: float = 0.0
    never_share: float = 0.0
    pay_delay_ms_min: int = 50
    pay_delay_ms_max: int = 500
    work_delay_ms: int = 0
    """A pause before each call of the handler, to have something to see in a demonstration."""
    stop_grace_s: float = 10.0
    """How long running work may take to finish after a stop was asked for."""
    jobs: int | None = None
    """Stop after so many jobs; None for never."""
    wait_for_broker_s: float | None = None
    """How long to wait for the broker at the start; None for ever."""
