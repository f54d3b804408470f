"""The settings of a worker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tollgate.client.commands import claim
from tollgate.client.identity import naming
from tollgate.domain.exceptions import ArgumentError

CLAIM_WAIT_MS: Final = 2_000
"""Longest time that the broker parks a claim, in ms."""
SILENCE_S_MAX: Final = 2.0
"""How long after that a silent broker counts as lost. A wrong guess does no harm: the client
releases the leases of a claim that is answered too late."""

HandlerOrName = Callable[..., object] | str
"""A handler, or its name as `module:function`."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """All settings of a worker; the command line and `Worker` check their ranges."""

    endpoint: str
    key: str | None = None
    name: str | None = None
    """What histories show for the worker."""
    handler: HandlerOrName = "tollgate.worker.example_handler:describe"
    queues: tuple[str, ...] = ("default",)
    """The queues to take jobs from, first ones first; `*` alone is all of them."""
    concurrency: int = 4
    """How many jobs are worked on at once; the results of as many more may be under way."""
    max_attempts: int = 3
    """How often a job is tried. Lapsed leases count as tries."""
    backoff_s: float | Sequence[float] = 2.0
    """The pause after the first failed try, which doubles with each, or the pauses one by one."""
    on_exhausted: Literal["fail", "hold"] = "fail"
    """What becomes of a job whose last try has failed."""
    timeout_s: float | None = None
    """How long a call of the handler may take, not counting the time that it waits for answers, or
    for a process or a thread to begin in."""
    isolation: Literal["thread", "process"] = "thread"
    """Where plain handlers run. With `process`, async ones have a process of their own as well."""
    recycle_jobs: int | None = None
    """After how many jobs a process is replaced, with `isolation="process"`."""
    recycle_memory_mb: int | None = None
    """Above how much resident memory a process is replaced after its job."""
    lease_ms: int = 30_000
    """How long a job stays with a worker that died; a live one touches its lease in time."""
    stop_grace_s: float = 8.0
    """How long running handlers may take to finish after a stop. Containers give 10 s in all."""
    jobs: int | None = None
    """Stop after this many jobs; None for never."""
    drain: bool = False
    """Stop when no job is ready and all are done."""
    wait_for_broker_s: float | None = None
    """How long to wait for the broker at the start; None for no limit."""
    simulate_payments: bool = False
    """Whether to confirm payments without a real payment, for demonstrations and tests."""
    only: Literal["payments", "work"] | None = None
    """Do only this."""
    payments_max: int = 64
    """How many simulated payments pend at once, not counting those that never come."""
    unpaid_max: int = 10_000
    """How many leases on jobs that are never paid are remembered, to be released at a stop."""
    seed: int = 0
    refused_share: float = 0.0
    never_share: float = 0.0
    pay_delay_ms_min: int = 50
    pay_delay_ms_max: int = 500
    work_delay_ms: int = 0
    """A pause before each call of the handler, for demonstrations."""


_SECONDS_MAX: Final = 86_400_000.0
_WHOLE: Final = {
    "concurrency": (1, 100_000),
    "max_attempts": (1, 2**53),
    "recycle_jobs": (1, 2**53),
    "recycle_memory_mb": (1, 2**53),
    "lease_ms": (100, 86_400_000),
    "jobs": (1, 2**53),
    "payments_max": (1, 2**53),
    "unpaid_max": (1, 2**53),
}
"""The least and the largest value of each setting that is a whole number."""
_CHOICES: Final = {
    "on_exhausted": ("fail", "hold"),
    "isolation": ("thread", "process"),
    "only": (None, "payments", "work"),
}
_SIMULATION: Final = (
    "seed", "refused_share", "never_share", "pay_delay_ms_min", "pay_delay_ms_max",
    "payments_max", "unpaid_max",
)  # fmt: skip


def checked(settings: WorkerSettings) -> WorkerSettings:
    """Return the settings if they can be used. Raises ArgumentError, which names the setting."""
    for name, (least, most) in _WHOLE.items():
        value = getattr(settings, name)
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise ArgumentError(f"{name} must be a whole number from {least}, not {value!r:.60}")
    for name in ("timeout_s", "stop_grace_s", "wait_for_broker_s"):
        value = getattr(settings, name)
        if value is not None and not (_is_seconds(value) and (value or name == "stop_grace_s")):
            raise ArgumentError(f"{name} must be a number of seconds, not {value!r:.60}")
    for name, choices in _CHOICES.items():
        value = getattr(settings, name)
        if value not in choices:
            raise ArgumentError(f"{name} must be one of {choices}, not {value!r:.60}")
    _check_together(settings)
    return settings


def _check_together(settings: WorkerSettings) -> None:
    pauses = settings.backoff_s
    given = pauses if isinstance(pauses, list | tuple) else [pauses]
    if not given or not all(map(_is_seconds, given)):
        raise ArgumentError(f"backoff_s must be seconds, or a list of them, not {pauses!r:.60}")
    if settings.isolation == "thread" and (settings.recycle_jobs or settings.recycle_memory_mb):
        raise ArgumentError("recycle_jobs and recycle_memory_mb are for isolation='process'")
    if settings.only == "payments" and not settings.simulate_payments:
        raise ArgumentError("only='payments' decides payments by simulation: simulate_payments")
    if not settings.simulate_payments:
        for name in _SIMULATION:
            if getattr(settings, name) != getattr(WorkerSettings, name):
                raise ArgumentError(f"{name} is for simulated payments: simulate_payments=True")
    claim("running", queues=settings.queues)
    naming(settings.name)


def _is_seconds(value: object) -> bool:
    return type(value) in {int, float} and 0 <= value < _SECONDS_MAX  # type: ignore[operator]
