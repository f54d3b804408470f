"""Gateways as processes, in front of a broker and a stand-in for the payment service."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

ROOT = Path(__file__).parents[2]
PATIENCE_S: Final = 30.0
FREE: Final = """\
name = "Echo"
price = "free"
queue = "echo"

[[input_data]]
id = "text"
type = "text"
name = "Text"
validations = [{ validation = "max", value = "1000" }]

[demo]
input = { text = "hello" }
result = "HELLO"
"""
PAID: Final = """\
name = "Writer"
queue = "writer"
identifier = "{agent}"
message = "Writes what you like"

[[input_data]]
id = "topic"
type = "text"
name = "Topic"
validations = [{{ validation = "min", value = "3" }}]

[[input_data]]
id = "words"
type = "number"
name = "Words"
validations = [
  {{ validation = "format", value = "integer" }},
  {{ validation = "optional", value = "true" }},
]

[payment_service]
url = "{url}"
token_file = "token"
network = "Preprod"
timeout_s = 2

[deadlines]
pay_by = "30m"
submit_result = "2h"
unlock = "3h"
external_dispute_unlock = "4h"
"""
PURCHASER: Final = "aabbccddeeff0011"


class GatewayProcess:
    """A gateway that listens on a free port of 127.0.0.1."""

    def __init__(
        self, directory: Path, agent: str, endpoint: str, *options: str, port: int = 0
    ) -> None:
        self.directory = directory
        self._stderr = directory / f"gateway.{time.monotonic_ns()}.err"
        command = [
            sys.executable, "-P", "-m", "tollgate.gateway", agent, "--endpoint", endpoint,
            "--port", str(port), "--log-format", "json", *options,
        ]  # fmt: skip
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=directory, stdin=subprocess.DEVNULL, stderr=stderr
            )

    def wait_until_ready(self) -> None:
        """Return when it listens. Raises AssertionError with its log if it ends or hangs."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            for event in self.log():
                if event["event"] == "listening":
                    self.url = str(event["url"])
                    return
            time.sleep(0.01)
        raise AssertionError(f"the gateway is not ready: {self._stderr.read_text()}")

    def log(self) -> list[dict[str, Any]]:
        """Return its log so far."""
        lines = self._stderr.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def logged(self, **fields: Any) -> dict[str, Any]:
        """Return the line of the log that has these fields, when it is there."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for event in self.log():
                if fields.items() <= event.items():
                    return event
            time.sleep(0.01)
        raise AssertionError(f"no line has {fields}: {self.log()}")

    def get(self, path: str, **query: str) -> httpx.Response:
        return httpx.get(self.url + path, params=query, timeout=PATIENCE_S)

    def post(
        self, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a body: bytes as they are, anything else as JSON."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(self.url + path, content=text, headers=headers, timeout=PATIENCE_S)

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Stop it with a signal, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(by)
        return self.process.wait(PATIENCE_S)


@contextmanager
def running_gateway(
    directory: Path, agent: str, endpoint: str, *options: str, port: int = 0
) -> Iterator[GatewayProcess]:
    """Run a gateway for an agent, the text of an `agent.toml`; check how it leaves."""
    (directory / "agent.toml").write_text(agent)
    gateway = GatewayProcess(directory, "agent.toml", endpoint, *options, port=port)
    try:
        gateway.wait_until_ready()
        yield gateway
        assert gateway.stop() == 0, gateway.log()
    finally:
        if gateway.process.poll() is None:
            gateway.process.kill()
            gateway.process.wait(PATIENCE_S)
