"""The examples, run as their README says: real brokers, and each example as a process."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

import tollgate
from tests.brokers import PATIENCE_S, ROOT, BrokerProcess

EXAMPLES = ROOT / "examples"
PURCHASER = "aabbccddeeff0011"
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def client(broker: Callable[..., BrokerProcess]) -> Iterator[tollgate.Client]:
    with tollgate.Client(broker().endpoint, timeout_s=PATIENCE_S) as client:
        yield client


@pytest.fixture
def start(short_dir: Path) -> Iterator[Start]:
    """Starts an example in its folder, with a file as its log, and kills it at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def run(example: str, *command: str | Path, **environment: str) -> "subprocess.Popen[bytes]":
        with log_of(short_dir).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=EXAMPLES / example,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)


def log_of(directory: Path) -> Path:
    return directory / "example.log"


def stopped(process: "subprocess.Popen[bytes]") -> int:
    """Return the exit code after SIGTERM."""
    process.terminate()
    return process.wait(PATIENCE_S)


def until(is_so: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (found := is_so()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)
    return found


def paid(client: tollgate.Client, **task: Any) -> str:
    """Create a job whose payment has come, and return its id."""
    job = client.create(input=json.dumps(task))
    return client.transition(job.job_id, "running").job_id


def ended(client: tollgate.Client, job_id: str) -> tollgate.Job:
    return client.wait(job_id, timeout_s=PATIENCE_S)


def asked(client: tollgate.Client, job_id: str) -> tollgate.Job:
    job = client.wait(job_id, statuses="awaiting_input", timeout_s=PATIENCE_S)
    assert job.status == "awaiting_input", job.error
    return job


# --- examples/agent -------------------------------------------------------------------------------


def test_agent_asks_retries_and_reports(client: tollgate.Client, start: Start) -> None:
    agent = start("agent", "agent.py", TOLLGATE_ENDPOINT=client.endpoint)
    job = asked(client, paid(client, topics=["rain", "traffic"]))
    assert json.loads(job.input_schema or "")["input_data"][0]["id"] == "tone"
    client.provide_input(job.job_id, '{"tone": "friendly"}', expected_version=job.version)
    done = ended(client, job.job_id)
    assert done.status == "completed", done.error
    letter = json.loads(done.result or "")["letter"]
    assert letter == "Hi there\n\nAs to rain, all is well.\n\nAs to traffic, all is well."
    assert done.attempts == 1  # one try ended before the one that completed it
    assert done.progress is not None
    (round_,) = client.get(job.job_id).inputs or ()  # asked once, though the handler ran twice
    assert round_.text == '{"tone": "friendly"}'
    reasons = [entry.reason for entry in client.history(job.job_id).entries]
    assert "the model is busy" in reasons
    assert stopped(agent) == 0


def test_agent_stops_when_it_is_told(client: tollgate.Client, start: Start) -> None:
    start("agent", "agent.py", TOLLGATE_ENDPOINT=client.endpoint)
    job = asked(client, paid(client, topics=["rain"] * 1_000))
    client.request_stop(job.job_id, reason="a refund")
    client.provide_input(job.job_id, "{}", expected_version=job.version)
    done = ended(client, job.job_id)
    assert done.status == "failed"
    assert re.fullmatch(r"stopped after \d+ of 1000 topics", done.error or "")


def test_another_agent_goes_on_with_the_answer(client: tollgate.Client, start: Start) -> None:
    first = start("agent", "agent.py", TOLLGATE_ENDPOINT=client.endpoint)
    job = asked(client, paid(client, topics=["rain"]))
    assert stopped(first) == 0
    client.provide_input(job.job_id, '{"tone": "formal"}', expected_version=job.version)
    start("agent", "agent.py", TOLLGATE_ENDPOINT=client.endpoint)
    done = ended(client, job.job_id)
    assert "Dear Sir or Madam" in (done.result or ""), done.error
    assert done.attempts == 0  # a stop is no try


def test_an_input_that_no_try_could_use_fails_at_once(
    client: tollgate.Client, start: Start
) -> None:
    start("agent", "agent.py", TOLLGATE_ENDPOINT=client.endpoint)
    done = ended(client, paid(client, topic="rain"))
    assert (done.status, done.attempts) == ("failed", 0)
    assert done.error == 'the input must be like {"topics": ["rain"]}'


# --- examples/hired_agent -------------------------------------------------------------------------


def test_agent_is_hired_over_http(client: tollgate.Client, start: Start, short_dir: Path) -> None:
    endpoint = client.endpoint
    start(
        "hired_agent", "-P", "-m", "tollgate.worker", "--endpoint", endpoint,
        "--handler", "headlines:write", "--queue", "headlines",
    )  # fmt: skip
    start(
        "hired_agent", "-P", "-m", "tollgate.gateway", "agent.toml", "--endpoint", endpoint,
        "--port", "0", "--log-format", "json",
    )  # fmt: skip
    log = log_of(short_dir)
    url = until(lambda: re.findall(r'"url":"(http://[^"]+)"', log.read_text()))[0]

    def ask(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        method = "GET" if body is None else "POST"
        answer = httpx.request(method, url + path, json=body, timeout=PATIENCE_S)
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        return told

    demo = ask("/demo")
    job_id = ask("/start_job", {"input_data": demo["input"]})["id"]
    done = until(lambda: ask(f"/status?job_id={job_id}").get("result"))
    assert done == demo["output"]["result"]

    text = {"text": "Tolls rise. Drivers pay."}
    job_id = ask("/start_job", {"input_data": text})["id"]

    def question() -> dict[str, Any] | None:
        told = ask(f"/status?job_id={job_id}")
        return told if told["status"] == "awaiting_input" else None

    answer = {"job_id": job_id, "status_id": until(question)["id"]}
    ask("/provide_input", {**answer, "input_data": {"style": "loud"}})
    assert until(lambda: ask(f"/status?job_id={job_id}").get("result")) == "TOLLS RISE!"


# --- examples/sync_agent --------------------------------------------------------------------------


def test_a_search_without_end_harms_no_other(client: tollgate.Client, start: Start) -> None:
    agent = start("sync_agent", "agent.py", TOLLGATE_ENDPOINT=client.endpoint)
    endless = paid(client, pattern="(a+)+$", text="a" * 40 + "b")
    for number in range(3):
        done = ended(client, paid(client, pattern="[0-9]+", text=f"7 of {number}"))
        assert done.result == json.dumps({"found": ["7", str(number)]}), done.error
    failed = ended(client, endless)
    assert failed.status == "failed"
    assert "3" in (failed.error or "")  # how long it may take
    assert stopped(agent) == 0


def test_a_pattern_that_is_none_fails_at_once(client: tollgate.Client, start: Start) -> None:
    start("sync_agent", "agent.py", TOLLGATE_ENDPOINT=client.endpoint)
    done = ended(client, paid(client, pattern="(", text=""))
    assert (done.status, done.attempts) == ("failed", 0)
    assert (done.error or "").startswith("the input must be a pattern and a text: ")


# --- examples/payment_watcher ---------------------------------------------------------------------


def test_watchers_open_each_gate_once(
    broker: Callable[..., BrokerProcess], start: Start, short_dir: Path
) -> None:
    keys, key, ledger = short_dir / "keys", short_dir / "watcher.key", short_dir / "ledger.jsonl"
    new = ("keys", "new", "watcher", "--role", "payments", "--keys", keys, "--out", key)
    command = [sys.executable, "-m", "tollgate", *map(str, new)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    served = broker(keys=keys)
    for _ in range(2):
        start(
            *("payment_watcher", "watcher.py", ledger, "--every-s", "0.1"),
            TOLLGATE_ENDPOINT=served.tcp,
            TOLLGATE_KEY=str(key),
        )
    with tollgate.Client(served.endpoint) as client:
        good, bad, late = (client.create(input=f'"{name}"') for name in ("good", "bad", "late"))
        states = ((good, "paid"), (bad, "refused"))
        lines = [
            json.dumps({"payment": job.blockchain_identifier, "state": state})
            for job, state in states
        ]
        ledger.write_text("\n".join(lines) + "\n")
        client.wait(good.job_id, statuses="running", timeout_s=PATIENCE_S)
        assert ended(client, bad.job_id).error == "payment refused"
        moves = [entry for entry in client.history(good.job_id).entries if entry.to == "running"]
        assert [(move.by, move.client) for move in moves] == [("key:watcher", "payment-watcher")]
        assert client.get(late.job_id).status == "awaiting_payment"


# --- examples/fastapi_service ---------------------------------------------------------------------


class Web:
    """Speaks HTTP with the service, over a connection of its own for each request."""

    def __init__(self, log: Path) -> None:
        until(lambda: "startup complete" in log.read_text())  # the first of them listens
        (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)", log.read_text())
        self.port = int(port)
        self._seen: set[int] = set()

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                headers = {"content-type": "application/json"}
                connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def all_processes(self) -> set[int] | None:
        """Ask often, and return the three processes that answered; None if fewer did so far."""
        with ThreadPoolExecutor(16) as pool:
            answers = pool.map(lambda _: self.ask("/availability"), range(16))
            self._seen.update(answer["process"] for _, answer in answers)
        return self._seen if len(self._seen) == 3 else None


@pytest.fixture
def web(client: tollgate.Client, start: Start, short_dir: Path) -> Web:
    options = ("-m", "uvicorn", "service:app", "--workers", "3", "--port", "0")
    start("fastapi_service", *options, TOLLGATE_ENDPOINT=client.endpoint)
    return Web(log_of(short_dir))


def test_any_process_of_the_service_knows_each_job(
    client: tollgate.Client, web: Web, start: Start
) -> None:
    start("agent", "agent.py", TOLLGATE_ENDPOINT=client.endpoint)
    processes = until(web.all_processes)
    body: dict[str, Any] = {
        "identifier_from_purchaser": PURCHASER,
        "input_data": {"topics": ["rain"]},
    }
    code, job = web.ask("/jobs", body)
    assert (code, job["status"]) == (201, "awaiting_payment")
    assert job["input_hash"] == tollgate.input_hash(PURCHASER, body["input_data"])
    assert web.ask("/jobs", body)[1]["job_id"] == job["job_id"]  # sent twice: one job
    client.transition(job["job_id"], "running")
    for victim in processes:  # uvicorn starts others; no job is lost with them
        os.kill(victim, signal.SIGKILL)
    asked(client, job["job_id"])
    _, job = until(lambda: try_to_ask(web, f"/jobs/{job['job_id']}"))
    assert job["question"]["input_data"][0]["id"] == "tone"
    answer = {"version": job["version"], "input_data": {"tone": "formal"}}
    assert web.ask(f"/jobs/{job['job_id']}/input", answer)[0] == 200
    assert web.ask(f"/jobs/{job['job_id']}/input", answer)[0] == 409
    ended(client, job["job_id"])
    code, job = web.ask(f"/jobs/{job['job_id']}")
    assert (code, job["status"]) == (200, "completed")
    assert "As to rain" in job["result"]


def try_to_ask(web: Web, path: str) -> tuple[int, Any] | None:
    try:
        return web.ask(path)
    except (OSError, http.client.HTTPException):  # the process that had the connection was killed
        return None


def test_the_service_says_what_is_wrong(client: tollgate.Client, web: Web) -> None:
    unknown = "8bcf7ab3-0a56-4a76-9000-2404a4ead2de"
    assert web.ask(f"/jobs/{unknown}") == (404, {"error": f"no job {unknown}"})
    big = {"identifier_from_purchaser": PURCHASER, "input_data": {"text": "x" * 70_000}}
    assert web.ask("/jobs", big)[0] == 413
    nan = {"identifier_from_purchaser": PURCHASER, "input_data": {"n": 2**60}}
    assert web.ask("/jobs", nan)[0] == 400
