"""An agent that writes letters: it asks, reports, tries again later, and stops when it is told.

It may be killed at any moment. Another worker then calls `write` from its start, and what was
asked and answered before is not asked again.
"""

import asyncio
import json
import logging
import sys
from typing import Any

import tollgate

QUESTION = {
    "input_data": [
        {
            "id": "tone",
            "type": "option",
            "name": "Which tone?",
            "data": {"values": ["formal", "friendly"]},
        }
    ]
}
GREETINGS = {"formal": "Dear Sir or Madam", "friendly": "Hi there"}


class ModelBusyError(Exception):
    """The model takes no more requests now."""


async def paragraph(topic: str, attempt: int) -> str:
    """Stand for a call of a language model: it takes a while, and is busy now and then."""
    await asyncio.sleep(0.2)
    if topic == "traffic" and attempt == 1:
        raise ModelBusyError
    return f"As to {topic}, all is well."


async def write(job: tollgate.Job, ctx: tollgate.AsyncContext) -> str:
    """Write a letter about the topics of a job."""
    topics = topics_of(job)
    answer: dict[str, Any] = json.loads(await ctx.ask(QUESTION))
    letter = [GREETINGS.get(answer.get("tone", ""), "Hello")]
    for number, topic in enumerate(topics):
        if ctx.stop_requested:  # a refund, for example; what to do then is the agent's decision
            raise tollgate.Fail(f"stopped after {number} of {len(topics)} topics")
        ctx.progress(f"writing about {topic}", number / len(topics))
        try:
            letter.append(await paragraph(topic, ctx.attempt))
        except ModelBusyError:
            raise tollgate.Retry("the model is busy", after_s=1) from None
    ctx.log.info("wrote %d paragraphs at try %d", len(topics), ctx.attempt)
    return json.dumps({"letter": "\n\n".join(letter)})


def topics_of(job: tollgate.Job) -> list[str]:
    """Return the topics; an input that no try could use fails the job at once."""
    try:
        topics = json.loads(job.input or "")["topics"]
    except (ValueError, KeyError, TypeError):
        raise tollgate.Fail('the input must be like {"topics": ["rain"]}') from None
    return [str(topic) for topic in topics]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    sys.exit(tollgate.Worker(write, max_attempts=5, timeout_s=300).run())
