"""What every request passes: its id, the limits, the time it may take, and its line in the log."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tollgate.gateway.agent import HttpSettings
from tollgate.gateway.errors import response_to
from tollgate.gateway.limits import Limits
from tollgate.gateway.request import HttpError

log = logging.getLogger("tollgate.gateway")

FIELDS: Final = "tollgate.fields"
"""The key of a scope at which endpoints put what the log should show."""
HIRES: Final = "/start_job"
"""How the paths of hires begin: the router takes a line break behind it, too."""
DRAINED: Final = 16
"""How many times the limit of a body is read before its caller gets an answer.

A caller that is still sending when its connection is closed reads no answer.
"""
DRAIN_S: Final = 2.0
"""How long that may take in all: the caller counts as an open request until then."""
PATH_CHARACTERS: Final = 100
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gate:
    """Lets requests into an application, and answers those that must stay outside."""

    def __init__(self, app: App, settings: HttpSettings, limits: Limits) -> None:
        self._app = app
        self._settings = settings
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self  # then the router raises what is wrong, and sends no text of its own
        passage = _Passage(scope, receive, send, self._settings.body_bytes)
        address, key = passage.address, None
        try:
            is_hire = scope["method"] == "POST" and scope["path"].startswith(HIRES)
            key = self._limits.enter(address, passage.began_at, is_hire=is_hire)
            async with asyncio.timeout(self._settings.timeout_s):
                await self._app(scope, passage.receive, passage.send)
        except Exception as fault:  # noqa: BLE001 - each gets its answer
            await passage.answer(fault)
        finally:
            if key is not None:
                self._limits.leave(key)
            passage.log()


class _Passage:
    """One request on its way: counts its body, and sees its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, body_bytes: int) -> None:
        self.began_at = time.monotonic()
        self.address: str = (scope.get("client") or ("",))[0]
        self._scope = scope
        self._receive = receive
        self._send = send
        self._most = body_bytes
        self._read = 0
        self._is_read = False
        self._status = 0
        self._fields: dict[str, Any] = {}
        scope[FIELDS] = self._fields
        told = dict(scope["headers"]).get(b"x-request-id", b"")
        self._id = told if _REQUEST_ID.fullmatch(told) else secrets.token_hex(8).encode()

    async def receive(self) -> Message:
        """Return the next part of the body. Raises HttpError if it is too large."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            self._is_read = not message.get("more_body", False)
            if self._read > self._most:
                raise self._too_large()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self._id)]
        await self._send(message)

    async def answer(self, fault: Exception) -> None:
        """Send the answer to an exception, unless an answer has begun or the caller has left."""
        if isinstance(fault, ClientDisconnect):
            self._fields["error"] = "the caller has left"
            return
        if isinstance(fault, TimeoutError):
            fault = self._late()
        elif isinstance(fault, HTTPException):
            fault = _not_there(fault)
        response, error = response_to(fault, self._id.decode())
        self._fields["error"] = error.code
        self._fields["why"] = error.message if error is fault else str(fault)
        if self._status:
            return
        if error.status == 413:  # noqa: PLR2004 - too large
            await self._drain()
        await response(self._scope, self._receive, self.send)

    async def _drain(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while not self._is_read and self._read < DRAINED * self._most:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        return
                    self._read += len(message.get("body", b""))
                    self._is_read = not message.get("more_body", False)

    def log(self) -> None:
        """Write the line of this request; those that only look and went well are for debugging."""
        looks = self._scope["method"] in {"GET", "HEAD", "OPTIONS"}
        is_quiet = self._status == 200 and looks  # noqa: PLR2004
        level = logging.DEBUG if is_quiet else logging.INFO
        if log.isEnabledFor(level):
            fields = {
                "request_id": self._id.decode(),
                "method": self._scope["method"],
                "path": self._scope["path"][:PATH_CHARACTERS],
                "status": self._status,
                "ms": round((time.monotonic() - self.began_at) * 1_000, 1),
                "address": self.address,
                **self._fields,
            }
            log.log(level, "request", extra=fields)

    def _too_large(self) -> HttpError:
        return HttpError(413, "too_large", f"the body has more than {self._most} bytes")

    def _late(self) -> HttpError:
        if self._scope["method"] == "POST" and not self._is_read:
            return HttpError(408, "too_slow", "the body did not come in time")
        return HttpError(503, "too_slow", "there was no answer in time", retry_after_s=1)


def _not_there(fault: HTTPException) -> HttpError:
    if fault.status_code == 405:  # noqa: PLR2004
        allowed = ", ".join(sorted((fault.headers or {}).get("Allow", "").split(", ")))
        return HttpError(405, "method_not_allowed", f"this path takes {allowed}", allow=allowed)
    return HttpError(404, "not_found", "there is no such path; /openapi.json lists them all")
