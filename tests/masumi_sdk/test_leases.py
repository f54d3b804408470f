"""The thread that keeps leases, with a real broker."""

import threading
import time
from collections.abc import Iterator

import pytest

from tests.brokers import PATIENCE_S, BrokerProcess
from tollgate import Client, Lease, LeaseLostError
from tollgate.domain.hashing import input_hash
from tollgate.masumi.sdk.leases import STOPPED, Held, LeaseKeeper

LEASE_MS = 1_000
HASH = input_hash("", {})


class Keeping:
    """A keeper, and what it has lost."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.lost: list[Held] = []
        self.told = threading.Event()
        self.keeper = LeaseKeeper(
            lambda timeout_s: Client(broker.endpoint, timeout_s=timeout_s), LEASE_MS, self._lose
        )

    def _lose(self, held: Held) -> None:
        self.lost.append(held)
        self.told.set()


@pytest.fixture
def client(shared_broker: BrokerProcess) -> Iterator[Client]:
    with Client(shared_broker.endpoint) as client:
        yield client


@pytest.fixture
def keeping(shared_broker: BrokerProcess) -> Iterator[Keeping]:
    keeping = Keeping(shared_broker)
    yield keeping
    keeping.keeper.close()


def running(client: Client, lease_ms: int = LEASE_MS) -> Lease:
    job = client.create(HASH)
    client.transition(job.job_id, "running")
    (lease,) = client.claim("running", job_ids=job.job_id, lease_ms=lease_ms)
    return lease


def wait_until_lapsed(client: Client, lease: Lease) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while client.get(lease.job.job_id, lease=True).lease is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_lease_outlives_a_blocked_main_thread(client: Client, keeping: Keeping) -> None:
    keeping.keeper.start()
    held = keeping.keeper.hold(running(client), works=True)
    time.sleep(2.5 * LEASE_MS / 1_000)
    client.touch(held.job_id, held.token)
    assert keeping.keeper.tokens == {held.job_id: held.token}
    assert not keeping.lost


def test_a_dropped_lease_lapses(client: Client, keeping: Keeping) -> None:
    keeping.keeper.start()
    lease = running(client)
    keeping.keeper.drop(keeping.keeper.hold(lease, works=True))
    wait_until_lapsed(client, lease)
    assert keeping.keeper.tokens == {}
    assert not keeping.lost


def test_a_later_lease_is_not_dropped_with_an_earlier(client: Client, keeping: Keeping) -> None:
    lease = running(client)
    earlier = keeping.keeper.hold(lease, works=False)
    later = keeping.keeper.hold(lease, works=True)
    keeping.keeper.drop(earlier)
    assert keeping.keeper.holder(lease.job.job_id) is later


def test_a_lapsed_lease_is_granted_again(client: Client, keeping: Keeping) -> None:
    lease = running(client, lease_ms=1)
    wait_until_lapsed(client, lease)
    held = keeping.keeper.hold(lease, works=True)
    keeping.keeper.start()
    deadline = time.monotonic() + PATIENCE_S
    while held.token == lease.token:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.touch(held.job_id, held.token)
    assert keeping.keeper.tokens == {held.job_id: held.token}
    assert not keeping.lost


def test_a_job_of_another_process_is_lost(client: Client, keeping: Keeping) -> None:
    lease = running(client, lease_ms=1)
    wait_until_lapsed(client, lease)
    client.claim("running", job_ids=lease.job.job_id)
    held = keeping.keeper.hold(lease, works=True)
    keeping.keeper.start()
    assert keeping.told.wait(PATIENCE_S)
    assert keeping.lost == [held]
    assert keeping.keeper.all() == []


@pytest.mark.parametrize("works", [True, False])
def test_a_job_that_another_moved_is_lost(client: Client, keeping: Keeping, works: bool) -> None:
    """It is free again, and what this process knows of it is out of date."""
    lease = running(client, lease_ms=1)
    wait_until_lapsed(client, lease)
    if works:
        client.transition(lease.job.job_id, "awaiting_input")
    held = keeping.keeper.hold(lease, works=works)
    keeping.keeper.start()
    assert keeping.told.wait(PATIENCE_S)
    assert keeping.lost == [held]
    assert client.get(lease.job.job_id, lease=True).lease is None


def test_it_goes_on_when_the_broker_is_back(short_dir: object, tmp_path: object) -> None:
    broker = BrokerProcess(short_dir, data_dir=f"{tmp_path}/data")  # type: ignore[arg-type]
    broker.wait_until_ready()
    keeping = Keeping(broker)
    try:
        with Client(broker.endpoint) as client:
            held = keeping.keeper.hold(running(client), works=True)
            keeping.keeper.start()
            broker.kill()
            time.sleep(2 * LEASE_MS / 1_000)
            broker.restart()
            time.sleep(2 * LEASE_MS / 1_000)
            client.touch(held.job_id, held.token)
            assert not keeping.lost
            with pytest.raises(LeaseLostError):
                client.touch(held.job_id, held.token + 1)
    finally:
        keeping.keeper.close()
        broker.kill()


def test_a_lease_that_lapsed_before_a_stop_is_put_off(client: Client, keeping: Keeping) -> None:
    lease = running(client)
    held = keeping.keeper.hold(lease, works=True)
    client.release(held.job_id, held.token)
    keeping.keeper.leave()
    keeping.keeper.start()
    deadline = time.monotonic() + PATIENCE_S
    while STOPPED not in {each.reason for each in client.history(held.job_id).entries}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert keeping.keeper.holder(held.job_id) is held


def test_a_job_that_another_took_is_not_put_off(client: Client, keeping: Keeping) -> None:
    held = keeping.keeper.hold(running(client), works=True)
    client.release(held.job_id, held.token)
    (other,) = client.claim("running", job_ids=held.job_id, lease_ms=60_000)
    keeping.keeper.leave()
    keeping.keeper.start()
    deadline = time.monotonic() + PATIENCE_S
    while keeping.keeper.all():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.touch(held.job_id, other.token)
