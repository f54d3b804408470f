"""The gateway as an ASGI application: MIP-003's paths."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import msgspec
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from tollgate.client.aio import AsyncClient
from tollgate.domain.exceptions import TollgateError
from tollgate.domain.models import Job
from tollgate.gateway import request as read
from tollgate.gateway.agent import Agent
from tollgate.gateway.gate import FIELDS, Gate, Receive, Scope, Send
from tollgate.gateway.hiring import Hiring, started
from tollgate.gateway.limits import Limits
from tollgate.gateway.openapi import document
from tollgate.gateway.request import HttpError
from tollgate.gateway.status import provide, status_of
from tollgate.job_log import log_fields
from tollgate.masumi.api import PaymentService

log = logging.getLogger("tollgate.gateway")

PING_S: Final = 2.0
IDENTIFIER_BYTES: Final = 13
"""Of the identifier for a purchaser without one."""
_HEXADECIMAL: Final = frozenset("0123456789abcdef")


def build(agent: Agent, client: AsyncClient, payments: PaymentService | None = None) -> Any:  # noqa: ANN401 - an ASGI application
    """Return the application of an agent. It closes `client` and `payments` at its end.

    `payments` is needed unless the agent is free.
    """
    endpoints = _Endpoints(agent, client, payments)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(client)
            if payments is not None:
                await stack.enter_async_context(payments)
            checking = asyncio.create_task(_check_roles(agent, client))
            yield
            checking.cancel()

    router = Router(
        routes=[
            Route("/start_job", endpoints.start_job, methods=["POST"]),
            Route("/status", endpoints.status, methods=["GET"]),
            Route("/provide_input", endpoints.provide_input, methods=["POST"]),
            Route("/availability", endpoints.availability, methods=["GET"]),
            Route("/input_schema", endpoints.input_schema, methods=["GET"]),
            Route("/demo", endpoints.demo, methods=["GET"]),
            Route("/openapi.json", endpoints.openapi, methods=["GET"]),
        ],
        lifespan=lifespan,
        redirect_slashes=False,  # the registry of agents follows no redirect
    )
    limits = Limits(agent.http)
    gate = Gate(router, agent.http, limits)
    if not agent.http.cors_origins:
        return gate
    pages = CORSMiddleware(
        gate,
        allow_origins=agent.http.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["content-type", "x-request-id", "traceparent"],
        expose_headers=["x-request-id", "retry-after"],
    )
    preflights = Gate(pages, agent.http, limits)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        """Let preflights through a gate, too: `pages` answers them by itself."""
        is_preflight = scope.get("method") == "OPTIONS" and any(
            name == b"access-control-request-method" for name, _ in scope["headers"]
        )
        await (preflights if is_preflight else pages)(scope, receive, send)

    return app


async def _check_roles(agent: Agent, client: AsyncClient) -> None:
    """Say in the log what this gateway may not do. It is said at each refusal, too."""
    needed = {"producer", "payments"} if agent.is_free else {"producer"}
    try:
        hello = await client.ping()
    except TollgateError as fault:
        log.warning("no broker yet: %s", fault)
        return
    roles = set(hello.roles or [hello.role])
    if "admin" not in roles and (missing := needed - roles):
        log.error("the broker gives this gateway no role %s", " and ".join(sorted(missing)))


class _Endpoints:
    """The endpoints of one agent."""

    def __init__(self, agent: Agent, client: AsyncClient, payments: PaymentService | None) -> None:
        self._agent = agent
        self._client = client
        self._hiring = Hiring(agent, client, payments)
        self._schema = msgspec.json.encode(agent.input_schema.served())
        self._document = msgspec.json.encode(document(agent))
        self._available = msgspec.json.encode(
            {
                "status": "available",
                "type": "masumi-agent",
                **({"agentIdentifier": agent.identifier} if agent.identifier else {}),
                "message": agent.message or f"{agent.name} takes jobs",
            }
        )

    async def start_job(self, request: Request) -> Response:
        """Start a job, or find the one that the same hire has started before."""
        body = await request.body()
        hire = read.hire(body, self._agent, secrets.token_hex(IDENTIFIER_BYTES))
        job = await self._hiring.start(hire, _traceparent(request))
        request.scope[FIELDS].update(log_fields(job))
        return _json(msgspec.json.encode(started(job, hire)))

    async def status(self, request: Request) -> Response:
        """Show what became of a job."""
        job = await self._job(read.job_id_of_query(request.query_params.multi_items()))
        return _json(msgspec.json.encode(status_of(job, show_errors=self._agent.http.show_errors)))

    async def provide_input(self, request: Request) -> Response:
        """Give a job the answer to its question."""
        answer = read.answer(await request.body())
        request.scope[FIELDS]["job_id"] = answer.job_id[:40]
        job = await self._job(answer.job_id)
        request.scope[FIELDS].update(log_fields(job))
        answered = await provide(self._client, job, answer)
        return _json(msgspec.json.encode(answered))

    async def availability(self, _: Request) -> Response:
        """Say whether jobs are taken: whether the broker answers."""
        await self._client.ping(timeout_s=PING_S)
        return _json(self._available)

    async def input_schema(self, _: Request) -> Response:
        """Show what the input of a job must be."""
        return _json(self._schema)

    async def demo(self, _: Request) -> Response:
        """Show an example of input and output."""
        demo = self._agent.demo
        if demo is None:
            raise HttpError(404, "no_demo", "this agent has no demo")
        shown = {"input": demo.input, "output": {"result": demo.result}}
        return _json(msgspec.json.encode(shown))

    async def openapi(self, _: Request) -> Response:
        """Show this interface as an OpenAPI document."""
        return _json(self._document)

    async def _job(self, job_id: str) -> Job:
        """Return a job of this agent. Any other id is not found."""
        if read.is_id(job_id):
            job = await self._client.get(job_id.lower())
            if job.queue == self._agent.queue:
                return job
        raise HttpError(404, "job_not_found", "there is no such job")


def _json(text: bytes) -> Response:
    return Response(text, media_type="application/json")


def _traceparent(request: Request) -> str | None:
    """Return the trace that a job belongs to, if the caller sent one (W3C Trace Context)."""
    told = request.headers.get("traceparent", "")
    parts = told.split("-")
    is_valid = [len(part) for part in parts] == [2, 32, 16, 2] and set(told) <= _HEXADECIMAL | {"-"}
    return told if is_valid else None
