"""The agent of the demonstration: it works for a moment, and asks some of its buyers."""

import asyncio
import json
from typing import Any

import tollgate

QUESTION = '{"input_data": [{"id": "style", "type": "text", "name": "In which style?"}]}'


async def answer(job: tollgate.Job, ctx: Any) -> str:
    """Return a text for the job; stop if the buyer wants the money back."""
    wanted = json.loads(job.input or "{}")
    for step in range(wanted["steps"]):
        if ctx.stop_requested:
            raise tollgate.Fail("the buyer asked for a refund")
        ctx.progress("writing", step / wanted["steps"])
        await asyncio.sleep(0.3)
    style = await ctx.ask(QUESTION) if wanted["asks"] else "plain"
    return f'A {style} text about "{wanted["topic"]}".\nWritten by {ctx.log.name}.'
