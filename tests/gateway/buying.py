"""What a buyer's program does over HTTP: hire, look and answer, and try again when it must."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
import rfc8785

PAUSE_S: Final = 0.2
"""Before the next try, when a call got no answer at all."""
TRIED_AGAIN: Final = frozenset({429, 503})
"""Answers that ask for another try, and say when."""


class RefusedError(Exception):
    """The gateway refuses a call. `status` is HTTP's, `code` is the gateway's word for it."""

    def __init__(self, call: str, answer: httpx.Response) -> None:
        super().__init__(f"{call}: {answer.status_code} {answer.text[:200]}")
        self.status = answer.status_code
        self.code = code_of(answer)


class GatewayClient:
    """Calls a gateway again and again until it answers, so the caller must bound the time.

    Args:
        url: of the gateway, such as `http://127.0.0.1:8000`.
        http: sends the requests; the caller closes it.
        pause_s_max: the longest pause before another try, whatever `Retry-After` says.
        retrying: is told of each call that has to be tried again, and why.

    All calls return the JSON of a 200, and raise RefusedError for all that another try would not
    change.
    """

    def __init__(
        self,
        url: str,
        http: httpx.AsyncClient,
        *,
        pause_s_max: float = 10.0,
        retrying: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.url = url
        self._http = http
        self._pause_s_max = pause_s_max
        self._retrying = retrying

    async def start_job(self, purchaser: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Hire. The same purchaser and data are the same hire, however often it is sent."""
        body = {"identifier_from_purchaser": purchaser, "input_data": data}
        return await self._call("POST", "/start_job", json=body)

    async def status(self, job_id: str) -> dict[str, Any]:
        return await self._call("GET", "/status", params={"job_id": job_id})

    async def provide_input(
        self, job_id: str, question: Mapping[str, str], data: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Answer a question; `question` is what `by_status_id` or `by_schema_hash` returns."""
        body = {"job_id": job_id, **question, "input_data": data}
        return await self._call("POST", "/provide_input", json=body)

    async def _call(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        call = f"{method} {path}"
        while True:
            try:
                answer = await self._http.request(method, self.url + path, **what)
            except httpx.TransportError as fault:  # no connection, or it broke, or no answer
                why, pause_s = type(fault).__name__, PAUSE_S
            else:
                if answer.status_code == 200:
                    told: dict[str, Any] = answer.json()
                    return told
                if answer.status_code not in TRIED_AGAIN:
                    raise RefusedError(call, answer)
                why = f"{answer.status_code} {code_of(answer)}"
                pause_s = float(answer.headers["retry-after"])
            self._retrying(f"{call}: {why}")
            await asyncio.sleep(min(pause_s, self._pause_s_max))


def code_of(answer: httpx.Response) -> str:
    """Return the gateway's word for what is wrong, or nothing if it has none."""
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def by_status_id(status: Mapping[str, Any]) -> dict[str, str]:
    """Name the question of a status as MIP-003 does."""
    return {"status_id": status["id"]}


def by_schema_hash(status: Mapping[str, Any]) -> dict[str, str]:
    """Name the question of a status as the newest callers do: by the hash of what it shows."""
    shown = rfc8785.dumps(status["input_schema"])
    return {"input_schema_hash": hashlib.sha256(shown).hexdigest()}


NAMES: Final = {"status_id": by_status_id, "input_schema_hash": by_schema_hash}
"""Both ways to name a question."""
