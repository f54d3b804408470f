"""The trace of a job's creator reaches its handler, and the lines that the handler logs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tollgate.testing import Broker

ROOT = Path(__file__).parents[2]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HANDLERS = """
def plain(job, ctx):
    ctx.log.info("plain is here")
    return str(ctx.traceparent)

async def in_loop(job, ctx):
    ctx.log.info("in_loop is here")
    return str(ctx.traceparent)
"""


@pytest.mark.parametrize("handler", ["plain", "in_loop"])
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_handlers_see_the_trace(tmp_path: Path, handler: str, isolation: str) -> None:
    (tmp_path / "traced.py").write_text(HANDLERS)
    with Broker() as broker, broker.connect() as client:
        with_trace = broker.pay(client.create("0" * 64, traceparent=PARENT)).job_id
        without = broker.pay(client.create("0" * 64)).job_id
        done = subprocess.run(
            [sys.executable, "-m", "tollgate.worker", "--handler", f"traced:{handler}",
             "--isolation", isolation, "--drain", "--endpoint", broker.endpoint,
             "--log-format", "json"],
            cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert client.get(with_trace).result == PARENT
        assert client.get(without).result == "None"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    logged = {line["job_id"]: line for line in lines if line["event"] == f"{handler} is here"}
    assert logged[with_trace]["traceparent"] == PARENT
    assert "traceparent" not in logged[without]


FAULTS = """
import time
import tollgate

def handler(job, ctx):
    if job.input == "hangs":
        time.sleep(60)
    if job.input == "retries" and ctx.attempt == 1:
        raise tollgate.Retry(after_s=0.01)
    if job.input == "fails":
        raise tollgate.Fail("no such thing")
    return "x" * 70_000 if job.input == "long" else "done"
"""
TOLD = {
    "retries": "try 1 of 2: ",
    "fails": "try 1 of 2: no such thing; the job fails",
    "hangs": "its process is killed: ",
    "long": "the handler's result has ",
}
"""A part of a line that the worker itself logs about each job, by its input."""


@pytest.mark.parametrize("form", ["json", "console"])
def test_lines_of_the_worker_carry_the_trace(tmp_path: Path, form: str) -> None:
    (tmp_path / "faults.py").write_text(FAULTS)
    with Broker() as broker, broker.connect() as client:
        jobs = {
            text: broker.pay(client.create(input=text, traceparent=PARENT)).job_id for text in TOLD
        }
        untraced = broker.pay(client.create(input="fails")).job_id
        done = subprocess.run(
            [sys.executable, "-m", "tollgate.worker", "--handler", "faults:handler",
             "--isolation", "process", "--timeout-s", "4", "--max-attempts", "2", "--drain",
             "--endpoint", broker.endpoint, "--log-format", form, "--log-level", "debug"],
            cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "job " in line]
    for text, told in TOLD.items():
        of_job = [line for line in lines if jobs[text] in line]
        assert any(told in line for line in of_job), done.stderr
        if form == "json":
            assert {json.loads(line)["traceparent"] for line in of_job} == {PARENT}
            assert {json.loads(line)["job_id"] for line in of_job} == {jobs[text]}
        else:
            assert all(f"traceparent={PARENT}" in line for line in of_job), done.stderr
    assert not [line for line in lines if untraced in line and "traceparent" in line]
