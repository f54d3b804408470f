"""The settings of a worker."""

from dataclasses import dataclass
from typing import Final

CLAIM_WAIT_MS: Final = 2_000
"""Longest time that the broker parks a claim, in ms. A stop waits for it."""
SILENCE_S_MAX: Final = 2.0
"""How long after that a silent broker counts as lost. A wrong guess does no harm: the client
releases the leases of a claim that is answered too late."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a worker; the command line checks their ranges."""

    endpoint: str
    key: str | None = None
    handler: str = "tollgate.worker.example_handler:describe"
    only: str | None = None
    """`payments` or `work`; None for both."""
    concurrency: int = 4
    """How many jobs are worked on at once; the results of as many more may be under way."""
    payments_max: int = 64
    """How many payments pend at once, not counting those that never come."""
    unpaid_max: int = 10_000
    """How many leases on jobs that are never paid are remembered, to be released at a stop."""
    lease_ms: int = 30_000
    """How long a job stays with a worker that died; a live one touches its lease in time."""
    seed: int = 0
    refused_share: float = 0.0
    never_share: float = 0.0
    pay_delay_ms_min: int = 50
    pay_delay_ms_max: int = 500
    work_delay_ms: int = 0
    """A pause before each call of the handler, for demonstrations."""
    stop_grace_s: float = 10.0
    """How long running handlers may take to finish after a stop signal."""
    jobs: int | None = None
    """Stop after this many jobs; None for never."""
    wait_for_broker_s: float | None = None
    """How long to wait for the broker at the start; None for no limit."""
