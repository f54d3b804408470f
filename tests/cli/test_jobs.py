"""Ids by their beginning, and completion of ids and queues in the shell."""

from collections.abc import Callable
from subprocess import Popen
from typing import Any

import pytest
from click.testing import Result

from tollgate.cli import jobs
from tollgate.client.sync import Client
from tollgate.domain.status import JobStatus

Invoke = Callable[..., Result]
Complete = Callable[..., list[str]]
REST = "-0000-4000-8000-000000000000"
BEGUN = [
    *("get {}", "history {}", "wait {} --timeout 0", "hold {}", "resume {}", "request-stop {}"),
    *("annotate {} note", "settle {} wanted", "transition {} running", "cancel {}"),
    "provide-input {} text",
]


@pytest.fixture
def twins(client: Client) -> list[str]:
    """The ids of two jobs that begin alike; one runs."""
    ids = ["facade01" + REST, "facade02" + REST]
    for job_id in ids:
        client.create("0" * 64, job_id=job_id, queue="facades")
    if client.get(ids[1]).version == 1:
        client.transition(ids[1], JobStatus.RUNNING)
    return ids


@pytest.fixture
def complete(start: Callable[..., "Popen[bytes]"]) -> Complete:
    """Completes the last word of a line as bash does; returns what may stand there."""

    def call(words: str, shell: str = "bash") -> list[str]:
        asked = {
            "_TOLLGATE_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": words.rpartition(" ")[2] if shell == "fish" else f"{words.count(' ')}",
        }
        process = start(env=asked)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, b"")
        return [line for line in out.decode().splitlines() if line]

    return call


def test_the_beginning_of_an_id_is_enough(invoke: Invoke, twins: list[str]) -> None:
    for typed in ("facade01", "FACADE01-0000", "facade01-"):
        assert f"job         {twins[0]}\n" in invoke("get", typed).stdout
    assert invoke("annotate", "facade02", "a note").stdout == f"{twins[1]} has a new note\n"


@pytest.mark.parametrize("command", BEGUN)
def test_every_command_lists_candidates(invoke: Invoke, twins: list[str], command: str) -> None:
    assert twins
    result = invoke(*command.format("facade").split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "tollgate: facade is the beginning of 2 ids, type more: "
        "facade02 (running), facade01 (awaiting_payment)\n"
    )


@pytest.mark.parametrize("command", BEGUN)
def test_every_command_says_that_none_begins_so(invoke: Invoke, command: str) -> None:
    result = invoke(*command.format("fedcba98").split())
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "tollgate: job_not_found: no job fedcba98: none of the newest 1,000 has an id that begins "
        "so; see `tollgate list`\n"
    )


def test_a_number_is_no_beginning(invoke: Invoke, twins: list[str]) -> None:
    assert twins
    for typed in ("1", "fac"):
        result = invoke("cancel", typed)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == (
            f"tollgate: {typed} is too short: type 4 characters of an id or more\n"
        )


def test_many_candidates_are_cut(invoke: Invoke, client: Client) -> None:
    for number in range(11):
        client.create("0" * 64, job_id=f"decade000{number:03}"[:8] + f"-{number:04}" + REST[5:])
    result = invoke("get", "decade")
    assert result.stderr.count("decade00-00") == 8
    assert result.stderr.startswith("tollgate: decade is the beginning of 11 ids, ")
    assert "decade00-0010 (awaiting_payment), " in result.stderr
    assert result.stderr.endswith(" and 3 more\n")


def test_only_the_newest_jobs_are_searched(
    invoke: Invoke, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "NEWEST", 2)
    client.create("0" * 64, job_id="ababab01" + REST)
    client.create(input="1")
    assert invoke("get", "ababab01").exit_code == 0
    client.create(input="2")
    assert invoke("get", "ababab01").exit_code == 1
    assert invoke("get", "ababab01" + REST).exit_code == 0


def test_ids_are_completed(complete: Complete, twins: list[str]) -> None:
    assert complete("tollgate get facade0") == [f"plain,{twins[1]}", f"plain,{twins[0]}"]
    assert complete("tollgate hold facade02") == [f"plain,{twins[1]}"]
    assert complete("tollgate cancel facade") == [f"plain,{twins[0]}"]
    assert complete("tollgate provide-input facade") == []
    assert complete("tollgate get x") == []
    assert f"plain,{twins[0]}" in complete("tollgate history ")


def test_shells_show_what_a_job_is(complete: Complete, twins: list[str]) -> None:
    kind, job_id, described, *_ = complete("tollgate get facade01", "zsh")
    assert (kind, job_id) == ("plain", twins[0])
    assert described.startswith("awaiting_payment, ")
    (line,) = complete("tollgate get facade01", "fish")
    assert line.startswith(f"plain,{twins[0]}\tawaiting_payment, ")


def test_fish_keeps_the_commas_of_help(complete: Complete, start: Callable[..., Any]) -> None:
    process = start(env={"_TOLLGATE_COMPLETE": "fish_source"})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert b'string split --max 1 ","' in out
    assert complete("tollgate hist", "fish") == [
        "plain,history\tShow what happened to a job, and by whom."
    ]


def test_queues_are_completed(complete: Complete, twins: list[str]) -> None:
    assert twins
    for command in ("list --queue", "pause-queue", "resume-queue", "count --queue"):
        assert complete(f"tollgate {command} faca") == ["plain,facades"]


def test_completion_without_a_broker_is_silent(complete: Complete) -> None:
    assert complete("tollgate get --endpoint ipc:///nowhere/b.sock fa") == []
