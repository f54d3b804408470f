"""Jobs that come back though their tries are used up: they end without another call.

A handler that ends the whole worker, or never returns, has no result by which its last try could
be judged. Its lease lapses, and the job comes back to the next worker.
"""

from typing import Final

from tollgate.client.errors import may_pass
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.results import HistoryEntry
from tollgate.worker.broker_status import Backoff
from tollgate.worker.held import HeldJob
from tollgate.worker.link import Link

RESUMED: Final = "resumed"


async def why_spent(link: Link, held: HeldJob) -> str | None:
    """Return how the last try of a job has ended, or None if it may be tried once more.

    It may if somebody has resumed it since. While the broker does not answer, this asks again.
    """
    backoff = Backoff()
    while True:
        try:
            history = await link.history(held.job.job_id)
        except TollgateError as fault:
            if not may_pass(fault):
                return None
            await backoff.wait()
        else:
            return last_try(history.entries)


def last_try(entries: list[HistoryEntry]) -> str | None:
    """Return how the last try has ended, or None if there is none since the job was resumed."""
    for entry in reversed(entries):
        if entry.what == RESUMED:
            return None
        if entry.attempt is not None and entry.what == "released":
            return entry.reason or "the last try has failed"
        if entry.attempt is not None and entry.what == "lapsed":
            holder = f" of {entry.reason}" if entry.reason else ""
            return f"try {entry.attempt} ended without a result: the lease{holder} lapsed"
    return None
