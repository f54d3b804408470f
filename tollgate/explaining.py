"""Puts into words why a job is where it is: facts in, sentences out.

`reasons` is the heart of it: what keeps the job from its end, each with a code that never changes,
so that a screen can choose its own words. Nothing here asks a broker or reads a clock: spans are
counted from `facts.time`, which is the broker's.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from tollgate.domain.figures import ClientFigures, Legal
from tollgate.domain.results import ExplainedResult, HistoryEntry
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import AWAITING_INPUT, AWAITING_PAYMENT, COMPLETED, FAILED, TERMINAL
from tollgate.terminal.text import counted, duration, one_line

if TYPE_CHECKING:
    from tollgate.client.results import Explanation
    from tollgate.domain.models import Job

HUNG_AFTER: Final = timedelta(minutes=10)
"""A handler that has told nothing for so long may hang."""
GONE_AFTER: Final = timedelta(minutes=1)
"""A client that neither waits, nor holds a job, nor sent anything for so long may be gone."""
AHEAD: Final = timedelta(seconds=5)
"""A change that is so far ahead of the broker's clock was made by a clock that was set back."""
TOUCHED_SHARE: Final = 0.6
"""A worker touches a lease when a third of it is over; beyond this share it is late."""
UNCLAIMED: Final = frozenset({"no_claims", "claimants_gone"})
"""Reasons that no client is there for a job."""
SETTLING: Final = {
    SettlementState.PENDING: "the settlement waits for the job to complete",
    SettlementState.WANTED: "the hash of the result is to be submitted to the chain",
    SettlementState.SUBMITTED: "the hash was submitted, and is not confirmed on chain yet",
    SettlementState.CONFIRMED: "the hash is on chain: the settlement is done",
    SettlementState.REFUSED: "the payment service refused the settlement: nothing is tried again",
    SettlementState.MANUAL: "nothing is tried again until an admin settles it to `wanted`",
    SettlementState.CLOSED: "the job failed: there is nothing to settle",
}


class Reason(msgspec.Struct, frozen=True):
    """Why a job does not move on, or what keeps it busy."""

    code: str
    """One of the codes in docs/guides/operations.md."""
    text: str
    """A sentence without a full stop; it may have texts of users in it, on one line."""


class Words(msgspec.Struct, frozen=True):
    """An explanation in words."""

    where: str
    """The status, and since when."""
    reasons: list[Reason]
    """The most important first."""
    next: list[str]
    """What happens by itself, earliest first."""
    legal: list[str]
    """Which commands are legal, and for which roles."""
    settlement: list[str]
    """How the result gets on chain; empty for a job without a settlement."""


def in_words(explanation: "Explanation") -> Words:
    """Return an explanation in words."""
    job, facts = explanation.job, explanation.facts
    where = f"{job.status.value} for {_span(job.updated_at, facts.time)}, queue {job.queue}"
    if job.priority:
        where += f", priority {job.priority}"
    return Words(
        where,
        reasons(explanation),
        [f"{_until(each.at, facts.time)}: {each.then}" for each in facts.coming],
        [_legal(each) for each in facts.legal],
        [*_settlement(job, facts)],
    )


def reasons(explanation: "Explanation") -> list[Reason]:
    """Return what keeps a job from its end, the most important first; never empty."""
    job, facts = explanation.job, explanation.facts
    found = [*_of_broker(facts), *_of_clock(job, facts), *_of_status(job, facts)]
    if job.status not in TERMINAL or job.settlement is not None:
        found += _of_orders(job, facts)
        found += _of_claims(job, facts)
    found += _of_tries(job, facts)
    return found


def _of_broker(facts: ExplainedResult) -> Iterator[Reason]:
    if not facts.writable:
        yield Reason(
            "not_writable",
            "the broker accepts no change: its disk is full, a file of its journal is missing, or"
            " its memory limit is reached",
        )


def _of_clock(job: "Job", facts: ExplainedResult) -> Iterator[Reason]:
    """Yield that the times of the job were told by a clock that was set back since."""
    ahead = job.updated_at - facts.time
    if ahead > AHEAD:
        yield Reason(
            "clock_set_back",
            f"the broker's clock was set back: its last change is {duration(ahead.total_seconds())}"
            " ahead of that clock, and delays take up to a ninth longer until it has caught up",
        )


def _of_status(job: "Job", facts: ExplainedResult) -> Iterator[Reason]:
    now = facts.time
    if job.status is COMPLETED:
        yield Reason("completed", "it has completed")
    elif job.status is FAILED:
        yield Reason("failed", f"{_ended_by(facts)}: {one_line(job.error or 'without a reason')}")
    elif job.status is AWAITING_PAYMENT:
        text = "its payment is not confirmed"
        if job.pay_by_time is not None and job.pay_by_time < now:
            text += f", and was due {_span(job.pay_by_time, now)} ago"
        yield Reason("unpaid", text)
    elif job.status is AWAITING_INPUT:
        yield Reason("needs_input", "it asks for input, and has not been answered")


def _ended_by(facts: ExplainedResult) -> str:
    """Say that a job has failed, and by whom: all jobs of one worker may fail."""
    entry = _last(facts, "moved")
    if entry is None or entry.by is None:  # the broker, at a deadline
        return "it has failed"
    return f"it has failed, by {_name(entry.by, entry.client)}"


def _of_orders(job: "Job", facts: ExplainedResult) -> Iterator[Reason]:
    """Yield what was ordered for the job, or for its queue."""
    now = facts.time
    if job.on_hold:
        yield Reason("on_hold", _with_entry("it was put on hold", _last(facts, "held"), now))
    if job.stop_requested:
        entry = _last(facts, "stop_requested")
        yield Reason("stop_requested", _with_entry("its holder was asked to stop", entry, now))
    if facts.paused:
        yield Reason("queue_paused", f"queue {job.queue} is paused")
    until = _delay_ends(facts, of_settlement=facts.claimed_for != "running")
    if until is not None:
        yield Reason("delayed", f"it is delayed, and can be claimed {_until(until, now)}")


def _delay_ends(facts: ExplainedResult, *, of_settlement: bool) -> datetime | None:
    """Return when a delay ends, by the broker's clock: `not_before` may be of a wrong clock."""
    what = "settlement.not_before" if of_settlement else "not_before"
    return next((each.at for each in facts.coming if each.what == what), None)


def _of_claims(job: "Job", facts: ExplainedResult) -> Iterator[Reason]:
    """Yield who holds the job; or, if a claim could have it, why none has."""
    if job.lease is not None:
        yield from _of_holder(job, facts)
    elif facts.claimable and job.status is not AWAITING_PAYMENT:
        claimants = [*_of_claimants(job, facts)]
        if UNCLAIMED.issuperset(each.code for each in claimants):  # more than the others before it
            yield from claimants
            claimants = []
        if facts.before:
            least = "at least " if facts.before_at_least else ""
            ready = f"{facts.before:,} ready job{'s' if facts.before > 1 else ''}"
            text = f"{least}{ready} of this or a better priority come before it"
            if job.priority:
                text += (
                    f"; its own is {job.priority}, and it waits as long as there are better ones"
                )
            yield Reason("behind", text)
        yield from claimants


def _of_holder(job: "Job", facts: ExplainedResult) -> Iterator[Reason]:
    lease, now, claimed = job.lease, facts.time, _last(facts, "claimed")
    if lease is None:
        return
    holder, left = _name(lease.by, lease.client), duration(lease.left_ms / 1_000)
    span = f" for {_span(claimed.at, now)}" if claimed is not None else ""
    text = f"{holder} has held it{span}; the lease lapses in {left} unless it is touched"
    yield Reason("held", text)
    if facts.lease_ms and lease.left_ms < (1 - TOUCHED_SHARE) * facts.lease_ms:
        silent = duration((facts.lease_ms - lease.left_ms) / 1_000)
        yield Reason(
            "holder_silent", f"{holder} has not touched the lease for {silent}: is it lost?"
        )
    heard = job.progress.at if job.progress is not None else None
    if claimed is not None and (heard is None or heard < claimed.at):
        heard = claimed.at
    if heard is not None and now - heard > HUNG_AFTER and job.status not in TERMINAL:
        span = duration((now - heard).total_seconds())
        yield Reason(
            "no_progress", f"its handler has told of no progress for {span}: does it hang?"
        )


def _of_claimants(job: "Job", facts: ExplainedResult) -> Iterator[Reason]:
    """Yield why no client has claimed the job, although it is ready."""
    of = f"jobs of queue {job.queue}" if job.settlement is None else "such jobs"
    if facts.claimed_for not in ("running", "awaiting_input"):
        of = f"settlements that are {facts.claimed_for}"
    if facts.parked_claims:
        if not facts.before:
            waiting = counted(facts.parked_claims, "claim")
            yield Reason("next", f"it is the next for {waiting} that wait")
        return
    if not facts.claimants:
        yield Reason("no_claims", f"no client has claimed {of} since the broker started")
        return
    names = ", ".join(_seen(each, facts.time) for each in facts.claimants[:3])
    more = len(facts.claimants) + facts.claimants_left_out - 3
    names += f" and {more} more" if more > 0 else ""
    if all(_is_gone(each, facts.time) for each in facts.claimants):
        yield Reason(
            "claimants_gone", f"no client waits for {of}; those that claimed them: {names}"
        )
    else:
        yield Reason("claimants_busy", f"the clients that claim {of} are busy: {names}")


def _is_gone(client: ClientFigures, now: datetime) -> bool:
    if client.parked_claims or client.leases:
        return False
    return client.seen is None or now - client.seen > GONE_AFTER


def _of_tries(job: "Job", facts: ExplainedResult) -> Iterator[Reason]:
    if facts.lapses:
        entry = _last(facts, "lapsed")
        who = f", last of {one_line(entry.reason)}" if entry is not None and entry.reason else ""
        ends = f"; at {facts.lapses_max} it fails" if job.status == "running" else ""
        yield Reason("lapsed", f"{counted(facts.lapses, 'lease')} of it lapsed{who}{ends}")
    if job.attempts:
        entry = _last(facts, "released", with_attempt=True)
        why = f"; the last said: {one_line(entry.reason)}" if entry and entry.reason else ""
        ended = "try has" if job.attempts == 1 else "tries have"
        yield Reason("tried", f"{job.attempts:,} {ended} ended without an outcome{why}")


def _settlement(job: "Job", facts: ExplainedResult) -> Iterator[str]:
    settlement = job.settlement
    if settlement is None:
        return
    span = _span(settlement.updated_at, facts.time)
    yield f"{settlement.state.value} for {span}: {SETTLING[settlement.state]}"
    if settlement.reason:
        yield f"reason: {one_line(settlement.reason)}"
    if settlement.on_chain_state:
        yield f"on chain: {one_line(settlement.on_chain_state)}"
    until = _delay_ends(facts, of_settlement=True)
    if until is not None:
        yield f"it is tried again {_until(until, facts.time)}"


def _last(facts: ExplainedResult, what: str, *, with_attempt: bool = False) -> HistoryEntry | None:
    for entry in reversed(facts.entries):
        if entry.what == what and (entry.attempt is not None or not with_attempt):
            return entry
    return None


def _with_entry(text: str, entry: HistoryEntry | None, now: datetime) -> str:
    """Return a sentence with what the history says of it: since when, by whom, why."""
    if entry is None:
        return text
    text += f" {_span(entry.at, now)} ago"
    if entry.by is not None:
        text += f", by {_name(entry.by, entry.client)}"
    return text + (f": {one_line(entry.reason)}" if entry.reason else "")


def _legal(legal: Legal) -> str:
    to = f" to {legal.to}" if legal.to else ""
    return f"{legal.command}{to}: {', '.join(legal.roles) or 'no role'}"


def _name(by: str, client: str | None) -> str:
    return f"{client} ({by})" if client else by


def _seen(client: ClientFigures, now: datetime) -> str:
    name = _name(client.by, client.client)
    if client.leases:
        return f"{name}, holds {counted(client.leases, 'job')}"
    return f"{name}, seen {_span(client.seen, now)} ago" if client.seen else name


def _span(moment: datetime, now: datetime) -> str:
    return duration(max(0.0, (now - moment).total_seconds()))


def _until(moment: datetime, now: datetime) -> str:
    left_s = (moment - now).total_seconds()
    return f"in {duration(left_s)}" if left_s >= 1 else "now"
