"""The audit itself: it finds every planted fault, and accepts a correct job."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.payment_service.payment import Payment
from tests.payment_service.service import PaymentService
from tests.settlement.audit import PURCHASER, faults_of
from tollgate import Job, JobStatus
from tollgate.client.results import History
from tollgate.domain.hashing import output_hash_as_deployed
from tollgate.domain.results import HistoryEntry, Settlement
from tollgate.domain.settlement import SettlementState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HASH = output_hash_as_deployed(PURCHASER, "the result")
FOREIGN = output_hash_as_deployed(PURCHASER, "another result")
COMPLETED = HistoryEntry(NOW, "moved", to="completed")


def payment() -> Payment:
    service = PaymentService()
    made = service.create()
    return replace(service.payments[made["blockchainIdentifier"]], result_hash=HASH)


@dataclass
class Case:
    """A correct job: its hash was accepted once, and is on chain."""

    payment: Payment = field(default_factory=payment)
    accepted: list[str] = field(default_factory=lambda: [HASH])
    entries: list[HistoryEntry] = field(default_factory=lambda: [COMPLETED])
    changes: dict[str, Any] = field(default_factory=dict)

    def kinds(self) -> set[str]:
        fields: dict[str, Any] = {
            "job_id": "id", "status": JobStatus.COMPLETED, "input_hash": "0" * 64, "version": 3,
            "identifier_from_purchaser": PURCHASER,
            "blockchain_identifier": self.payment.identifier, "created_at": NOW,
            "updated_at": NOW, "result": "the result",
            "settlement": Settlement(SettlementState.CONFIRMED, NOW), **self.changes,
        }  # fmt: skip
        history = History("id", self.entries, 0, None, "")
        found = faults_of(Job(**fields), history, self.payment, self.accepted)
        return {fault.split(": ")[1] for fault in found}


def test_a_correct_job_is_accepted() -> None:
    assert Case().kinds() == set()


def failing(case: Case, *accepted: str) -> Case:
    """Return the case with one failure at the service, and what was accepted in all."""
    error = replace(case.payment.next_action, error_type="Unknown")
    case.payment.actions.append(error)
    case.accepted[:] = accepted
    return case


def test_a_hash_is_accepted_again_after_a_failure() -> None:
    assert failing(Case(), HASH, HASH).kinds() == set()
    assert failing(Case(), HASH, HASH, HASH).kinds() == {"twice"}
    assert failing(Case(), FOREIGN, HASH).kinds() == {"foreign"}


def lost(case: Case) -> None:
    case.accepted.clear()


def twice(case: Case) -> None:
    case.accepted.append(HASH)


def foreign(case: Case) -> None:
    case.accepted[:] = [FOREIGN]


def foreign_on_chain(case: Case) -> None:
    case.payment.result_hash = FOREIGN


def not_on_chain(case: Case) -> None:
    case.payment.result_hash = ""


def not_confirmed(case: Case) -> None:
    case.changes["settlement"] = Settlement(SettlementState.SUBMITTED, NOW)


def without_settlement(case: Case) -> None:
    case.changes["settlement"] = None


def not_completed(case: Case) -> None:
    case.changes |= {"status": JobStatus.RUNNING, "result": None}


def completed_twice(case: Case) -> None:
    case.entries.append(COMPLETED)


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        (lost, {"lost"}),
        (twice, {"twice"}),
        (foreign, {"foreign"}),
        (foreign_on_chain, {"foreign", "not on chain"}),
        (not_on_chain, {"not on chain"}),
        (not_confirmed, {"not confirmed"}),
        (without_settlement, {"not confirmed"}),
        (not_completed, {"not completed"}),
        (completed_twice, {"completed 2 times"}),
    ],
)
def test_a_planted_fault_is_found(plant: Callable[[Case], None], kinds: set[str]) -> None:
    case = Case()
    plant(case)
    assert case.kinds() == kinds
