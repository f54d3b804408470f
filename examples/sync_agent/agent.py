"""A synchronous agent: it searches texts by the patterns that its purchasers send.

A regular expression can take hours, and holds the interpreter all the time: no thread could be
stopped, and none beside it would run. So each job runs in a process of its own, which the worker
ends after `timeout_s`; the other jobs notice nothing.
"""

import json
import logging
import re
import sys

import tollgate


def search(job: tollgate.Job, ctx: tollgate.Context) -> str:
    """Return what the pattern finds in the text."""
    try:
        task = json.loads(job.input or "")
        pattern, text = re.compile(task["pattern"]), str(task["text"])
    except (ValueError, KeyError, TypeError, re.error) as fault:
        raise tollgate.Fail(f"the input must be a pattern and a text: {fault}") from None
    found = []
    for match in pattern.finditer(text):
        found.append(match.group())
        ctx.progress(f"{len(found)} found", match.end() / max(len(text), 1))
    return json.dumps({"found": found}, ensure_ascii=False)


def main() -> int:
    """Work until a signal; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    worker = tollgate.Worker(
        search,
        isolation="process",
        concurrency=2,
        timeout_s=3,
        max_attempts=2,
        backoff_s=0.5,
        recycle_jobs=1_000,
        recycle_memory_mb=512,
    )
    return worker.run()


# The processes of the handlers import this file. Without the condition each would start a worker.
if __name__ == "__main__":
    sys.exit(main())
