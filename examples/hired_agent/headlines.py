"""The handler of the agent: it makes a headline of the first sentence of a text."""

import json

import tollgate

STYLES = {
    "input_data": [
        {"id": "style", "type": "radio", "name": "Style", "data": {"values": ["plain", "loud"]}}
    ]
}


def write(job: tollgate.Job, ctx: tollgate.Context) -> str:
    """Return the headline. Without a style it asks for one, and goes on with the answer."""
    data = json.loads(job.input or "{}")
    style = data["style"] if "style" in data else json.loads(ctx.ask(STYLES))["style"]
    headline = data["text"].split(".")[0].strip()
    # Callers send a choice as its value or its position, alone or in a list.
    is_loud = style in ("loud", 1, ["loud"], [1])
    return f"{headline.upper()}!" if is_loud else headline
