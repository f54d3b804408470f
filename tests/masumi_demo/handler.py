"""The agent of the demonstration: it works for a moment, and asks some of its buyers."""

import asyncio
import json
from typing import Any

import tollgate

QUESTION = {
    "input_data": [
        {
            "id": "style",
            "type": "option",
            "name": "In which style?",
            "data": {"values": ["short", "solemn", "cheerful"]},
            "validations": [{"validation": "max", "value": "1"}],
        }
    ]
}
"""As MIP-003 has it: the gateway shows it, and checks the answer by it."""


async def answer(job: tollgate.Job, ctx: Any) -> str:
    """Return a text for the job; stop if the buyer wants the money back."""
    wanted = json.loads(job.input or "{}")
    for step in range(wanted["steps"]):
        if ctx.stop_requested:
            raise tollgate.Fail("the buyer asked for a refund")
        ctx.progress("writing", step / wanted["steps"])
        await asyncio.sleep(0.3)
    style = json.loads(await ctx.ask(QUESTION))["style"][0] if wanted["asks"] else "plain"
    return f'A {style} text about "{wanted["topic"]}".\nWritten by {ctx.log.name}.'
