"""The commands that change one job, and what `get`, `list` and `count` show of it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from click.testing import Result

from tests.cli.results import document, documents, line_of, misused, refused
from tollgate.client.sync import Client
from tollgate.domain.models import Job
from tollgate.domain.status import JobStatus

Invoke = Callable[..., Result]


@pytest.fixture
def job_id(client: Client) -> str:
    """A job that runs."""
    return client.transition(client.create(input="x").job_id, JobStatus.RUNNING).job_id


def asking(client: Client, job_id: str) -> Job:
    return client.transition(job_id, JobStatus.AWAITING_INPUT, input_schema="which colour?")


def test_create_takes_all_fields(invoke: Invoke) -> None:
    job_id = str(uuid4())
    arguments = ["x", "--job-id", job_id, "--queue", "mail", "--priority", "2", "--meta", "a note"]
    arguments += ["--blockchain-identifier", f"bc_{job_id}", "--delay", "2h", "--settle", "--json"]
    job = document(invoke("create", *arguments))
    assert (job["job_id"], job["queue"], job["priority"]) == (job_id, "mail", 2)
    assert (job["meta"], job["blockchain_identifier"]) == ("a note", f"bc_{job_id}")
    assert job["settlement"]["state"] == "pending"
    until = datetime.fromisoformat(job["not_before"]) - datetime.now(UTC)
    assert timedelta(minutes=119) < until <= timedelta(hours=2)
    assert "lease" not in job
    lines = invoke("get", job_id).stdout.splitlines()
    assert {"queue       mail", "priority    2", "meta        a note"} < set(lines)
    assert any(line.startswith("settlement  pending, ") for line in lines)
    assert any(line.startswith("not before  20") and line.endswith("in 2 h") for line in lines)


def test_a_stream_of_jobs_takes_a_queue(invoke: Invoke, client: Client) -> None:
    arguments = ["--queue", "stream", "--priority", "9", "--delay", "1d", "--settle"]
    result = invoke("create", "-", *arguments, input="one\ntwo\n")
    assert result.exit_code == 0, result.stderr
    jobs = [client.get(job_id) for job_id in result.stdout.splitlines()]
    assert [(job.queue, job.priority) for job in jobs] == [("stream", 9)] * 2
    assert all(job.not_before and job.settlement for job in jobs)


@pytest.mark.parametrize(
    "arguments",
    [
        ["x", "--queue", ""],
        ["x", "--queue", "a b"],
        ["x", "--queue", "a" * 65],
        ["x", "--priority", "10"],
        ["x", "--priority", "-1"],
        ["x", "--delay", "2 weeks"],
        ["x", "--delay", "366d"],
        ["x", "--delay", ""],
        ["x", "--meta", ""],
        ["-", "--job-id", "3f2a91c0-5d0e-4b1c-9a57-0c6d2f1e8b34"],
        ["-", "--blockchain-identifier", "bc"],
    ],
)
def test_create_refuses_wrong_fields(invoke: Invoke, arguments: list[str]) -> None:
    misused(invoke("create", *arguments))


def test_create_refuses_an_id_that_is_no_uuid(invoke: Invoke) -> None:
    result = invoke("create", "x", "--job-id", "3f2a")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "job_id" in result.stderr


def test_get_by_blockchain_identifier(invoke: Invoke, client: Client) -> None:
    job = client.create(input="x", blockchain_identifier=f"bc_{uuid4()}")
    found = document(invoke("get", "--blockchain-identifier", job.blockchain_identifier, "--json"))
    assert found["job_id"] == job.job_id
    refused(invoke("get", "--blockchain-identifier", "bc_of_no_job"), "job_not_found")
    misused(invoke("get"))
    misused(invoke("get", job.job_id, "--blockchain-identifier", "bc"))


def test_get_shows_who_holds_a_job(invoke: Invoke, client: Client, job_id: str) -> None:
    assert document(invoke("get", job_id, "--json"))["lease"] is None
    assert "held by" not in invoke("get", job_id).stdout
    client.claim(job_ids=[job_id], status=JobStatus.RUNNING, lease_ms=600_000)
    lease = document(invoke("get", job_id, "--json"))["lease"]
    assert set(lease) == {"by", "client", "left_ms"}
    assert 0 < lease["left_ms"] <= 600_000
    held = f"held by     {lease['by']} {lease['client']}, 9 min left\n"
    assert held in invoke("get", job_id, "--lease").stdout
    assert "held by" not in invoke("get", job_id, "--no-lease").stdout
    assert "lease" not in document(invoke("get", job_id, "--no-lease", "--json"))


def test_list_by_queue_settlement_and_age(invoke: Invoke, client: Client) -> None:
    queue = f"q{uuid4()}"
    ids = [client.create(input=f"{n}", queue=queue, settle=n == 2).job_id for n in range(3)]

    def listed(*arguments: str) -> list[str]:
        return [job["job_id"] for job in documents(invoke("list", *arguments, "--json"))]

    assert listed("--queue", queue) == ids
    assert listed("--queue", queue, "--newest", "--limit", "2") == ids[:0:-1]
    assert listed("--queue", queue, "--settlement", "pending") == ids[2:]
    assert listed("--queue", queue, "--older-than", "0") == ids
    assert listed("--queue", queue, "--older-than", "1h") == []
    assert listed("--queue", queue, "--older-than", "1h", "--newest") == []
    assert listed("--queue", queue, "--follow", "--limit", "3") == ids
    assert f"[{queue}] 0\n" in invoke("list", "--queue", queue).stdout


def test_list_shows_leases_if_asked(invoke: Invoke, client: Client) -> None:
    queue = f"q{uuid4()}"
    free, held = (client.create(input="x", queue=queue).job_id for _ in range(2))
    client.claim(status=JobStatus.AWAITING_PAYMENT, job_ids=[held])
    jobs = documents(invoke("list", "--queue", queue, "--lease", "--json"))
    assert [job["job_id"] for job in jobs if job["lease"]] == [held]
    first, second = invoke("list", "--queue", queue, "--lease").stdout.splitlines()
    assert first.startswith(free)
    assert "held by" not in first
    assert "[held by " in second
    assert all("lease" not in job for job in documents(invoke("list", "--json", "--newest")))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--status", "running", "--settlement", "wanted"],
        ["--settlement", "paid"],
        ["--follow", "--newest"],
        ["--follow", "--older-than", "1h"],
        ["--older-than", "yesterday"],
        ["--queue", "a/b"],
    ],
)
def test_list_refuses_wrong_usage(invoke: Invoke, arguments: list[str]) -> None:
    misused(invoke("list", *arguments))


def test_count_by_queue_and_settlement(invoke: Invoke, client: Client) -> None:
    queue = f"q{uuid4()}"
    client.create(input="x", queue=queue, settle=True)
    client.create(input="x", queue=queue)
    counts = document(invoke("count", "--queue", queue, "--json"))
    assert (counts["total"], counts["by_settlement"]) == (2, {"pending": 1})
    pending = document(invoke("count", "--queue", queue, "--settlement", "pending", "--json"))
    assert pending["by_settlement"] == {"pending": 1}
    lines = invoke("count", "--queue", queue).stdout.splitlines()
    assert lines[-1].split() == ["settle", "pending", "1"]
    misused(invoke("count", "--status", "running", "--settlement", "pending"))


def test_an_answer_lets_a_job_run(invoke: Invoke, client: Client, job_id: str) -> None:
    asking(client, job_id)
    line = line_of(invoke("provide-input", job_id, '{"colour": "blue"}'))
    assert line == f"{job_id} is running now, at version 4"
    assert client.get(job_id).provided_input == '{"colour": "blue"}'
    asking(client, job_id)
    stale = invoke("provide-input", job_id, "late", "--expected-version", "3")
    refused(stale, "version_conflict")
    arguments = ["--expected-version", "5", "--input-hash", "ab" * 32, "--json"]
    job = document(invoke("provide-input", job_id, "-", *arguments, input="red, はい\n"))
    assert (job["provided_input"], job["version"]) == ("red, はい", 6)
    shown = invoke("get", job_id).stdout
    assert "question 1  which colour?\n" in shown
    assert 'answer 1    {"colour": "blue"}\n' in shown
    assert "answer      red, はい\n" in shown
    assert document(invoke("get", job_id, "--json"))["inputs"][1]["hash"] == "ab" * 32
    refused(invoke("provide-input", job_id, "again"), "illegal_transition")


def test_an_answer_cannot_be_empty(invoke: Invoke, job_id: str) -> None:
    assert "empty" in misused(invoke("provide-input", job_id, ""))
    assert "empty" in misused(invoke("provide-input", job_id, "-", input="\n"))
    assert "UTF-8" in misused(invoke("provide-input", job_id, "-", input=b"\xff"))
    misused(invoke("provide-input", job_id))


def test_cancel_fails_an_unpaid_job(invoke: Invoke, client: Client, job_id: str) -> None:
    unpaid = client.create(input="x").job_id
    refused(invoke("cancel", unpaid, "--expected-version", "7"), "version_conflict")
    assert line_of(invoke("cancel", unpaid)) == f"{unpaid} is failed now, at version 2"
    refused(invoke("cancel", job_id), "illegal_transition")
    other = client.create(input="x").job_id
    assert document(invoke("cancel", other, "--json"))["status"] == "failed"


def test_hold_and_resume(invoke: Invoke, client: Client, job_id: str) -> None:
    assert line_of(invoke("hold", job_id, "--reason", "a bug")) == f"{job_id} is on hold"
    assert client.claim(JobStatus.RUNNING, job_ids=[job_id]) == []
    assert "on hold     until `tollgate resume`\n" in invoke("get", job_id).stdout
    assert f"{job_id}  running" in invoke("list", "--newest", "--limit", "1").stdout
    assert "[on hold] x\n" in invoke("list", "--newest", "--limit", "1").stdout
    assert document(invoke("resume", job_id, "--json"))["on_hold"] is False
    assert line_of(invoke("resume", job_id)) == f"{job_id} is not on hold"
    assert client.claim(JobStatus.RUNNING, job_ids=[job_id])


def test_request_stop(invoke: Invoke, client: Client, job_id: str) -> None:
    (lease,) = client.claim(JobStatus.RUNNING, job_ids=[job_id])
    line = line_of(invoke("request-stop", job_id, "--reason", "refund"))
    assert line == f"{job_id} is asked to stop"
    assert client.touch(job_id, lease.token).stop_requested
    assert document(invoke("request-stop", job_id, "--json"))["stop_requested"] is True
    assert "stop        requested\n" in invoke("get", job_id).stdout


def test_annotate(invoke: Invoke, client: Client, job_id: str) -> None:
    assert line_of(invoke("annotate", job_id, "order 4711")) == f"{job_id} has a new note"
    assert client.get(job_id).meta == "order 4711"
    assert document(invoke("annotate", job_id, "-", "--json", input="two\n"))["meta"] == "two"
    assert line_of(invoke("annotate", job_id, "--remove")) == f"{job_id} has no note"
    assert client.get(job_id).meta is None
    misused(invoke("annotate", job_id))
    misused(invoke("annotate", job_id, ""))
    misused(invoke("annotate", job_id, "a note", "--remove"))


def test_settle(invoke: Invoke, client: Client) -> None:
    job_id = client.create(input="x", settle=True).job_id
    client.transition(job_id, JobStatus.RUNNING)
    client.transition(job_id, JobStatus.COMPLETED, result="done")
    moved = invoke("settle", job_id, "submitted", "--on-chain-state", "ResultSubmitted")
    assert line_of(moved) == f"{job_id} has a settlement that is submitted"
    noted = document(invoke("settle", job_id, "--result-hash", "cd" * 32, "--json"))
    assert noted["settlement"]["result_hash"] == "cd" * 32
    refused(invoke("settle", job_id, "wanted"), "illegal_transition")
    assert "settlement  submitted, " in invoke("get", job_id).stdout
    assert ", on chain ResultSubmitted\n" in invoke("get", job_id).stdout
    misused(invoke("settle", job_id))
    misused(invoke("settle", job_id, "paid"))


def test_pause_and_resume_a_queue(invoke: Invoke, client: Client) -> None:
    queue = f"q{uuid4()}"
    job = client.create(input="x", queue=queue)
    client.transition(job.job_id, JobStatus.RUNNING)
    assert line_of(invoke("pause-queue", queue)) == f"queue {queue} is paused"
    assert client.claim(JobStatus.RUNNING, queues=[queue]) == []
    answer = document(invoke("resume-queue", queue, "--json"))
    assert answer == {"queue": queue, "paused": False}
    assert client.claim(JobStatus.RUNNING, queues=[queue])
    misused(invoke("pause-queue", "a b"))
    misused(invoke("resume-queue"))


def test_force_ends_the_lease_of_a_worker(invoke: Invoke, client: Client, job_id: str) -> None:
    client.claim(JobStatus.RUNNING, job_ids=[job_id], lease_ms=600_000)
    held = refused(invoke("transition", job_id, "failed", "--error", "no"), "lease_held")
    assert "`tollgate get` shows the holder" in held
    forced = ["transition", job_id, "failed", "--error", "by hand", "--force"]
    assert "--expected-version" in misused(invoke(*forced))
    misused(invoke(*forced, "--expected-version", "2", "--lease", "1"))
    refused(invoke(*forced, "--expected-version", "1"), "version_conflict")
    line = line_of(invoke(*forced, "--expected-version", "2"))
    assert line == f"{job_id} is failed now, at version 3"


def test_history_tells_who_did_what(invoke: Invoke, client: Client, job_id: str) -> None:
    client.claim(JobStatus.RUNNING, job_ids=[job_id])
    invoke("hold", job_id, "--reason", "a\nbug")
    found = document(invoke("history", job_id, "--json"))
    assert found["job_id"] == job_id
    assert [entry["what"] for entry in found["entries"]] == ["created", "moved", "claimed", "held"]
    assert found["entries"][1]["to"] == "running"
    assert found["lease"]["left_ms"] > 0
    lines = invoke("history", job_id).stdout.splitlines()
    assert "  created  " in lines[0]
    assert "  awaiting_payment -> running  uid:" in lines[1]
    assert lines[3].endswith("  a bug")
    assert lines[4].startswith("held by uid:")


@pytest.mark.parametrize(
    "command",
    [
        "history x",
        "provide-input x y",
        "cancel x",
        "hold x",
        "resume x",
        "request-stop x",
        "annotate x y",
        "settle x wanted",
    ],
)
def test_an_unknown_job_is_refused(invoke: Invoke, command: str) -> None:
    line = refused(invoke(*command.split()), "job_not_found")
    assert line == "tollgate: job_not_found: no job x; see `tollgate list`"
