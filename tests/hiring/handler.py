"""The handler of the run: its results depend on input and answers, and differ from call to call."""

import asyncio
import json
import os
import random
import time
from pathlib import Path
from typing import Any, Final

from tests.hiring.audit import Note
from tollgate import Job

NOTES: Final = "HIRING_NOTES"
"""Environment variable: the file in which the handlers note what they return."""
COLOURS: Final = ("red", "green", "blue", "white")


async def answer(job: Job, ctx: Any, *, off_by: int = 0) -> str:
    wanted = json.loads(job.input or "{}")
    colours = []
    for place in range(wanted["questions"]):
        await asyncio.sleep(random.uniform(0.0, 0.1))
        colours.append(json.loads(await ctx.ask(question(place)))["colour"][0])
    await asyncio.sleep(random.uniform(0.0, 0.2))
    number = wanted["number"] + off_by
    result = json.dumps({"number": number, "colours": colours, "call": os.urandom(8).hex()})
    note(Note(job.job_id, result, os.getpid(), time.time()))
    return result


async def of_another(job: Job, ctx: Any) -> str:
    """Do what must be found: return the result of another buyer's input."""
    return await answer(job, ctx, off_by=1)


def question(place: int) -> dict[str, Any]:
    """Return a schema as MIP-003 defines it. No two questions of a job have the same hash."""
    field = {
        "id": "colour",
        "type": "option",
        "name": f"Colour {place + 1}",
        "data": {"values": list(COLOURS)},
        "validations": [{"validation": "max", "value": "1"}],
    }
    return {"input_data": [field]}


def note(told: Note) -> None:
    """Write a note down at once: the next moment may be the last one."""
    file = os.open(os.environ[NOTES], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{json.dumps(told)}\n".encode())
    os.close(file)


def noted(path: Path) -> list[Note]:
    """Return all notes."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Note(*json.loads(line)) for line in lines]
