"""`tollgate events`: what happened, what happens, and a broker that goes away meanwhile."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from tests.brokers import PATIENCE_S, ROOT, running_broker
from tollgate.client.sync import Client
from tollgate.domain.results import ChangedFields, JobEvent, Progress, Settlement
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus
from tollgate.terminal import plain

from .conftest import Invoke, Start, wait_until
from .results import read_line

HASH = "0123456789abcdef" * 4


@pytest.fixture
def queue() -> str:
    return f"events-{uuid4().hex[:8]}"


def test_events_of_a_queue_are_shown_in_order(invoke: Invoke, client: Client, queue: str) -> None:
    job = client.create(HASH, queue=queue)
    client.transition(job.job_id, "running")
    client.hold(job.job_id, reason="a bug\nor two")
    result = invoke("events", "--queue", queue)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        "created", "awaiting_payment -> running", "put on hold",
    ]  # fmt: skip
    assert all(f"{job.job_id} [{queue}]" in line for line in lines)
    assert lines[-1].endswith("a bug or two")


def test_no_event_at_all_is_told(invoke: Invoke, queue: str) -> None:
    shown = invoke("events", "--queue", queue)
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "the broker remembers no such events" in shown.stderr
    unknown = invoke("events", "--job", str(uuid4()))
    assert "the broker remembers no such events" in unknown.stderr


def test_what_is_no_id_is_refused(invoke: Invoke) -> None:
    shown = invoke("events", "--follow", "--job", "order-77")
    assert (shown.exit_code, "no job order-77" in shown.stderr) == (1, True)


def test_json_tells_where_to_go_on(invoke: Invoke, client: Client, queue: str) -> None:
    job = client.create(HASH, queue=queue, input='{"secret": 1}')
    client.transition(job.job_id, "running")
    first = invoke("events", "--queue", queue, "--json")
    created, moved = map(json.loads, first.output.splitlines())
    assert (created["what"], moved["what"], moved["from"]) == (
        "created", "moved", "awaiting_payment",
    )  # fmt: skip
    assert "secret" not in first.output
    again = invoke("events", "--queue", queue, "--json", "--since", created["position"])
    assert [json.loads(line) for line in again.output.splitlines()] == [moved]
    assert invoke("events", "--since", moved["position"], "--queue", queue).output == ""


def test_events_of_a_status_and_of_a_job(invoke: Invoke, client: Client, queue: str) -> None:
    first, other = (client.create(HASH, queue=queue) for _ in range(2))
    client.transition(first.job_id, "running")
    shown = invoke("events", "--queue", queue, "--status", "running", "--json").output
    assert [json.loads(line)["job_id"] for line in shown.splitlines()] == [first.job_id]
    shown = invoke("events", "--job", other.job_id[:13], "--json").output
    assert [json.loads(line)["what"] for line in shown.splitlines()] == ["created"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--since", "nowhere-1-0"], 1, "events_gone"),
        (["--since", ""], 2, "it is empty"),
        (["--queue", "a b"], 2, "a queue has a name"),
        (["--status", "paid"], 2, "not one of"),
        (["--job", "zz-not-there"], 1, "job_not_found: no job zz-not-there"),
    ],
)
def test_wrong_options_are_told(invoke: Invoke, arguments: list[str], code: int, told: str) -> None:
    result = invoke("events", *arguments)
    assert result.exit_code == code, result.output
    assert told in result.stderr
    assert "Traceback" not in result.output


def test_a_follower_shows_what_happens(start: Start, client: Client, queue: str) -> None:
    process = start("events", "--follow", "--queue", queue, "--json", "--since", "oldest")
    job = client.create(HASH, queue=queue)
    assert read_line(process)["job_id"] == job.job_id
    client.transition(job.job_id, "failed", error="x")
    assert read_line(process)["status"] == "failed"
    process.send_signal(2)
    assert process.wait(PATIENCE_S) == 130


def test_a_follower_waits_for_a_broker_that_goes_away(directory: Path) -> None:
    told = directory / "told"
    with running_broker(directory, data_dir=directory / "data") as broker, told.open("wb") as err:
        with Client(broker.endpoint, timeout_s=PATIENCE_S) as client:
            since = client.count().as_of or ""
            client.create(HASH)
        process = subprocess.Popen(
            [
                sys.executable, "-m", "tollgate", "events", "--follow", "--json", "--endpoint",
                broker.endpoint, "--answer-timeout", "0.5", "--since", since,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=err,
        )  # fmt: skip
        try:
            assert read_line(process)["what"] == "created"
            broker.kill()
            wait_until(lambda: "waiting for it" in told.read_text())
            broker.restart()
            with Client(broker.endpoint, timeout_s=PATIENCE_S) as client:
                job = client.create(HASH, queue="after")
            assert read_line(process)["job_id"] == job.job_id
            wait_until(lambda: "answers again" in told.read_text())
        finally:
            process.kill()
            process.communicate(timeout=PATIENCE_S)


def test_no_broker_is_an_error_at_once(invoke: Invoke, directory: Path) -> None:
    nowhere = f"ipc://{directory}/none.sock"
    for more in ([], ["--follow"]):
        result = invoke("events", "--endpoint", nowhere, "--answer-timeout", "0.1", *more)
        assert result.exit_code == 3


AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("event", "end"),
    [
        (
            JobEvent("p", AT, "settled", "the-job", "default", JobStatus.COMPLETED, 3, by="key:pay",
                     changed=ChangedFields(settlement=Settlement(SettlementState.SUBMITTED, AT))),
            "settlement -> submitted      the-job  key:pay",
        ),
        (
            JobEvent("p", AT, "progress", "the-job", "default", JobStatus.RUNNING, 2, by="uid:1",
                     client="w@h:1", changed=ChangedFields(progress=Progress("half\x1b[0m"))),
            "progress                     the-job  uid:1 w@h:1  half\ufffd[0m",
        ),
        (
            JobEvent("p", AT, "lapsed", "the-job", "mail", JobStatus.RUNNING, 2, attempt=1,
                     reason="w@h:1"),
            "lease lapsed, attempt 1      the-job [mail]  broker  held by w@h:1",
        ),
        (
            JobEvent("p", AT, "queue_paused", queue="mail", by="uid:1"),
            "queue paused                 queue mail  uid:1",
        ),
        (
            JobEvent("p", AT, "something_new", "the-job", "default", None, None),
            "something new                the-job  broker",
        ),
    ],
)  # fmt: skip
def test_an_event_is_a_line(event: JobEvent, end: str) -> None:
    assert plain.event_line(event).split("  ", 1)[1] == end
