"""More broken situations, made for real: what an operator types first names the cause.

tests/test_broken_situations.py has the first twelve.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.broker.access.key_commands import new_key
from tests.brokers import running_broker
from tests.test_broken_situations import HASH, HOUR, found, running, told, worker_of
from tollgate import diagnosis
from tollgate.client.sync import Client
from tollgate.diagnosis import findings
from tollgate.domain.exceptions import NotAuthorizedError
from tollgate.explaining import reasons
from tollgate.testing import Broker


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(pay_within_ms=30 * 86_400_000) as broker:
        yield broker


@pytest.fixture
def client(broker: Broker) -> Client:
    return broker.connect(name="shop")


def test_a_queue_name_that_is_misspelt(broker: Broker, client: Client) -> None:
    for queue in ("mail", "draw", "read", "sing"):
        broker.connect(name=f"worker@{queue}").claim("running", queues=queue)
    running(client, queue="mails")
    text = found(client, "no_worker").text
    assert text == (
        "no client claims the 1 ready job of queue mails, the oldest for 0 s; claimed is mail"
    )


def test_a_gateway_with_another_queue_than_the_worker(broker: Broker, client: Client) -> None:
    worker_of(broker).claim("running", queues="gallery")
    running(client, queue="draw")
    assert found(client, "no_worker").text.endswith("; claimed is gallery")


def test_two_workers_share_a_name_and_one_is_lost(broker: Broker, client: Client) -> None:
    lost, lives = worker_of(broker), worker_of(broker)
    job_id = running(client)
    lost.claim("running", lease_ms=600_000)
    for _ in range(7):
        broker.advance(timedelta(minutes=1))
        lives.claim("running")
    text = told(client, job_id, "holder_silent").text
    assert text.startswith("worker@gpu (")
    assert text.endswith(") has not touched the lease for 7 min: is it lost?")


def test_a_job_of_a_low_priority_starves(client: Client) -> None:
    low = running(client, priority=7)
    for _ in range(30):
        running(client)
    assert told(client, low, "behind").text == (
        "30 ready jobs of this or a better priority come before it; its own is 7, and it waits as"
        " long as there are better ones"
    )


def test_no_worker_counts_more_than_the_jobs_before(client: Client) -> None:
    running(client)
    codes = [each.code for each in reasons(client.explain(running(client)))]
    assert codes == ["no_claims", "behind"]


def test_a_worker_that_is_too_old_fails_every_job(broker: Broker, client: Client) -> None:
    old = broker.connect(name="worker@v1")
    job_id = running(client)
    (lease,) = old.claim("running")
    old.transition(job_id, "failed", lease=lease.token, error="inputs of version 2 are not known")
    text = told(client, job_id, "failed").text
    assert text.startswith("it has failed, by worker@v1 (")
    assert text.endswith("): inputs of version 2 are not known")


def test_a_job_that_failed_at_a_deadline_names_no_client(broker: Broker, client: Client) -> None:
    job = client.create(HASH, pay_by_time=broker.now + HOUR)
    broker.advance(5 * HOUR)
    assert told(client, job.job_id, "failed").text.startswith("it has failed: ")


def test_a_hold_that_was_forgotten(broker: Broker, client: Client) -> None:
    job_id = running(client, queue="mail")
    client.hold(job_id, reason="crashes the model")
    broker.advance(40 * HOUR)
    assert found(client, "on_hold").text == "1 job on hold, of queue mail"
    assert "put on hold 1 d ago, by shop" in told(client, job_id, "on_hold").text


def test_a_job_that_is_delayed_to_next_year(broker: Broker, client: Client) -> None:
    job_id = running(client, not_before=broker.now + timedelta(days=400))
    assert told(client, job_id, "delayed").text.endswith("can be claimed in 400 d")


def test_questions_without_an_answer(broker: Broker, client: Client) -> None:
    worker = worker_of(broker)
    for _ in range(3):
        job_id = running(client)
        (lease,) = worker.claim("running")
        worker.transition(job_id, "awaiting_input", lease=lease.token, input_schema="{}")
    assert "unanswered" not in {each.code for each in findings(client.stats())}
    broker.advance(49 * HOUR)
    assert found(client, "unanswered").text == "3 jobs asked something, the first 2 d ago"
    assert "has not been answered" in told(client, job_id, "needs_input").text


def test_a_watcher_that_waits_is_no_worker(broker: Broker, client: Client) -> None:
    """A claim of all queues for settlements takes no running job."""
    running(client, queue="mail")
    watcher = broker.connect(name="payments@1")
    watcher.claim(settlement="wanted")
    assert "queue mail" in found(client, "no_worker").text


def test_a_key_with_another_role(short_dir: Path) -> None:
    admin, wrong = new_key(short_dir, "ops"), new_key(short_dir, "gpu", "producer")
    with running_broker(short_dir, keys=short_dir / "keys") as broker:
        with (
            Client(broker.tcp, key=wrong, name="worker@gpu") as worker,
            pytest.raises(NotAuthorizedError),
        ):
            worker.claim("running")
        with Client(broker.tcp, key=admin) as client:
            text = found(client, "not_authorized").text
    assert text.startswith("1 command lacked a role, the last ")
    assert text.endswith(": claim by worker@gpu (key:gpu)")


def test_a_client_that_leaks(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "CONNECTIONS_OF_ONE", 20)
    with running_broker(short_dir) as broker, Client(broker.endpoint, name="shop") as client:
        leaked = [Client(broker.endpoint, name="web@1") for _ in range(21)]
        for each in leaked[:20]:
            each.create(HASH)
        assert found(client, "many_connections").text.startswith("web@1 opens many of the ")
        for each in leaked:
            each.close()
