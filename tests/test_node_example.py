"""examples/node, written from docs/protocol.md alone, gets along with a real broker."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "node"


def missing() -> str | None:
    """Return why the example cannot be run; None if it can."""
    if shutil.which("node") is None:
        return "Node.js is not installed"
    packages = ("zeromq", "@msgpack/msgpack")
    if not all((EXAMPLE / "node_modules" / package).is_dir() for package in packages):
        return "the packages of examples/node are not installed: run npm ci there"
    return None


@pytest.fixture
def node() -> str:
    reason = missing()
    if reason is not None and os.environ.get("NODE_EXAMPLE") == "required":
        pytest.fail(reason)  # `npm test` was asked for: there is nothing to skip
    if reason is not None:
        pytest.skip(reason)
    return shutil.which("node") or "node"


@pytest.fixture
def endpoint() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="tollgate-") as directory:
        url = f"ipc://{directory}/broker.sock"
        command = [sys.executable, "-m", "tollgate.broker", "--in-memory", "--bind", url]
        broker = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            yield url
            assert broker.poll() is None, "the broker did not survive the example"
        finally:
            broker.send_signal(signal.SIGTERM)
            try:
                broker.wait(timeout=10)
            except subprocess.TimeoutExpired:
                broker.kill()
                broker.wait()


def run(node: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [node, "lifecycle.js", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "TOLLGATE_ENDPOINT"}
    return subprocess.run(
        command,
        cwd=EXAMPLE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=45,
    )


def test_it_takes_a_job_through_the_gate(node: str, endpoint: str) -> None:
    for completed in (1, 2):  # the second time, there is a job already
        outcome = run(node, endpoint)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        assert f"count: {completed} in all, {completed} completed" in outcome.stdout
        assert "refused, as it should be: illegal_transition" in outcome.stdout
        assert "history: " in outcome.stdout


def test_it_fails_where_there_is_no_broker(node: str, tmp_path: Path) -> None:
    outcome = run(node, f"ipc://{tmp_path}/nobody.sock")
    assert outcome.returncode == 1
    assert outcome.stderr


def test_it_fails_where_an_answer_is_not_as_it_should_be(node: str, tmp_path: Path) -> None:
    url = f"ipc://{tmp_path}/liar.sock"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as liar:
        liar.bind(url)

        def lie() -> None:
            peer, frame = liar.recv_multipart()
            seq = msgspec.msgpack.decode(frame)["seq"]
            hello = {"type": "hello", "protocol": 2}
            answer = {"type": "reply", "v": 1, "seq": seq, "results": [hello]}
            liar.send_multipart((peer, msgspec.msgpack.encode(answer)))

        thread = threading.Thread(target=lie)
        thread.start()
        outcome = run(node, url)
        thread.join()
    assert outcome.returncode == 1
    assert "AssertionError" in outcome.stderr


def test_it_asks_for_an_endpoint(node: str) -> None:
    outcome = run(node)
    assert outcome.returncode == 2
    assert "usage" in outcome.stderr
