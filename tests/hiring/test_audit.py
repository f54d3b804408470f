"""The audit itself: it finds every planted fault, and accepts what is right."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.hiring.audit import DELIVERY_S, Deal, Note, faults_of, lost_results
from tollgate import Job, JobStatus
from tollgate.domain.hashing import input_hash
from tollgate.domain.results import InputRound

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PURCHASER = "aabbccddeeff0011"
TOLD = {"job_id": "id", "blockchainIdentifier": "paid", "payByTime": 1}
RESULT = json.dumps({"number": 7, "colours": ["red", "blue"], "call": "first"})
ANOTHER_CALL = RESULT.replace("first", "second")
RED, BLUE = (input_hash(PURCHASER, {"colour": [each]}) for each in ("red", "blue"))


def deal() -> Deal:
    """Return a deal that went well: hired twice, asked twice."""
    return Deal(
        PURCHASER,
        {"number": 7, "questions": 2},
        ["red", "blue"],
        told=[dict(TOLD), dict(TOLD)],
        statuses=["awaiting_payment", "running", "awaiting_input", "running", "completed"],
        results=[RESULT],
        acknowledged=[RED, BLUE],
    )


def job() -> Job:
    data = {"number": 7, "questions": 2}
    rounds = (
        InputRound(2, text='{"colour":["red"]}', hash=RED),
        InputRound(4, text='{"colour":["blue"]}', hash=BLUE),
    )
    return Job(
        job_id="id", status=JobStatus.COMPLETED, input='{"number":7,"questions":2}',
        input_hash=input_hash(PURCHASER, data), version=6, identifier_from_purchaser=PURCHASER,
        blockchain_identifier="paid", created_at=NOW, updated_at=NOW, result=RESULT, inputs=rounds,
    )  # fmt: skip


@dataclass
class Case:
    deal: Deal = field(default_factory=deal)
    jobs: list[Job] = field(default_factory=lambda: [job()])
    paid: list[str] = field(default_factory=lambda: ["paid"])

    def change(self, **fields: Any) -> None:
        self.jobs[0] = self.jobs[0].model_copy(update=fields)

    def kinds(self) -> set[str]:
        return {fault.split(": ")[1] for fault in faults_of(self.deal, self.jobs, self.paid)}


def test_what_is_right_is_accepted() -> None:
    assert Case().kinds() == set()


def never_hired(case: Case) -> None:
    case.deal = replace(Deal(PURCHASER, case.deal.data, case.deal.colours))
    case.jobs, case.paid = [], []


def no_job(case: Case) -> None:
    case.jobs.clear()


def two_jobs(case: Case) -> None:
    case.jobs.append(job())


def another_job(case: Case) -> None:
    case.change(job_id="other")


def two_jobs_told(case: Case) -> None:
    case.deal.told[1]["job_id"] = "other"


def two_payments_told(case: Case) -> None:
    case.deal.told[1]["blockchainIdentifier"] = "other"


def other_terms_told(case: Case) -> None:
    case.deal.told[1]["payByTime"] = 2


def another_payment(case: Case) -> None:
    case.change(blockchain_identifier="other")


def paid_twice(case: Case) -> None:
    case.paid.append("other")


def paid_another(case: Case) -> None:
    case.paid[:] = ["other"]


def another_input(case: Case) -> None:
    case.change(input='{"number":8,"questions":2}')


def another_input_hash(case: Case) -> None:
    case.change(input_hash="0" * 64)


def result_of_another_input(case: Case) -> None:
    result = RESULT.replace("7", "8")
    case.change(result=result)
    case.deal.results = [result]


def result_of_other_answers(case: Case) -> None:
    result = RESULT.replace("blue", "white")
    case.change(result=result)
    case.deal.results = [result]


def result_that_is_no_json(case: Case) -> None:
    case.change(result="done")
    case.deal.results = ["done"]


def no_result(case: Case) -> None:
    case.change(result=None)
    case.deal.results.clear()


def another_result_seen(case: Case) -> None:
    case.deal.results.insert(0, ANOTHER_CALL)


def no_result_seen(case: Case) -> None:
    case.deal.results.clear()


def answer_lost(case: Case) -> None:
    case.change(inputs=(case.jobs[0].inputs or ())[:1])


def answer_to_another_question(case: Case) -> None:
    case.change(inputs=tuple(reversed(case.jobs[0].inputs or ())))


def another_answer(case: Case) -> None:
    first, second = case.jobs[0].inputs or ()
    case.change(inputs=(first, InputRound(4, text=first.text, hash=second.hash)))


def answer_not_acknowledged(case: Case) -> None:
    case.deal.acknowledged.pop()


def went_back(case: Case) -> None:
    case.deal.statuses.append("running")


def failed(case: Case) -> None:
    case.deal.statuses[-1] = "failed"


def refused(case: Case) -> None:
    case.deal.wrong.append("refused: GET /status: 404")


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        (never_hired, {"never hired", "jobs stored"}),
        (no_job, {"jobs stored"}),
        (two_jobs, {"jobs stored"}),
        (another_job, {"another job"}),
        (two_jobs_told, {"jobs told", "told differently"}),
        (two_payments_told, {"payments told", "told differently", "paid"}),
        (other_terms_told, {"told differently"}),
        (another_payment, {"another payment"}),
        (paid_twice, {"paid"}),
        (paid_another, {"paid"}),
        (another_input, {"another input"}),
        (another_input_hash, {"another input"}),
        (result_of_another_input, {"wrong result"}),
        (result_of_other_answers, {"wrong result"}),
        (result_that_is_no_json, {"wrong result"}),
        (no_result, {"wrong result", "seen"}),
        (another_result_seen, {"seen"}),
        (no_result_seen, {"seen"}),
        (answer_lost, {"other answers"}),
        (answer_to_another_question, {"other answers"}),
        (another_answer, {"other answers"}),
        (answer_not_acknowledged, {"acknowledged"}),
        (went_back, {"went back"}),
        (failed, {"went back"}),
        (refused, {"refused"}),
    ],
)
def test_a_planted_fault_is_found(plant: Callable[[Case], None], kinds: set[str]) -> None:
    case = Case()
    plant(case)
    assert case.kinds() == kinds


STORED, LOST = Note("id", RESULT, 10, 100.0), Note("id", ANOTHER_CALL, 11, 90.0)


@pytest.mark.parametrize(
    ("notes", "killed", "kinds"),
    [
        ([STORED], {}, []),
        ([LOST, STORED], {11: 90.5}, []),
        ([LOST, STORED], {}, ["lost"]),
        ([LOST, STORED], {10: 90.5}, ["lost"]),
        ([LOST, STORED], {11: 90.5 + DELIVERY_S}, ["lost"]),
        ([LOST], {11: 90.5}, ["never returned"]),
        ([], {}, ["never returned"]),
    ],
)
def test_a_lost_result_is_found(
    notes: list[Note], killed: dict[int, float], kinds: list[str]
) -> None:
    found = lost_results([job()], notes, killed)
    assert [fault.split(": ")[1] for fault in found] == kinds
