"""What a person sees: colours, panels and progress in a terminal, and none of it elsewhere."""

import re
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

from tollgate.client.sync import Client
from tollgate.domain.status import JobStatus

InTerminal = Callable[..., Any]
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


def finished(endpoint: str) -> str:
    with Client(endpoint) as client:
        job_id = client.create(input="a text\x1b[2J of \u202emine").job_id
        client.transition(job_id, JobStatus.RUNNING)
        return client.transition(job_id, JobStatus.COMPLETED, result="[bold]done[/bold]").job_id


def test_get_shows_a_panel(in_terminal: InTerminal, endpoint: str) -> None:
    job_id = finished(endpoint)
    shown = in_terminal("get", job_id)
    assert shown.code == 0
    lines = shown.text.splitlines()
    assert lines[0].startswith("╭─")
    assert job_id in lines[0]
    assert "✓ completed" in lines[0]
    assert {len(line) for line in lines} == {80}
    assert "[bold]done[/bold]" in shown.text
    assert "a text\N{REPLACEMENT CHARACTER}[2J of \N{REPLACEMENT CHARACTER}mine" in shown.text
    assert COLOUR.search(shown.raw)
    wide = in_terminal("get", job_id, size=(200, 40))
    assert max(map(len, wide.text.splitlines())) == 120


def test_count_shows_bars(in_terminal: InTerminal, endpoint: str) -> None:
    finished(endpoint)
    shown = in_terminal("count")
    assert "█" in shown.text
    assert "✓ completed" in shown.text
    assert shown.text.splitlines()[5].split()[0] == "total"
    assert "total" not in in_terminal("count", "--status", "running").text


def test_list_fits_the_terminal(in_terminal: InTerminal, endpoint: str) -> None:
    job_id = finished(endpoint)
    with Client(endpoint) as client:
        long = client.create(input="much to say. " * 50 + "The end.").job_id
        client.transition(long, JobStatus.RUNNING)
        client.transition(long, JobStatus.COMPLETED)
    lines = in_terminal("list", "--status", "completed").text.splitlines()
    assert lines[0].split()[:2] == ["JOB", "STATUS"]
    assert any(line.startswith(f"{job_id}  completed") for line in lines)
    assert lines[-1].endswith("…")
    assert max(map(len, lines)) == 80


def test_list_shows_leases_in_80_columns(in_terminal: InTerminal, endpoint: str) -> None:
    with Client(endpoint) as client:
        job_id = client.create(input="x", queue="leased").job_id
        client.claim(JobStatus.AWAITING_PAYMENT, job_ids=[job_id], lease_ms=600_000)
    heading, line = in_terminal("list", "--queue", "leased", "--lease").text.splitlines()
    assert heading.split() == ["JOB", "STATUS", "LEFT,", "HOLDER"]
    assert line.startswith(f"{job_id}  awaiting_payment  9 min  uid:")
    assert len(line) <= 80
    wide = in_terminal("list", "--queue", "leased", "--lease", size=(200, 24)).text
    assert wide.endswith("  [leased] x\n")


def test_history_is_a_table(in_terminal: InTerminal, endpoint: str) -> None:
    job_id = finished(endpoint)
    shown = in_terminal("history", job_id, env={"TZ": "IST-5:30"})
    title, heading, *lines = shown.text.splitlines()
    assert (title, heading.split()) == (job_id, ["TIME", "WHAT", "WHO"])
    assert [line[21:48].split()[-1] for line in lines] == ["created", "running", "completed"]
    assert all("uid:" in line for line in lines[1:])
    assert max(map(len, (heading, *lines))) <= 80
    assert COLOUR.search(shown.raw)


def test_wait_shows_a_spinner(in_terminal: InTerminal, endpoint: str) -> None:
    with Client(endpoint) as client:
        job_id = client.create(input="x").job_id
    pressed = (f"waiting for {job_id}", signal.SIGINT)
    shown = in_terminal("wait", job_id, press=pressed)
    assert shown.code == 130
    assert shown.text.splitlines()[-1] == "tollgate: interrupted"


def test_create_shows_the_payment_it_awaits(in_terminal: InTerminal) -> None:
    shown = in_terminal("create", "x", "--pay-within", "100")
    job_id, waits = shown.text.splitlines()
    assert waits.startswith(f"awaits payment mock_bc_{job_id[:8]} until 20")
    assert waits.endswith(" in 1 min")


def test_bulk_shows_progress_below_the_ids(in_terminal: InTerminal, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.write_bytes(b"".join(b"input %d\n" % number for number in range(300)) + b"\xff\n")
    with inputs.open("rb") as stream:
        shown = in_terminal("create", "-", stdin=stream)
    assert shown.code == 1
    assert "300 jobs created" in shown.text
    assert "line 301: not valid UTF-8" in shown.text
    ids = re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f-]{21}", shown.text)
    assert len(ids) == 300


def test_bulk_progress_is_not_written_to_a_file(in_terminal: InTerminal, tmp_path: Path) -> None:
    inputs, ids = tmp_path / "inputs", tmp_path / "ids"
    inputs.write_bytes(b"one\ntwo\n")
    with inputs.open("rb") as stream, ids.open("wb") as out:
        shown = in_terminal("create", "-", stdin=stream, stdout=out)
    assert shown.code == 0
    assert "2 jobs created" in shown.text
    assert len(ids.read_text().splitlines()) == 2
    assert "\x1b" not in ids.read_text()


def test_no_color_is_obeyed(in_terminal: InTerminal, endpoint: str) -> None:
    job_id = finished(endpoint)
    for command in (["get", job_id], ["count"], ["list", "--limit", "2"]):
        assert not COLOUR.search(in_terminal(*command, env={"NO_COLOR": "1"}).raw)


def test_no_escapes_in_a_pipe(start: Callable[..., Popen[bytes]], endpoint: str) -> None:
    job_id = finished(endpoint)
    for command in (["get", job_id], ["count"], ["list", "--limit", "2"], ["--help"]):
        out, err = start(*command).communicate(timeout=30)
        assert b"\x1b" not in out + err
