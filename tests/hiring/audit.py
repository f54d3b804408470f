"""Compares what a buyer was told over HTTP with the broker, the payments and handlers' notes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import rfc8785

from tollgate import Job
from tollgate.domain.hashing import JsonValue, input_hash

DELIVERY_S: Final = 15.0
"""A result may be lost with a worker that is killed so soon after the handler has returned it."""
RANKS: Final = {"awaiting_payment": 0, "running": 1, "awaiting_input": 1, "completed": 2}
"""The statuses of a job that is paid, in the order in which a buyer may see them."""


@dataclass
class Deal:
    """What one buyer asked for, and all that it was told."""

    purchaser: str
    """Its identifier; no other buyer has it."""
    data: dict[str, Any]
    colours: list[str]
    """What it answers, question by question."""
    told: list[dict[str, Any]] = field(default_factory=list)
    """Every answer to its hire, which it may have sent more than once."""
    statuses: list[str] = field(default_factory=list)
    """What it saw, without repeats in a row."""
    results: list[str] = field(default_factory=list)
    """The same, of the result."""
    acknowledged: list[str] = field(default_factory=list)
    """The hash of each answer that was taken, as the gateway told it."""
    wrong: list[str] = field(default_factory=list)
    """What it saw by itself, such as a refusal."""


class Note(NamedTuple):
    """What a handler returned: the process that it ran in, and when, in s of the wall clock."""

    job_id: str
    result: str
    process: int
    at: float


def faults_of(deal: Deal, jobs: Sequence[Job], paid: Sequence[str]) -> list[str]:
    """Return what is wrong for one buyer.

    Args:
        deal: what the buyer was told.
        jobs: all jobs in the broker that have its identifier.
        paid: the identifiers of its payments that something was paid for.
    """
    found = [*deal.wrong]
    if not deal.told:
        found.append("never hired")
    payments = {each["blockchainIdentifier"] for each in deal.told}
    ids = {each["job_id"] for each in deal.told}
    if len(payments) > 1:
        found.append(f"payments told: {len(payments)}")
    if len(ids) > 1:
        found.append(f"jobs told: {len(ids)}")
    if any(each != deal.told[0] for each in deal.told):
        found.append(f"told differently: {deal.told}")
    if {*paid} != payments or len(paid) > 1:
        found.append(f"paid: {len(paid)} payments, of which {len(payments & {*paid})} were told")
    if len(jobs) != 1:
        found.append(f"jobs stored: {len(jobs)}")
    for job in jobs:
        found += _faults_of_job(deal, job)
        if job.job_id not in ids:
            found.append(f"another job: {job.job_id}")
        if job.blockchain_identifier not in payments:
            found.append(f"another payment: {job.blockchain_identifier}")
    return [f"{deal.purchaser}: {fault}" for fault in found]


def _faults_of_job(deal: Deal, job: Job) -> list[str]:
    found = []
    hash_ = input_hash(deal.purchaser, deal.data)
    if job.input != rfc8785.dumps(deal.data).decode() or job.input_hash != hash_:
        found.append(f"another input: {job.input}, {job.input_hash}")
    answers: list[JsonValue] = [{"colour": [each]} for each in deal.colours]
    hashes = [input_hash(deal.purchaser, each) for each in answers]
    texts = [rfc8785.dumps(each).decode() for each in answers]
    rounds = [(each.text, each.hash) for each in job.inputs or ()]
    if rounds != [*zip(texts, hashes, strict=True)]:
        found.append(f"other answers: {rounds}")
    if deal.acknowledged != hashes:
        found.append(f"acknowledged: {deal.acknowledged} for {hashes}")
    if not is_right(deal, job.result):
        found.append(f"wrong result: {job.result}")
    if deal.results != [job.result]:
        found.append(f"seen: {deal.results}, and stored is {job.result}")
    ranks = [RANKS.get(each, -1) for each in deal.statuses]
    if ranks != sorted(ranks) or -1 in ranks:
        found.append(f"went back: {deal.statuses}")
    return found


def is_right(deal: Deal, result: str | None) -> bool:
    """Return whether a result is the one for this buyer's input and answers."""
    try:
        told = json.loads(result or "{}")
        return bool(told["number"] == deal.data["number"] and told["colours"] == deal.colours)
    except (ValueError, KeyError, TypeError):
        return False


def lost_results(
    jobs: Iterable[Job], notes: Iterable[Note], killed: Mapping[int, float]
) -> list[str]:
    """Return which results were lost, though the worker that had them was not killed.

    Args:
        jobs: all jobs in the broker.
        notes: what the handlers returned.
        killed: when the workers that were killed died, by process.
    """
    stored = {job.job_id: job.result for job in jobs}
    found, returned = [], set()
    for each in notes:
        returned.add((each.job_id, each.result))
        died_at = killed.get(each.process)
        may_be_lost = died_at is not None and died_at - each.at < DELIVERY_S
        if stored.get(each.job_id) != each.result and not may_be_lost:
            found.append(f"{each.job_id}: lost: {each.result}, of a worker that was not killed")
    found += [
        f"{job_id}: never returned: {result}"
        for job_id, result in stored.items()
        if result is not None and (job_id, result) not in returned
    ]
    return found
