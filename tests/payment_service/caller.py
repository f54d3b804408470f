"""A clock to set, and calls over HTTP without a library."""

import http.client
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.payment_service.server import Server

START_S = 1_800_000_000.0


@dataclass
class Clock:
    now_s: float = START_S

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Caller:
    server: Server
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, method: str, path: str, **values: Any) -> tuple[int, Any]:
        status, _, text = self.raw(method, path, **values)
        return status, json.loads(text)

    def raw(self, method: str, path: str, **values: Any) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(self.server.url)
        query = "?" + urlencode(values) if method == "GET" and values else ""
        body = json.dumps(values) if method == "POST" else None
        headers = {"token": self.server.token, "Content-Type": "application/json", **self.headers}
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        try:
            connection.request(method, parts.path + path + query, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()
