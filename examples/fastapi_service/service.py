"""A web service over one broker, in as many processes as you like: none of them keeps a job."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import tollgate

CODES = {
    tollgate.ArgumentError: 400,
    tollgate.JobNotFoundError: 404,
    tollgate.VersionConflictError: 409,  # the question was answered already
    tollgate.InvalidStateTransitionError: 409,
    tollgate.TooLargeError: 413,
}
client = tollgate.AsyncClient(timeout_s=5)  # opens nothing until its first call


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Close the client at the end, so that the broker ends what this process still waits for."""
    async with client:
        yield


app = FastAPI(title="Letters", lifespan=lifespan)


class Start(BaseModel):
    """What a purchaser sends."""

    identifier_from_purchaser: str
    input_data: dict[str, Any]


class Answer(BaseModel):
    """The answer to the question that the job asked at this version."""

    version: int
    input_data: dict[str, Any]


@app.exception_handler(tollgate.TollgateError)
async def refuse(_: Request, fault: tollgate.TollgateError) -> JSONResponse:
    """Turn what the broker or the client says into an answer; 503 may be sent again."""
    code = next((code for kind, code in CODES.items() if isinstance(fault, kind)), 503)
    return JSONResponse({"error": str(fault)}, code)


@app.post("/jobs", status_code=201)
async def start(body: Start) -> dict[str, Any]:
    """Create a job that waits for its payment. A request that is sent twice makes one job."""
    input_hash = tollgate.input_hash(body.identifier_from_purchaser, body.input_data)
    job_id = uuid5(NAMESPACE_URL, f"{body.identifier_from_purchaser};{input_hash}")
    try:
        job = await client.create(
            input=json.dumps(body.input_data),
            identifier_from_purchaser=body.identifier_from_purchaser,
            job_id=job_id,
            pay_by_time=datetime.now(UTC) + timedelta(hours=1),
        )
    except tollgate.JobConflictError:  # sent before, when its time to pay began
        job = await client.get(job_id)
    return {**shown(job), "pay_to": job.blockchain_identifier, "input_hash": job.input_hash}


@app.get("/jobs/{job_id}")
async def status(job_id: UUID) -> dict[str, Any]:
    """Say how far a job is; any process can tell."""
    return shown(await client.get(job_id))


@app.post("/jobs/{job_id}/input")
async def provide_input(job_id: UUID, body: Answer) -> dict[str, Any]:
    """Answer the question of a job; a second answer to the same question is 409."""
    text = json.dumps(body.input_data)
    return shown(await client.provide_input(job_id, text, expected_version=body.version))


@app.get("/availability")
async def availability() -> dict[str, Any]:
    """Say whether jobs can be started: 503 while the broker is away."""
    await client.ping(timeout_s=1)
    return {"status": "available", "process": os.getpid()}


def shown(job: tollgate.Job) -> dict[str, Any]:
    """Return what a purchaser may see of a job."""
    question = job.input_schema if job.status == tollgate.JobStatus.AWAITING_INPUT else None
    return {
        "job_id": job.job_id,
        "status": job.status,
        "version": job.version,
        "question": question and json.loads(question),
        "progress": job.progress and job.progress.text,
        "result": job.result,
        "error": job.error,
    }
