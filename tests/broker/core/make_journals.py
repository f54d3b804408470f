"""Writes data/journal-2 and data/compacted-2, and what this tree says about them, for later trees.

Run it as a module, from the tree that is released, with tests/broker/core/data as the argument; add
both to `test_old_journals`. What is released is never made again. The tests write them to a
temporary directory, with the snapshot at every place.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.broker.core.make_old_journals import (
    HELLO,
    HOUR_MS,
    OWN_ID,
    Talk,
    answer,
    claim,
    create,
    live,
    move,
    release,
    said,
    started,
    touch,
    write,
)
from tests.core import EPOCH, HASH, job_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

SESSION = 5


def live_2() -> tuple[Talk, int]:
    """Let all that format 1 knows happen to a core, and then what came with format 2.

    Returns also where to cut the journal.
    """
    talk, _ = live()
    talk.ask({**HELLO, "client": "maker@host:1"})
    cut = len(talk.records)
    _queue(talk)
    _work(talk)
    _settle(talk)
    _line_up(talk)
    return talk, cut


def _queue(talk: Talk) -> None:
    """Jobs 22 to 29 in three queues, delayed, with priorities; one queue is paused."""
    soon = talk.wall.replace(microsecond=0) + (EPOCH.replace(hour=1) - EPOCH)
    talk.ask_in(
        SESSION, 1,
        create(queue="a", priority=3, meta="m" * 40),
        create(queue="a", priority=1, settle=True),
        create(queue="b", not_before=soon, traceparent=f"00-{'a' * 32}-{'b' * 16}-01"),
        *[create(queue="b", settle=True) for _ in range(3)],
        create(queue="c"),
        create(input="n" * 2_000),
    )  # fmt: skip
    talk.ask_in(SESSION, 2, *[move(number, "running") for number in range(22, 30)])
    talk.ask_in(
        SESSION, 3, {"type": "pause_queue", "queue": "c"}, {"type": "pause_queue", "queue": "d"}
    )
    talk.ask_in(SESSION, 4, {"type": "resume_queue", "queue": "d"})
    talk.pass_ms(3)


def _claim(talk: Talk, seq: int, **fields: Any) -> dict[int, int]:
    """Claim in the session, and return the tokens by the numbers of the jobs."""
    command = {**claim(limit=20, lease_ms=HOUR_MS), **fields}
    if "settlement" in fields:
        del command["status"]
    (granted,) = talk.ask_in(SESSION, seq, command)
    return {int(each["job"]["job_id"][:8], 16): each["lease"] for each in granted["leases"]}


def _work(talk: Talk) -> None:
    """Retries, holds, progress, a question under a kept lease, a stop, notes, and force."""
    tokens = _claim(talk, 5, queues=["a", "b", "default"])
    asked = move(22, "awaiting_input", input_schema="s", lease=tokens[22], keep_lease=True)
    progress = {"text": "half", "fraction": 0.5}
    talk.ask_in(
        SESSION, 6,
        asked,
        {**release(25, tokens[25]), "delay_ms": HOUR_MS * 2, "reason": "busy"},
        {**release(29, tokens[29]), "hold": True, "reason": "odd"},
        {**touch(23, tokens[23], HOUR_MS), "progress": progress},
        {"type": "hold", "job_id": OWN_ID, "reason": "look at it"},
        {"type": "request_stop", "job_id": job_id(23), "reason": "refund"},
        {"type": "annotate", "job_id": job_id(24), "meta": "note"},
    )  # fmt: skip
    talk.ask_in(SESSION, 28, move(21, "awaiting_input", lease=tokens[21], keep_lease=True))
    talk.pass_ms(11)
    talk.ask_in(SESSION, 7, {**answer(22, "told", 3), "input_hash": HASH})
    talk.ask_in(SESSION, 8, {"type": "resume", "job_id": OWN_ID})
    forced = {**move(27, "failed", error="e", expected_version=2), "force": True}
    talk.ask_in(SESSION, 9, forced)
    talk.ask_in(SESSION, 10, move(23, "completed", lease=tokens[23], result="r"))
    talk.ask_in(SESSION, 11, move(26, "completed", lease=tokens[26], result="r"))


def _settle(talk: Talk) -> None:
    """One settlement is tried again later, one is submitted, and one closed with its job."""
    both = _claim(talk, 12, settlement="wanted", limit=2)
    told = {"type": "settle", "job_id": job_id(23), "lease": both[23], "reason": "no answer"}
    talk.ask_in(SESSION, 13, {**told, "retry_after_ms": HOUR_MS})
    told = {"type": "settle", "job_id": job_id(26), "lease": both[26], "result_hash": HASH}
    talk.ask_in(SESSION, 14, {**told, "to": "submitted", "on_chain_state": "ResultSubmitted"})
    talk.pass_ms(1)
    talk.ask({"type": "settle", "job_id": job_id(27), "on_chain_state": "RefundRequested"})


def _line_up(talk: Talk) -> None:
    """Ready jobs of several queues and priorities, jobs 30 to 39, of which some come back."""
    jobs = [create(queue=queue, priority=each) for queue in ("a", "b", "c") for each in (5, 0, 5)]
    talk.ask_in(SESSION, 20, *jobs, create())
    talk.ask_in(SESSION, 21, *[move(number, "running") for number in range(39, 29, -1)])
    tokens = _claim(talk, 22, queues=["b", "a"], limit=3)
    talk.ask_in(SESSION, 23, *[release(*each) for each in tokens.items()])
    talk.ask_in(SESSION, 24, {"type": "hold", "job_id": job_id(31)})
    for seq in (25, 26):
        _claim(talk, seq, queues=["*"], limit=1)
    talk.pass_ms(1)
    talk.ask_in(SESSION, 27, {"type": "annotate", "job_id": job_id(31), "meta": "last"})


def said_2(directory: Path, wall: datetime, frames: Sequence[bytes]) -> dict[str, Any]:
    """Return what `said` returns, and what came with format 2."""
    facts = said(directory, wall, frames)
    talk = started(directory, wall)
    jobs = [job["job_id"] for job in facts["jobs"]]
    return {
        **facts,
        "histories": [talk.ask({"type": "history", "job_id": each}) for each in jobs],
        "shown": [talk.ask({"type": "get", "job_id": each, "lease": True}) for each in jobs],
        "kept lease": talk.ask(
            answer(21, "late", 3), {"type": "get", "job_id": job_id(21), "lease": True}
        ),
        "queues": [talk.ask({"type": "count", "queue": each}) for each in ("a", "b", "c", "d")],
        "claims of all": [
            talk.ask({**claim(limit=1), "queues": ["*"]}, {**claim("awaiting_payment", limit=1)})
            for _ in range(12)
        ],
        "settlements": [
            talk.ask({"type": "list", "limit": 9, "settlement": each})
            for each in ("pending", "wanted", "submitted", "closed")
        ],
        "delayed": [_hour_later(talk) for _ in range(3)],
    }


def _hour_later(talk: Talk) -> list[Any]:
    talk.pass_ms(HOUR_MS)
    return talk.ask({**claim(limit=9), "queues": ["b"]})


def main(data: Path, cut: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write both journals; return what is said about the whole one, and about the other one."""
    talk, usual_cut = live_2()
    facts = []
    for name, first in (("journal-2", 0), ("compacted-2", usual_cut if cut is None else cut)):
        write(data / name, talk.records, first)
        shutil.copytree(data / name, data / "copy")
        facts.append(said_2(data / "copy", talk.wall, talk.frames))
        shutil.rmtree(data / "copy")
    text = json.dumps({"wall": talk.wall.isoformat(), **facts[0]}, ensure_ascii=False, indent=1)
    (data / "said-2.json").write_text(text + "\n", encoding="utf-8")
    return facts[0], facts[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
