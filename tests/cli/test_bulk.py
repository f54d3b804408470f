"""`tollgate create -`: a job a line, as the lines arrive."""

import io
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import msgspec
import pytest
from click.testing import Result

from tollgate.cli import bulk
from tollgate.cli.bulk import arriving
from tollgate.client.errors import BatchError, BrokerUnreachableError
from tollgate.client.sync import Client
from tollgate.domain.exceptions import ArgumentError, TollgateError
from tollgate.domain.models import Job

Invoke = Callable[..., Result]


def test_a_job_a_line(invoke: Invoke, endpoint: str) -> None:
    result = invoke("create", "-", "--purchaser", "abc", input='{"a": 1}\n\n \ntwo\r\nthree')
    assert (result.exit_code, result.stderr) == (0, "")
    with Client(endpoint) as client:
        jobs = [client.get(job_id) for job_id in result.stdout.splitlines()]
    assert [job.input for job in jobs] == ['{"a": 1}', "two", "three"]
    assert {job.identifier_from_purchaser for job in jobs} == {"abc"}


def test_many_lines_as_json(invoke: Invoke) -> None:
    lines = [f"input number {number}" for number in range(1_500)]
    result = invoke("create", "-", "--json", input="\n".join(lines))
    assert result.exit_code == 0
    jobs = [msgspec.json.decode(line) for line in result.stdout.splitlines()]
    assert [job["input"] for job in jobs] == lines


def test_nothing_to_create(invoke: Invoke) -> None:
    result = invoke("create", "-", input="")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_bad_lines_are_reported_and_others_created(invoke: Invoke) -> None:
    lines = [b"good", b"x" * 70_000, b"\xff", b'{"a": 1e400}', b"good too"]
    result = invoke("create", "-", input=b"\n".join(lines))
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    errors = result.stderr.splitlines()
    assert [error.split(": ")[:2] for error in errors] == [
        ["line 2", "too_large"],
        ["line 3", "not valid UTF-8"],
        ["line 4", "create"],
        ["tollgate", "2 jobs created, 3 lines not"],
    ]


def test_a_byte_order_mark_is_no_part_of_the_input(invoke: Invoke, endpoint: str) -> None:
    result = invoke("create", "-", "--json", input=b'\xef\xbb\xbf{"a": 1}\r\n{"a": 1}\n')
    first, second = (msgspec.json.decode(line) for line in result.stdout.splitlines())
    assert first["input"] == second["input"] == '{"a": 1}'
    assert first["input_hash"] == second["input_hash"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_refused_as_a_whole(invoke: Invoke, encoding: str) -> None:
    lines = '\ufeff{"a": 1}\n{"a": 2}\n'.removeprefix("\ufeff" if encoding == "utf-16" else "")
    result = invoke("create", "-", input=lines.encode(encoding))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "iconv -f UTF-16 -t UTF-8" in result.stderr


def test_utf_16_without_a_mark_becomes_no_job(invoke: Invoke) -> None:
    result = invoke("create", "-", input='{"a": 1}\n'.encode("utf-16-le"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "NUL characters, as UTF-16" in result.stderr


MEANT = ["{", '{"a": NaN}', " text", "NaN", "[" * 600 + "]" * 600]


@pytest.mark.parametrize("text", MEANT, ids=range(len(MEANT)))
def test_argument_line_and_client_refuse_alike(invoke: Invoke, endpoint: str, text: str) -> None:
    with Client(endpoint) as client, pytest.raises(ArgumentError) as refusal:
        client.create(input=text)
    assert invoke("create", text).stderr == f"tollgate: {refusal.value}\n"
    assert invoke("create", text).exit_code == 2
    line = invoke("create", "-", input=f"{text}\n")
    assert line.stderr.splitlines()[0] == f"line 1: {refusal.value}"
    assert line.stdout == ""


@pytest.mark.parametrize("text", [*MEANT[:4], "5"])
def test_text_said_to_be_text_is_the_same_alike(invoke: Invoke, endpoint: str, text: str) -> None:
    with Client(endpoint) as client:
        job = client.create(input=text, as_text=True)
    for arguments in (("--text", text), ("--text", "-")):
        made = msgspec.json.decode(invoke("create", "--json", *arguments, input=text).stdout)
        assert (made["input"], made["input_hash"]) == (text, job.input_hash)


def test_without_a_broker_it_ends_at_once(invoke: Invoke, tmp_path: Path) -> None:
    nowhere = f"ipc://{tmp_path}/s"
    result = invoke("create", "-", "--endpoint", nowhere, "--answer-timeout", "0.1", input="a\nb")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[0] == "0 jobs created, then:"
    assert "start a broker" in result.stderr


def test_broker_lost_during_a_batch(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    create_many = Client.create_many

    def lost(client: Client, rows: object) -> list[Job]:
        (job,) = create_many(client, [{"input": "x"}])
        raise BatchError([job, BrokerUnreachableError("no broker at x")])

    monkeypatch.setattr(Client, "create_many", lost)
    result = invoke("create", "-", input="a\nb\nc")
    assert result.exit_code == 3
    assert len(result.stdout.splitlines()) == 1
    said, error = result.stderr.splitlines()
    assert said == "1 job created, then:"
    assert error.startswith("tollgate: no broker at x; ")


def test_error_that_is_not_a_refusal(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def unclear(_: Client, rows: object) -> list[Job]:
        raise BatchError([TollgateError("odd")])

    monkeypatch.setattr(Client, "create_many", unclear)
    result = invoke("create", "-", input="a")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == "line 1: odd"


def test_lines_are_numbered_across_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "READ_BYTES", 4)
    parts = list(arriving(io.BytesIO(b"ab\ncdefghi\nj\n\nk")))
    assert [line for lines, _ in parts for line in lines] == [
        (1, b"ab"),
        (2, b"cdefghi"),
        (3, b"j"),
        (4, b""),
        (5, b"k"),
    ]
    assert sum(size_bytes for _, size_bytes in parts) == 15


def test_slow_pipe_gets_its_jobs_at_once(start: Callable[..., Popen[bytes]]) -> None:
    process = start("create", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(3):
        process.stdin.write(b"input %d\n" % number)
        process.stdin.flush()
        assert len(process.stdout.readline()) == 37  # before the next line is written
    process.stdin.close()
    assert process.wait() == 0


def test_ctrl_c_during_a_batch(start: Callable[..., Popen[bytes]]) -> None:
    process = start("create", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:  # it came just before read(), which then does not end
        process.send_signal(signal.SIGINT)
        code = process.wait()
    assert code == 130
    assert process.stderr.read() == b"1 job created, then:\ntollgate: interrupted\n"


def test_it_stops_when_stdout_is_closed(start: Callable[..., Popen[bytes]]) -> None:
    reader, writer = os.pipe()
    process = start("create", "-", stdout=writer)
    os.close(writer)
    os.close(reader)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.wait() == 1
    assert process.stderr.read().decode().startswith("tollgate: standard output was closed")
