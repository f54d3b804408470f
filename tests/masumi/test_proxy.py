"""What lies between watcher and service: no answer of it is taken for a word of the service."""

import pytest

from tests.masumi.conftest import Town
from tests.payment_service.proxy import Answer

JSON = {"Content-Type": "application/json"}
ELSEWHERE = {"Content-Type": "text/html", "Location": "http://127.0.0.1:1/"}
ANSWERS = [
    Answer(302, headers=ELSEWHERE),
    Answer(403),
    Answer(404, b'{"message": "no Route matched"}', JSON),
    Answer(405),
    Answer(413),
]
PLANNED = pytest.mark.parametrize("answer", ANSWERS, ids=[str(each.status) for each in ANSWERS])
IN_2100 = {"Date": "Fri, 01 Jan 2100 00:00:00 GMT"}


@PLANNED
async def test_no_answer_of_a_proxy_loses_a_payment(town: Town, answer: Answer) -> None:
    job = await town.hire_paid_before()
    town.server.proxy.plan("resolve", answer, answer)  # it is asked for again at once
    await town.rounds(1)
    assert await town.status(job) == "awaiting_payment"
    await town.rounds(1)
    assert await town.status(job) == "running"


@PLANNED
async def test_no_answer_of_a_proxy_gives_up_a_settlement(town: Town, answer: Answer) -> None:
    jobs = [await town.completed(f"result {number}") for number in range(8)]
    town.server.proxy.plan("resolve", *[answer] * len(jobs))
    await town.watcher.submit_results()
    assert {await town.state(job) for job in jobs} == {"wanted"}
    assert [await town.settled(job) for job in jobs] == ["confirmed"] * len(jobs)


async def test_an_answer_about_another_payment_opens_no_gate(town: Town) -> None:
    paid, unpaid = await town.hire(), await town.hire()
    town.service.lock_funds(paid.blockchain_identifier)
    town.change(
        "resolve", blockchainIdentifier=paid.blockchain_identifier, onChainState="FundsLocked"
    )
    await town.rounds(2)
    assert await town.status(paid) == "running"
    assert await town.status(unpaid) == "awaiting_payment"


async def test_an_answer_about_another_payment_submits_nothing(town: Town) -> None:
    job, other = await town.completed(), await town.hire()
    town.service.lock_funds(other.blockchain_identifier)
    town.change("resolve", blockchainIdentifier=other.blockchain_identifier)
    await town.step()
    assert not town.service.accepted
    town.server.proxy.changes.clear()
    assert await town.settled(job) == "confirmed"


async def test_the_date_of_an_error_page_refuses_nothing(town: Town) -> None:
    job = await town.completed()
    town.server.proxy.plan("diff", *[Answer(502, headers=IN_2100)] * 6)
    await town.rounds(3)
    assert await town.settled(job) == "confirmed"


async def test_one_wrong_date_ends_no_job(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await town.hire()
    await town.watcher.open_gates()
    town.service.lock_funds(job.blockchain_identifier)
    town.server.proxy.plan("resolve", Answer(404, REFUSAL, JSON | IN_2100))
    await town.hire()  # it is asked about first
    await town.watcher.open_gates()
    assert await town.status(job) == "running"


async def test_cookies_are_not_kept(town: Town) -> None:
    service = town.new_service()
    for number in range(200):
        cookie = {"Set-Cookie": f"c{number}={'x' * 400}"}
        town.server.proxy.plan("resolve", Answer(404, REFUSAL, JSON | cookie))
        assert await service.resolve("nothing") is None  # not 431, for headers that are too large
    assert await service.resolve("nothing") is None


REFUSAL = b'{"status": "error", "error": {"message": "Payment not found"}}'
