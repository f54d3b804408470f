"""Pages of payments: their order, their filters and what moves between two of them."""

import random
from typing import Any

import pytest

from tests.payment_service.caller import Clock
from tests.payment_service.service import (
    DIFF_BOTH,
    DIFF_ON_CHAIN,
    MAINNET,
    PREPROD,
    V2,
    PaymentService,
    ServiceError,
    iso,
)
from tests.payment_service.states import OnChainState

CHANGED = "nextActionOrOnChainStateOrResultLastChangedAt"


def diff(service: PaymentService, **query: Any) -> list[dict[str, Any]]:
    found = service.diff({"network": PREPROD, **query}, service.key)["Payments"]
    assert isinstance(found, list)
    return found


def listed(service: PaymentService, **query: Any) -> list[str]:
    found = service.list({"network": PREPROD, **query}, service.key)["Payments"]
    return [payment["id"] for payment in found]


def every(service: PaymentService, limit: int, since: str = "1970-01-01T00:00:00Z") -> list[str]:
    """Read page after page, as a client does."""
    found: list[str] = []
    query: dict[str, Any] = {"lastUpdate": since, "limit": limit}
    while True:
        page = diff(service, **query)
        found += [payment["id"] for payment in page if payment["id"] != query.get("cursorId")]
        if len(page) < limit:
            return found
        query |= {"lastUpdate": page[-1][CHANGED], "cursorId": page[-1]["id"]}


@pytest.mark.parametrize("limit", [2, 3, 7, 100])
def test_pages_join_without_a_gap(service: PaymentService, clock: Clock, limit: int) -> None:
    for number in range(50):
        service.create()
        clock.now_s += number % 3  # many changes have the same time
    ids = every(service, limit)
    assert sorted(ids) == sorted(payment.id for payment in service.payments.values())
    assert len(ids) == 50


def test_the_oldest_change_comes_first(service: PaymentService, clock: Clock) -> None:
    first, second = service.create(), service.create()
    clock.now_s += 1
    service.lock_funds(first["blockchainIdentifier"])
    assert [payment["id"] for payment in diff(service)] == [second["id"], first["id"]]


def test_equal_times_are_ordered_by_id(service: PaymentService) -> None:
    ids = sorted(service.create()["id"] for _ in range(20))
    assert [payment["id"] for payment in diff(service, limit=100)] == ids


def test_the_time_and_the_cursor_are_inclusive(service: PaymentService, clock: Clock) -> None:
    ids = sorted(service.create()["id"] for _ in range(3))
    since = diff(service)[0][CHANGED]
    clock.now_s += 1
    ids.append(service.create()["id"])
    assert [payment["id"] for payment in diff(service, lastUpdate=since)] == ids
    after = diff(service, lastUpdate=since, cursorId=ids[1])
    assert [payment["id"] for payment in after] == ids[1:]


def test_a_repeat_that_fails_moves_nothing(service: PaymentService, clock: Clock) -> None:
    payment = service.create()
    before = diff(service)
    clock.now_s += 1
    body = {
        "network": PREPROD,
        "blockchainIdentifier": payment["blockchainIdentifier"],
        "submitResultHash": "ab" * 32,
    }
    with pytest.raises(ServiceError):
        service.submit_result(body, service.key)
    assert diff(service) == before


def test_changes_of_the_chain_alone_can_be_asked_for(service: PaymentService, clock: Clock) -> None:
    identifier = service.create()["blockchainIdentifier"]

    def changed() -> tuple[int, int]:
        """Return how many payments changed now: in all, and on the chain."""
        query = {"network": PREPROD, "lastUpdate": iso(service.now_ms)}
        both, chain = (
            service.diff(query, service.key, by=by)["Payments"] for by in (DIFF_BOTH, DIFF_ON_CHAIN)
        )
        clock.now_s += 1
        return len(both), len(chain)

    assert changed() == (1, 1)
    service.lock_funds(identifier)
    assert changed() == (1, 1)
    service.submit_result(
        {"network": PREPROD, "blockchainIdentifier": identifier, "submitResultHash": "ab" * 32},
        service.key,
    )
    assert changed() == (1, 0)
    service.tick()
    assert changed() == (1, 0)
    service.tick()
    assert changed() == (1, 1)
    assert changed() == (0, 0)


def test_a_late_change_appears_with_an_older_time(clock: Clock) -> None:
    service = PaymentService(seed=1, clock=clock, late_ms=5_000)
    identifiers = [service.create()["blockchainIdentifier"] for _ in range(20)]
    clock.now_s += 60
    for identifier in identifiers:
        service.lock_funds(identifier)
    times = {payment[CHANGED] for payment in diff(service, limit=100)}
    assert len(times) > 10
    assert max(times) <= "2027-01-15T08:01:00.000Z"
    assert min(times) >= "2027-01-15T08:00:55.000Z"


def test_a_change_can_hide_before_the_cursor(service: PaymentService) -> None:
    low, high = sorted((service.create() for _ in range(2)), key=lambda payment: payment["id"])
    page = diff(service)
    query = {"lastUpdate": page[-1][CHANGED], "cursorId": page[-1]["id"]}
    service.lock_funds(low["blockchainIdentifier"])  # in the same millisecond
    assert [payment["id"] for payment in diff(service, **query)] == [high["id"]]
    del query["cursorId"]
    assert diff(service, **query)[0]["onChainState"] == "FundsLocked"


@pytest.mark.parametrize("seed", range(20))
def test_with_an_overlap_no_change_is_missed(clock: Clock, seed: int) -> None:
    service = PaymentService(seed=seed, clock=clock, late_ms=3)
    random_ = random.Random(seed)
    identifiers = [service.create()["blockchainIdentifier"] for _ in range(60)]
    seen: dict[str, Any] = {}
    start = clock.now_s
    for step in range(200):
        query: dict[str, Any] = {"limit": 7, "lastUpdate": iso(int(start * 1000) - 10)}
        start = clock.now_s
        while True:
            page = diff(service, **query)
            seen |= {payment["id"]: payment["onChainState"] for payment in page}
            if step < 150:
                clock.now_s += random_.choice([0, 0, 0.001])
                _change(service, random_.choice(identifiers))
            if len(page) < 7:
                break
            query |= {"lastUpdate": page[-1][CHANGED], "cursorId": page[-1]["id"]}
    assert seen == {payment.id: payment.on_chain_state for payment in service.payments.values()}


def _change(service: PaymentService, identifier: str) -> None:
    state = service.payments[identifier].on_chain_state
    if state is None:
        service.lock_funds(identifier)
    elif state is OnChainState.FUNDS_LOCKED:
        service.request_refund(identifier)
    elif state is OnChainState.REFUND_REQUESTED:
        service.move(identifier, OnChainState.FUNDS_LOCKED)


def test_by_default_only_version_1_is_shown(service: PaymentService) -> None:
    first = service.create()
    second = service.create(
        agentIdentifier=service.agent_of(source_type=V2), supportedPaymentSourceIndex=0
    )
    address = second["PaymentSource"]["smartContractAddress"]
    for read in (listed, lambda *a, **k: [p["id"] for p in diff(*a, **k)]):
        assert read(service) == [first["id"]]
        assert read(service, filterPaymentSourceType=V2) == [second["id"]]
        assert read(service, filterSmartContractAddress=address) == [second["id"]]
    body = {"network": PREPROD, "blockchainIdentifier": second["blockchainIdentifier"]}
    assert service.resolve(body, service.key)["id"] == second["id"]


def test_networks_are_apart(service: PaymentService) -> None:
    payment = service.create(network=MAINNET, agentIdentifier=service.agent_of(MAINNET))
    assert not diff(service)
    query = {"network": MAINNET}
    assert service.diff(query, service.key)["Payments"][0]["id"] == payment["id"]
    body = {"network": PREPROD, "blockchainIdentifier": payment["blockchainIdentifier"]}
    with pytest.raises(ServiceError, check=lambda error: error.status == 404):
        service.resolve(body, service.key)
    with pytest.raises(ServiceError, check=lambda error: error.status == 401):
        service.diff(query, service.add_key(networks=(PREPROD,)))


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 101},
        {"limit": "many"},
        {"lastUpdate": "1800000000000"},
        {"lastUpdate": "2027-01-15T08:00:00+00:00"},
        {"filterPaymentSourceType": "Web3CardanoV3"},
        {"network": None},
    ],
)
def test_an_invalid_query_is_refused(service: PaymentService, query: dict[str, Any]) -> None:
    with pytest.raises(ServiceError, check=lambda error: error.status == 400):
        diff(service, **query)


def test_the_list_begins_with_the_newest(service: PaymentService, clock: Clock) -> None:
    ids: list[str] = []
    for _ in range(5):
        ids.insert(0, service.create()["id"])
        clock.now_s += 1
    assert listed(service) == ids
    assert listed(service, limit=2, cursorId=ids[1]) == ids[1:3]
    assert listed(service, cursorId="unknown") == []


def test_the_list_can_be_filtered_by_state(service: PaymentService) -> None:
    created, locked, invalid = (service.create() for _ in range(3))
    service.lock_funds(locked["blockchainIdentifier"])
    service.lock_funds(invalid["blockchainIdentifier"], valid=False)
    assert listed(service, filterOnChainState="FundsLocked") == [locked["id"]]
    assert listed(service, filterNeedsManualAction="true") == [invalid["id"]]
    assert created["id"] in listed(service)
