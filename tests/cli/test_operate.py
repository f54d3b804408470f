"""`stats`, `workers` and `explain`: as text, as JSON, and while the broker goes and comes back."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import PATIENCE_S, running_broker
from tollgate.client.sync import Client
from tollgate.terminal.figures import explanation_lines

from .conftest import Invoke, Shown, Start

HASH = "0123456789abcdef" * 4


def held(client: Client, queue: str) -> str:
    job = client.create(HASH, queue=queue)
    client.transition(job.job_id, "running")
    client.claim("running", queues=queue, lease_ms=60_000)
    return job.job_id


def test_stats_are_text_or_json(invoke: Invoke, client: Client) -> None:
    held(client, "stats-a")
    shown = invoke("stats")
    assert shown.exit_code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("tollgate ")
    assert any(line.split()[:1] == ["running"] for line in lines)
    assert any(line.startswith("loop ") for line in lines)
    document = json.loads(invoke("stats", "--queue", "stats-a", "--json").stdout)
    assert [queue["name"] for queue in document["queues"]] == ["stats-a"]
    assert document["queues"][0]["statuses"]["running"]["leased"] == 1
    assert isinstance(document["findings"], list)
    assert document["loop"]["step_s"]["counts"]


def test_a_queue_that_is_named_is_shown(invoke: Invoke, client: Client) -> None:
    held(client, "stats-c")
    lines = invoke("stats", "--queue", "stats-c").stdout.splitlines()
    at = lines.index("queue stats-c: 0 claims waiting")
    assert lines[at + 2].split()[:2] == ["running", "1"]
    assert not [line for line in lines if line.startswith("queue ") and "stats-c" not in line]


def test_a_queue_without_jobs_is_told(invoke: Invoke) -> None:
    shown = invoke("stats", "--queue", "stats-d")
    assert (shown.exit_code, shown.stderr) == (0, "tollgate: queue stats-d has no job\n")


@pytest.mark.parametrize("command", ["stats", "workers"])
@pytest.mark.parametrize(
    ("options", "told"),
    [(["--interval", "5s"], "--interval goes with --watch"),
     (["--watch", "--interval", "0s"], "--interval is 0.1s or more")],
)  # fmt: skip
def test_an_interval_that_has_no_use_is_refused(
    invoke: Invoke, command: str, options: list[str], told: str
) -> None:
    shown = invoke(command, *options)
    assert (shown.exit_code, told in shown.stderr) == (2, True)


def test_stats_say_what_is_wrong(invoke: Invoke, client: Client) -> None:
    client.pause_queue("stats-b")
    client.create(HASH, queue="stats-b")
    assert "! queue stats-b is paused [queue_paused]" in invoke("stats").stdout
    client.resume_queue("stats-b")
    assert "stats-b is paused" not in invoke("stats").stdout


def test_workers_are_those_that_claim(invoke: Invoke, endpoint: str) -> None:
    with Client(endpoint, name="gpu@7") as worker, Client(endpoint, name="idle@1") as idle:
        held(worker, "workers-a")
        idle.create(HASH)
        lines = invoke("workers").stdout.splitlines()
        (line,) = [each for each in lines if each.startswith("gpu@7")]
        assert "running of workers-a" in line
        assert not any(each.startswith("idle@1") for each in lines)
        assert "idle@1" in invoke("workers", "--all").stdout
        documents = [json.loads(each) for each in invoke("workers", "--json").stdout.splitlines()]
        (one,) = [each for each in documents if each.get("client") == "gpu@7"]
        assert (one["leases"], one["last_claim"]["queues"]) == (1, ["workers-a"])


def test_a_job_is_explained(invoke: Invoke, client: Client) -> None:
    job_id = held(client, "explain-a")
    shown = invoke("explain", job_id)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith(f"{job_id}: running for ")
    assert "has held it for " in shown.stdout
    assert "transition to completed: worker, admin" in shown.stdout
    document: dict[str, Any] = json.loads(invoke("explain", job_id, "--json").stdout)
    assert document["job"]["lease"]["left_ms"] > 0
    assert [each["code"] for each in document["words"]["reasons"]] == ["held"]
    assert document["claimed_for"] == "running"


def test_texts_of_users_cannot_move_the_cursor(invoke: Invoke, client: Client) -> None:
    job = client.create(HASH)
    client.transition(job.job_id, "running")
    client.transition(job.job_id, "failed", error="a\x1b[2Jb\nc")
    shown = invoke("explain", job.job_id).stdout
    assert "\x1b" not in shown
    assert re.search("it has failed, by .*: a\N{REPLACEMENT CHARACTER}\\[2Jb c\n", shown)


def test_lines_control_no_terminal() -> None:
    lines = explanation_lines("id", "where\x1b[2J", {"why": ["\x1b[31mred"]})
    assert not any("\x1b" in line for line in lines)


def test_a_terminal_gets_an_explanation_in_its_width(
    in_terminal: Callable[..., Shown], invoke: Invoke, client: Client
) -> None:
    job = client.create(HASH)
    client.transition(job.job_id, "failed", error="word " * 40)
    lines = in_terminal("explain", job.job_id, size=(80, 40)).text.splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith("  why ")]
    assert max(map(len, lines)) <= 80
    assert lines[first + 1].startswith(" " * 14 + "word")
    (line,) = [line for line in invoke("explain", job.job_id).stdout.splitlines() if "why" in line]
    assert line.endswith("word word")  # in a pipe a reason is one line


def test_an_unknown_job_is_named(invoke: Invoke) -> None:
    shown = invoke("explain", "0" * 36)
    assert (shown.exit_code, "job_not_found" in shown.stderr) == (1, True)


@pytest.mark.parametrize("command", ["stats", "workers"])
def test_a_watch_goes_on_while_the_broker_is_away(
    start: Start, short_dir: Path, command: str
) -> None:
    with running_broker(short_dir, data_dir=short_dir / "data") as broker:
        where = ["--endpoint", broker.endpoint, "--answer-timeout", "1s"]
        more = ["--all"] if command == "workers" else []
        watch = start(command, "--watch", "--interval", "0.2s", "--json", *more, *where)
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert json.loads(watch.stdout.readline())
        broker.kill()
        assert b"trying again" in watch.stderr.readline()
        broker.restart()
        first = time.monotonic()
        while not json.loads(watch.stdout.readline()):
            assert time.monotonic() - first < PATIENCE_S
        end(watch)


def test_a_watch_in_a_terminal_begins_anew_each_time(
    in_terminal: Callable[..., Shown],
) -> None:
    shown = in_terminal(
        "stats", "--watch", "--interval", "0.1s", press=("loop ", signal.SIGINT), size=(120, 50)
    )
    assert shown.code == 130
    assert "\x1b[2J" in shown.raw
    assert "commands" in shown.text


def end(watch: "subprocess.Popen[bytes]") -> None:
    watch.send_signal(signal.SIGINT)
    assert watch.wait(PATIENCE_S) == 130
