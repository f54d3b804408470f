"""However many queues there are, a scrape has few rows, and they add up."""

from pathlib import Path

import pytest

from tests.brokers import running_broker
from tests.metrics.running import running_metrics, values
from tollgate.client.sync import Client
from tollgate.metrics.families import QUEUES_MAX

HASH = "0123456789abcdef" * 4


@pytest.mark.parametrize("number", [QUEUES_MAX, QUEUES_MAX + 30])
def test_the_rest_of_the_queues_is_one_row(short_dir: Path, tmp_path: Path, number: int) -> None:
    with (
        running_broker(short_dir) as broker,
        running_metrics(tmp_path, broker.endpoint) as exporter,
        Client(broker.endpoint) as client,
    ):
        names = [f"q{each}" for each in range(number)]
        # Queues with more jobs come first: these two jobs are in a row of their own.
        client.create_many([{"input_hash": HASH, "queue": name} for name in [*names, "q7"]])
        families = exporter.scrape()
    jobs = families["tollgate_jobs"]
    shown = {sample.labels["queue"] for sample in jobs.samples}
    assert len(shown) == QUEUES_MAX + 1
    assert values(jobs, queue="q7", status="awaiting_payment") == [2]
    assert values(jobs, queue="other", status="awaiting_payment") == [number - QUEUES_MAX]
    assert sum(values(jobs)) == number + 1
    assert values(families["tollgate_queues"]) == [number]
    ready = families["tollgate_claimable_jobs"]
    assert sum(values(ready, status="awaiting_payment", kind="ready")) == number + 1
    assert len(families["tollgate_queue_paused"].samples) == QUEUES_MAX
    ages = values(families["tollgate_oldest_job_age_seconds"], queue="other")
    assert len(ages) == (1 if number > QUEUES_MAX else 0)


def test_a_queue_named_other_is_among_the_rest(short_dir: Path, tmp_path: Path) -> None:
    with (
        running_broker(short_dir) as broker,
        running_metrics(tmp_path, broker.endpoint) as exporter,
        Client(broker.endpoint) as client,
    ):
        client.create_many([{"input_hash": HASH, "queue": name} for name in ("other", "mail")])
        jobs = exporter.scrape()["tollgate_jobs"]
    for queue in ("other", "mail"):
        assert values(jobs, queue=queue, status="awaiting_payment") == [1]
