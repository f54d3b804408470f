"""Gateways as processes, in front of a broker and a stand-in for the payment service."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.serving import PATIENCE_S, ServingProcess

ROOT = Path(__file__).parents[2]
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


class GatewayProcess(ServingProcess):
    """A gateway that listens on a free port of 127.0.0.1."""

    def __init__(
        self, directory: Path, agent: str, endpoint: str, *options: str, port: int = 0
    ) -> None:
        super().__init__(
            directory, "tollgate.gateway", agent, "--endpoint", endpoint, "--port", str(port),
            *options,
        )  # fmt: skip

    def logged(self, text: str = "", **fields: Any) -> dict[str, Any]:
        """Return the line of the log with this text in its event and these fields."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for event in self.log():
                if text in event["event"] and fields.items() <= event.items():
                    return event
            time.sleep(0.01)
        raise AssertionError(f"no line has {text!r} and {fields}: {self.log()}")

    def get(self, path: str, **query: str) -> httpx.Response:
        return httpx.get(self.url + path, params=query, timeout=PATIENCE_S)

    def post(
        self, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a body: bytes as they are, anything else as JSON."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(self.url + path, content=text, headers=headers, timeout=PATIENCE_S)


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
        gateway.kill()
