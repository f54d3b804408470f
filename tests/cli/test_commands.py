"""Each command against a real broker, called in this process."""

from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import Result

from tests.cli.results import document, misused, refused
from tollgate.cli.options import duration
from tollgate.client.sync import Client
from tollgate.domain.hashing import input_hash
from tollgate.domain.status import JobStatus

Invoke = Callable[..., Result]


@pytest.fixture
def job_id(invoke: Invoke) -> str:
    return created(invoke, '{"prompt": "Cardano payments"}')


def created(invoke: Invoke, *arguments: str) -> str:
    result = invoke("create", *arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    (job_id,) = result.stdout.splitlines()
    return job_id


def test_ping_shows_server_and_round_trip(invoke: Invoke, endpoint: str) -> None:
    result = invoke("ping")
    assert result.exit_code == 0
    assert result.stdout.startswith("tollgate")
    assert f"at {endpoint} answered in " in result.stdout
    assert result.stdout.count("\n") == 1
    answer = document(invoke("ping", "--json"))
    assert answer["endpoint"] == endpoint
    assert answer["round_trip_ms"] > 0
    assert answer["protocol"] == 1
    assert answer["limits"]["commands"] == 1_000


def test_create_prints_the_id_alone(invoke: Invoke, client: Client) -> None:
    job_id = created(invoke, '{"prompt": "Cardano payments"}', "--purchaser", "aabbccddeeff0011")
    job = client.get(job_id)
    assert job.input == '{"prompt": "Cardano payments"}'
    assert job.input_hash == "25f3afe66b39b0582711c9faf53930c7b6a6feffd10294750ec77be47fd63080"


def test_create_as_json_prints_the_job(invoke: Invoke) -> None:
    job = document(invoke("create", "not JSON, はい", "--json", "--pay-within", "60"))
    assert job["status"] == "awaiting_payment"
    assert job["input"] == "not JSON, はい"
    assert job["input_hash"] == input_hash("", "not JSON, はい")
    assert job["pay_by_time"] is not None
    assert job["result"] is None


def test_create_by_a_hash_alone(invoke: Invoke, client: Client) -> None:
    job = client.get(created(invoke, "--input-hash", "0123456789abcdef" * 4))
    assert job.input_hash == "0123456789abcdef" * 4
    assert job.input is None


def test_create_waits_for_the_end(invoke: Invoke) -> None:
    result = invoke("create", "x", "--pay-within", "0", "--wait", "--timeout", "0.2")
    assert result.exit_code == 1  # the broker's grace is longer than that
    created_line, error_line = result.stderr.splitlines()
    assert created_line.startswith("created ")
    assert error_line.startswith("tollgate: wait_timeout: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-", "--wait"],
        ["-", "--input-hash", "0" * 64],
        ["x", "--timeout", "3"],
        ["x", "--input-hash", "ABC"],
        ["x", "--pay-within", "nan"],
        ["x", "--pay-within", "soon"],
        ["x", "--pay-within", "-1"],
        ["x", "--no-such-option"],
        ["x", "--purchaser", ""],
        ["", "--input-hash", "0" * 64],
        ["x", "--endpoint", ""],
        ["x", "--key", ""],
        ["x", "y"],
    ],
)
def test_create_refuses_wrong_usage(invoke: Invoke, arguments: list[str]) -> None:
    misused(invoke("create", *arguments))


@pytest.mark.parametrize("text", ["", " ", "{"])
def test_create_asks_for_text_to_be_said(invoke: Invoke, text: str) -> None:
    result = invoke("create", text)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("tollgate: create: input ")
    assert "(--text)" in result.stderr
    job = document(invoke("create", "--text", text, "--json"))
    assert (job["input"], job["input_hash"]) == (text, input_hash("", text))


def test_get_shows_all_fields(invoke: Invoke, job_id: str, client: Client) -> None:
    client.transition(job_id, JobStatus.RUNNING)
    client.transition(job_id, JobStatus.COMPLETED, result="first line\nsecond \x1b[31mline")
    result = invoke("get", job_id)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert f"job         {job_id}" in lines
    assert "status      completed" in lines
    assert "version     3" in lines
    assert "            second \N{REPLACEMENT CHARACTER}[31mline" in lines
    assert "\x1b" not in result.stdout
    job = document(invoke("get", job_id, "--json"))
    assert job["result"] == "first line\nsecond \x1b[31mline"


def test_get_shows_rare_fields(invoke: Invoke, client: Client) -> None:
    job = client.create(input="x", identifier_from_purchaser="abcdef")
    client.transition(job.job_id, JobStatus.RUNNING)
    client.transition(job.job_id, JobStatus.AWAITING_INPUT, input_schema="a number")
    shown = invoke("get", job.job_id).stdout
    assert "purchaser   abcdef\n" in shown
    assert "asks for    a number\n" in shown


def test_get_of_an_unknown_job(invoke: Invoke) -> None:
    refused(invoke("get", "nope"), "job_not_found")
    misused(invoke("get", " "))


def test_transition_moves_a_job(invoke: Invoke, job_id: str) -> None:
    result = invoke("transition", job_id, "running", "--expected-version", "1")
    assert result.stdout == f"{job_id} is running now, at version 2\n"
    job = document(invoke("transition", job_id, "completed", "--result", "done", "--json"))
    assert (job["status"], job["result"], job["version"]) == ("completed", "done", 3)


def test_transition_with_an_error(invoke: Invoke, job_id: str) -> None:
    job = document(invoke("transition", job_id, "failed", "--error", "no", "--json"))
    assert (job["status"], job["error"]) == ("failed", "no")


def test_transition_is_refused(invoke: Invoke, job_id: str, client: Client) -> None:
    refused(invoke("transition", job_id, "completed"), "illegal_transition")
    conflict = invoke("transition", job_id, "running", "--expected-version", "7")
    refused(conflict, "version_conflict")
    assert "it is awaiting_payment at version 1 now" in conflict.stderr
    (lease,) = client.claim(JobStatus.AWAITING_PAYMENT, limit=1)
    refused(invoke("transition", lease.job.job_id, "running"), "lease_held")
    wrong = str(lease.token + 1)
    refused(invoke("transition", lease.job.job_id, "running", "--lease", wrong), "lease_lost")
    right = invoke("transition", lease.job.job_id, "running", "--lease", str(lease.token))
    assert right.exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["x", "nowhere"],
        ["x", "running", "--result", "r"],
        ["x", "running", "--error", "e"],
        ["x", "completed", "--result", ""],
        ["x", "failed", "--error", ""],
        ["x", "running", "--expected-version", "0"],
        ["x", "running", "--expected-version", "one"],
        ["x"],
    ],
)
def test_transition_refuses_wrong_usage(invoke: Invoke, arguments: list[str]) -> None:
    misused(invoke("transition", *arguments))


def test_count(invoke: Invoke, job_id: str) -> None:
    assert job_id
    counts = document(invoke("count", "--json"))
    assert counts["total"] == sum(counts["by_status"].values())
    assert set(counts["by_status"]) == set(JobStatus)
    lines = invoke("count").stdout.splitlines()[:6]  # settlements may follow
    assert [line.split()[0] for line in lines] == [*JobStatus, "total"]
    assert "oldest since 20" in lines[0]
    assert lines[-1].split() == ["total", str(counts["total"])]
    (line,) = invoke("count", "--status", "awaiting_payment").stdout.splitlines()
    assert line.split()[:2] == ["awaiting_payment", str(counts["by_status"]["awaiting_payment"])]
    misused(invoke("count", "--status", "lost"))


def test_list_by_creation(invoke: Invoke, client: Client) -> None:
    ids = [created(invoke, f"input {number}") for number in range(3)]
    lines = invoke("list").stdout.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ids
    assert lines[-1].endswith("  input 2")
    jobs = [msgspec.json.decode(line) for line in invoke("list", "--json").stdout.splitlines()]
    assert [job["job_id"] for job in jobs[-3:]] == ids
    assert len(invoke("list", "--limit", "2").stdout.splitlines()) == 2
    client.transition(ids[0], JobStatus.FAILED, error="why\nnot")
    failed = invoke("list", "--status", "failed").stdout
    assert f"{ids[0]}  failed" in failed
    assert failed.splitlines()[-1].endswith("  why not")
    misused(invoke("list", "--limit", "0"))


def test_list_follow_stops_at_the_limit(invoke: Invoke, client: Client) -> None:
    client.create(input="x")
    total = client.count().total
    result = invoke("list", "--follow", "--limit", str(total))
    assert len(result.stdout.splitlines()) == total


def test_wait_shows_the_job_when_it_has_ended(invoke: Invoke, job_id: str, client: Client) -> None:
    refused(invoke("wait", job_id, "--timeout", "0.1"), "wait_timeout")
    client.transition(job_id, JobStatus.FAILED, error="no")
    assert "error       no\n" in invoke("wait", job_id).stdout
    assert document(invoke("wait", job_id, "--json"))["error"] == "no"
    refused(invoke("wait", "nope"), "job_not_found")


def test_wait_for_a_question(invoke: Invoke, job_id: str, client: Client) -> None:
    for status in ("running", "awaiting_input"):
        client.transition(job_id, status)
        waited = invoke("wait", job_id, "--status", status, "--json", "--timeout", "30")
        assert document(waited)["status"] == status
    assert invoke("wait", job_id, "--status", "asleep").exit_code == 2


@pytest.mark.parametrize("command", ["ping", "count", "list", "get x", "wait x", "create x"])
def test_no_broker_is_exit_code_3(invoke: Invoke, tmp_path: Path, command: str) -> None:
    nowhere = f"ipc://{tmp_path}/s"
    result = invoke(*command.split(), "--endpoint", nowhere, "--answer-timeout", "0.1")
    assert result.exit_code == 3
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert nowhere in line
    assert "start a broker with `tollgate broker`" in line


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("creat", "'create'"),
        ("histories", "'history'"),
        ("Get", "'get'"),
        ("provide_input", "'provide-input'"),
        ("pause", "'pause-queue'"),
        ("stop", "'request-stop'"),
    ],
)
def test_a_misspelt_command_gets_a_guess(invoke: Invoke, typed: str, meant: str) -> None:
    line = misused(invoke(typed, "x"))
    assert line.startswith(f"tollgate: No such command '{typed}'. Did you mean {meant}")
    assert line.endswith("? See `tollgate --help`")


def test_unknown_command_is_wrong_usage(invoke: Invoke) -> None:
    assert "mean" not in misused(invoke("zzz"))
    assert "'--status'" in misused(invoke("list", "--stauts", "running"))
    misused(invoke("--no-such-option"))


@pytest.mark.parametrize(
    ("typed", "length_s"),
    [("45", 45), ("0.5", 0.5), ("30s", 30), ("5m", 300), ("2h", 7_200), ("1.5d", 129_600)],
)
def test_a_duration_has_a_unit(typed: str, length_s: float) -> None:
    assert duration(typed) == length_s


@pytest.mark.parametrize("typed", ["", "s", "-1s", "nan", "1w", "1 h", "366d", "1e3", "٣s", "5m\n"])
def test_other_durations_are_refused(typed: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration, such as 45, 30s, 5m"):
        duration(typed)


@pytest.mark.parametrize("option", ["--json", "--endpoint", "--queue"])
def test_an_option_before_its_command_is_told(invoke: Invoke, option: str) -> None:
    line = misused(invoke(option, "x", "count"))
    assert line.startswith(f"tollgate: No such option '{option}' here: put it after the command,")
    assert f"`tollgate count {option}`" in line
    assert "here" not in misused(invoke(option, "x"))
