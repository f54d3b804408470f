"""One job with all that revision 2 knows of it, as the checker understands it.

A lease is known by the name of the claim that got it, which no two claims share: so the model need
not know tokens. Times play no part: leases are long, and nothing is delayed.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tests.linearizability.checker import LEGAL

ENDED: Final = ("completed", "failed")
OPEN: Final = ("pending", "wanted", "submitted", "manual")
SETTLES: Final = {
    ("wanted", "submitted"), ("wanted", "refused"), ("wanted", "manual"),
    ("submitted", "confirmed"), ("submitted", "refused"), ("submitted", "manual"),
    ("manual", "wanted"),
}  # fmt: skip


class Work(NamedTuple):
    """The state of a job."""

    status: str = "awaiting_payment"
    version: int = 1
    on_hold: bool = False
    meta: str | None = None
    settlement: str = "pending"
    lease: str | None = None
    is_kept: bool = False

    @property
    def is_finished(self) -> bool:
        return self.status in ENDED and self.settlement not in OPEN

    @property
    def claimed_for(self) -> str:
        return self.settlement if self.status in ENDED else self.status


NEW: Final = Work()
"""A job that was created with `settle`."""


def work_model(state: Any, action: str, argument: Any) -> tuple[Any, Work]:
    """Return the outcome of an action on a job, and the job after it.

    Outcomes are ("job", status, version, on_hold, meta, settlement), (code, status, version) with
    the job as it is, ("leases", claim or None), or ("ok",).
    """
    work = Work(*state)
    return _ACTIONS[action](work, argument)


def _shown(work: Work) -> tuple[Any, Work]:
    return ("job", work.status, work.version, work.on_hold, work.meta, work.settlement), work


def _refused(work: Work, code: str, status: str | None = None) -> tuple[Any, Work]:
    return (code, status or work.status, work.version), work


def _moved(work: Work, target: str, lease: str | None = None) -> Work:
    settlement = work.settlement
    if target in ENDED:
        settlement = "wanted" if target == "completed" else "closed"
    kept = lease is not None and target == "awaiting_input"
    return work._replace(
        status=target, version=work.version + 1, lease=lease, is_kept=kept, settlement=settlement
    )


def _wrong_lease(work: Work, lease: str | None) -> str | None:
    """Return the code for a command with that lease, None if it may act."""
    if lease is None:
        return None if work.lease is None else "lease_held"
    return None if work.lease == lease else "lease_lost"


def _get(work: Work, _: None) -> tuple[Any, Work]:
    return _shown(work)


def _transition(work: Work, argument: Any) -> tuple[Any, Work]:
    target, version, lease, keeps, forces = argument
    if version not in (None, work.version):
        return _refused(work, "version_conflict")
    if not forces and (code := _wrong_lease(work, lease)):
        return _refused(work, code)
    if (work.status, target) not in LEGAL:
        return _refused(work, "illegal_transition")
    return _shown(_moved(work, target, lease if keeps else None))


def _provide_input(work: Work, version: int) -> tuple[Any, Work]:
    if version != work.version:
        return _refused(work, "version_conflict")
    if work.status != "awaiting_input":
        return _refused(work, "illegal_transition")
    return _shown(_moved(work, "running", work.lease if work.is_kept else None))


def _cancel(work: Work, version: int | None) -> tuple[Any, Work]:
    if version not in (None, work.version):
        return _refused(work, "version_conflict")
    if work.status != "awaiting_payment":
        return _refused(work, "illegal_transition")
    return _shown(_moved(work, "failed"))


def _hold(work: Work, version: int | None) -> tuple[Any, Work]:
    if version not in (None, work.version):
        return _refused(work, "version_conflict")
    if work.is_finished:
        return _refused(work, "illegal_transition")
    return _shown(work._replace(on_hold=True))


def _resume(work: Work, version: int | None) -> tuple[Any, Work]:
    if version not in (None, work.version):
        return _refused(work, "version_conflict")
    return _shown(work._replace(on_hold=False))


def _annotate(work: Work, argument: Any) -> tuple[Any, Work]:
    meta, version = argument
    if version not in (None, work.version):
        return _refused(work, "version_conflict")
    return _shown(work._replace(meta=meta))


def _settle(work: Work, argument: Any) -> tuple[Any, Work]:
    to, lease = argument
    if (lease is not None or to is not None) and (code := _wrong_lease(work, lease)):
        return _refused(work, code)
    if to is None:
        return _shown(work)
    if (work.settlement, to) not in SETTLES:
        return _refused(work, "illegal_transition", work.settlement)
    return _shown(work._replace(settlement=to, lease=None, is_kept=False))


def _claim(work: Work, argument: Any) -> tuple[Any, Work]:
    name, state = argument
    if work.lease is not None or work.on_hold or work.claimed_for != state:
        return ("leases", None), work
    return ("leases", name), work._replace(lease=name, is_kept=False)


def _release(work: Work, argument: Any) -> tuple[Any, Work]:
    lease, holds = argument
    if code := _wrong_lease(work, lease):
        return _refused(work, code)
    return ("ok",), work._replace(lease=None, is_kept=False, on_hold=work.on_hold or holds)


_ACTIONS: Final[dict[str, Callable[[Work, Any], tuple[Any, Work]]]] = {
    "get": _get,
    "transition": _transition,
    "provide_input": _provide_input,
    "cancel": _cancel,
    "hold": _hold,
    "resume": _resume,
    "annotate": _annotate,
    "settle": _settle,
    "claim": _claim,
    "release": _release,
}
