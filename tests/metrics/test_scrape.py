"""What a scrape of a real broker shows: each status, each kind, names and types."""

import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from tests.brokers import BrokerProcess, running_broker
from tests.metrics.running import MetricsProcess, running_metrics, value, values
from tollgate.client.sync import Client
from tollgate.domain.exceptions import JobNotFoundError, RepositoryFullError
from tollgate.domain.status import JobStatus

HASH = "0123456789abcdef" * 4
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "operations.md"
PATHS: dict[str, tuple[str, ...]] = {
    "awaiting_payment": (),
    "awaiting_input": ("running", "awaiting_input"),
    "running": ("running",),
    "completed": ("running", "completed"),
    "failed": ("failed",),
}
"""The moves that lead to each status."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    directory = tmp_path_factory.mktemp("b")
    with running_broker(directory, data_dir=directory / "data") as broker:
        yield broker


@pytest.fixture(scope="module")
def client(broker: BrokerProcess) -> Iterator[Client]:
    with Client(broker.endpoint, name="producer@secret-host:7") as client:
        yield client


@pytest.fixture(scope="module")
def exporter(
    broker: BrokerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MetricsProcess]:
    with running_metrics(tmp_path_factory.mktemp("m"), broker.endpoint) as exporter:
        yield exporter


def create(client: Client, queue: str, status: str) -> str:
    job_id = client.create(HASH, queue=queue).job_id
    for target in PATHS[status]:
        texts: dict[str, Any] = {
            "completed": {"result": "r"}, "failed": {"error": "e"},
            "awaiting_input": {"input_schema": "{}"},
        }.get(target, {})  # fmt: skip
        client.transition(job_id, target, **texts)
    return job_id


@pytest.mark.parametrize("status", [each.value for each in JobStatus])
def test_each_status_is_counted(client: Client, exporter: MetricsProcess, status: str) -> None:
    queue = f"each-{status}"
    jobs = exporter.scrape()["tollgate_jobs"]
    assert values(jobs, queue=queue) == []
    for _ in range(3):
        create(client, queue, status)
    after = exporter.scrape()
    for each in JobStatus:
        expected = 3 if each == status else 0
        assert value(after["tollgate_jobs"], queue=queue, status=each.value) == expected
    assert value(after["tollgate_oldest_job_age_seconds"], queue=queue, status=status) >= 0
    before = sum(values(jobs, status=status))
    assert sum(values(after["tollgate_jobs"], status=status)) == before + 3


def test_jobs_that_can_be_claimed_are_counted_by_kind(
    client: Client, exporter: MetricsProcess
) -> None:
    ids = [create(client, "kinds", "running") for _ in range(4)]
    client.claim("running", queue="kinds", lease_ms=60_000)
    client.hold(ids[3])
    kinds = exporter.scrape()["tollgate_claimable_jobs"]
    assert {
        each.labels["kind"]: each.value
        for each in kinds.samples
        if (each.labels["queue"], each.labels["status"]) == ("kinds", "running")
    } == {"ready": 2, "leased": 1, "on_hold": 1, "delayed": 0, "paused": 0}
    assert values(kinds, status="completed") == []


def test_settlements_are_counted(client: Client, exporter: MetricsProcess) -> None:
    job = client.create(HASH, queue="settled", settle=True, blockchain_identifier="chain-1")
    families = exporter.scrape()
    settlements = families["tollgate_settlements"]
    assert value(settlements, queue="settled", state="pending") == 1
    assert value(settlements, queue="settled", state="confirmed") == 0
    client.transition(job.job_id, "running")
    client.transition(job.job_id, "completed", result="r")
    families = exporter.scrape()
    assert value(families["tollgate_settlements"], queue="settled", state="wanted") == 1
    kinds = families["tollgate_claimable_settlements"]
    assert value(kinds, queue="settled", state="wanted", kind="ready") == 1


def test_a_paused_queue_is_shown(client: Client, exporter: MetricsProcess) -> None:
    create(client, "still", "running")
    assert value(exporter.scrape()["tollgate_queue_paused"], queue="still") == 0
    client.pause_queue("still")
    assert value(exporter.scrape()["tollgate_queue_paused"], queue="still") == 1


def test_commands_and_refusals_are_counted(client: Client, exporter: MetricsProcess) -> None:
    before = exporter.scrape()
    create(client, "counted", "running")
    with pytest.raises(JobNotFoundError):
        client.get("0" * 8 + "-0000-4000-8000-" + "0" * 12)
    after = exporter.scrape()

    def grown(name: str, **labels: str) -> float:
        return value(after[name], **labels) - sum(values(before[name], **labels))

    assert grown("tollgate_commands", command="create") == 1
    assert grown("tollgate_commands_refused", command="get", code="job_not_found") == 1


def test_names_types_and_help(client: Client, exporter: MetricsProcess) -> None:
    create(client, "named", "completed")
    families = exporter.scrape()
    assert len(families) > 30
    for name, family in families.items():
        assert name.startswith("tollgate_")
        assert family.documentation.endswith("."), name
        assert family.type in {"counter", "gauge", "histogram"}, name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert "secret-host" not in str(sample.labels)
    lines = exporter.get("/metrics").text.splitlines()
    for kind in ("HELP", "TYPE"):
        told = [line.split()[2] for line in lines if line.startswith(f"# {kind} ")]
        assert len(told) == len(set(told)) == len(families)


def test_the_metrics_of_the_guide_exist(client: Client, exporter: MetricsProcess) -> None:
    create(client, "told", "completed")
    rows = [line for line in GUIDE.read_text().splitlines() if line.startswith("| `tollgate_")]
    told = {name for row in rows for name in re.findall(r"tollgate_\w+", row)}
    assert len(told) > 20
    families = exporter.scrape()
    assert told - {*families} - {f"{name}_total" for name in families} == set()


def test_no_sample_is_there_twice(client: Client, exporter: MetricsProcess) -> None:
    create(client, "other", "running")  # the name of the row for the rest
    create(client, "one", "running")
    seen = [
        (sample.name, *sorted(sample.labels.items()))
        for family in exporter.scrape().values()
        for sample in family.samples
    ]
    assert len(seen) == len(set(seen))


def test_histograms_are_cumulative(client: Client, exporter: MetricsProcess) -> None:
    create(client, "timed", "completed")
    families = exporter.scrape()
    found = [family for family in families.values() if family.type == "histogram"]
    assert {"tollgate_job_status_seconds", "tollgate_loop_step_seconds"} <= {
        family.name for family in found
    }
    counted = 0.0
    for family in found:
        buckets = defaultdict(list)
        for sample in family.samples:
            labels = dict(sample.labels)
            bound = labels.pop("le", None)
            if bound is not None:
                buckets[tuple(labels.items())].append((float(bound), sample.value))
        for labels_of, rows in buckets.items():
            assert rows == sorted(rows)
            assert [count for _, count in rows] == sorted(count for _, count in rows)
            assert rows[-1][0] == float("inf")
            (count,) = [
                sample.value
                for sample in family.samples
                if sample.name == f"{family.name}_count"
                and tuple(sample.labels.items()) == labels_of
            ]
            assert rows[-1][1] == count
            counted += count
    assert counted > 0


def test_journal_of_a_durable_broker(exporter: MetricsProcess) -> None:
    families = exporter.scrape()
    assert value(families["tollgate_journal_bytes"]) > 0
    assert value(families["tollgate_journal_free_bytes"]) > 0
    assert value(families["tollgate_writable"]) == 1


def test_openmetrics_if_asked_for(exporter: MetricsProcess) -> None:
    answer = exporter.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "tollgate_jobs" in {family.name for family in openmetrics(answer.text)}  # type: ignore[no-untyped-call]


def test_scrapes_at_the_same_time(exporter: MetricsProcess) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(exporter.get, ["/metrics", "/readyz"] * 20)
        assert {answer.status_code for answer in answers} == {200}


def test_other_paths(exporter: MetricsProcess) -> None:
    assert exporter.get("/healthz").status_code == 200
    assert exporter.get("/readyz").status_code == 200
    assert exporter.get("/metrics?name=x").status_code == 200
    assert exporter.get("/").status_code == 404


def test_a_broker_in_memory_has_no_journal(short_dir: Path, tmp_path: Path) -> None:
    with (
        running_broker(short_dir) as broker,
        running_metrics(tmp_path, broker.endpoint) as exporter,
    ):
        families = exporter.scrape()
    assert not [name for name in families if name.startswith("tollgate_journal_b")]
    assert values(families["tollgate_jobs"], queue="other") == [0] * len(JobStatus)


def test_alerted_counters_are_there_before_they_count(short_dir: Path, tmp_path: Path) -> None:
    with (
        running_broker(short_dir, jobs=1) as broker,
        running_metrics(tmp_path, broker.endpoint) as exporter,
        Client(broker.endpoint) as client,
    ):
        client.create(HASH)
        for refused in range(2):
            families = exporter.scrape()
            codes = families["tollgate_commands_refused"]
            assert value(codes, command="create", code="repository_full") == refused
            for cause in ("handshake_key_refused", "refused_not_authorized"):
                assert value(families["tollgate_dropped"], cause=cause) == 0
            with pytest.raises(RepositoryFullError):
                client.create(HASH)
