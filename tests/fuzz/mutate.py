"""Almost valid frames: valid ones with damaged bytes or fields, from a seed."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from tests.core import HASH, job_id

CORPUS: Final = Path(__file__).parent / "corpus"
NEAR: Final = 64
"""Most bytes that are inserted or removed at once."""

pack = msgspec.msgpack.encode
TIME = datetime(2030, 1, 1, tzinfo=UTC)
COMMANDS: Final[tuple[dict[str, Any], ...]] = (
    {"type": "hello", "open_session": True},
    {
        "type": "create",
        "input_hash": HASH,
        "input": "ä\0",
        "job_id": job_id(1),
        "pay_by_time": TIME,
        "submit_result_time": TIME,
        "identifier_from_purchaser": "p",
    },
    {"type": "create", "input_hash": HASH, "blockchain_identifier": "b"},
    {"type": "get", "job_id": job_id(1)},
    {"type": "transition", "job_id": job_id(1), "target": "running", "expected_version": 1},
    {"type": "transition", "job_id": job_id(1), "target": "completed", "result": "r", "lease": 1},
    {"type": "provide_input", "job_id": job_id(1), "input": "x", "expected_version": 3},
    {"type": "cancel", "job_id": job_id(1)},
    {"type": "cancel", "job_id": job_id(1), "expected_version": 1},
    {"type": "count", "status": "failed"},
    {"type": "list", "limit": 3, "after": "1"},
    {"type": "wait", "job_ids": [job_id(1)], "timeout_ms": 5, "statuses": ["running"]},
    {"type": "claim", "status": "running", "lease_ms": 5, "wait_ms": 5, "limit": 2},
    {"type": "touch", "job_id": job_id(1), "lease": 1, "lease_ms": 5},
    {"type": "release", "job_id": job_id(1), "lease": 1},
    {"type": "hello", "open_session": True, "client": "fuzz@host:1"},
    {
        "type": "create", "input_hash": HASH, "job_id": job_id(2), "queue": "a.b-c_D9",
        "priority": 9, "not_before": TIME, "meta": "ä", "settle": True,
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    },
    {"type": "get", "blockchain_identifier": "b", "lease": True},
    {
        "type": "transition", "job_id": job_id(1), "target": "awaiting_input",
        "input_schema": "{}", "lease": 1, "keep_lease": True,
    },
    {
        "type": "transition", "job_id": job_id(1), "target": "failed", "expected_version": 2,
        "error": "e", "force": True,
    },
    {
        "type": "provide_input", "job_id": job_id(1), "input": "x", "expected_version": 3,
        "input_hash": HASH,
    },
    {"type": "hold", "job_id": job_id(1), "reason": "r", "expected_version": 2},
    {"type": "resume", "job_id": job_id(1), "expected_version": 2},
    {"type": "request_stop", "job_id": job_id(2), "reason": "r", "expected_version": 2},
    {"type": "annotate", "job_id": job_id(1), "meta": "m"},
    {"type": "annotate", "job_id": job_id(1), "meta": None, "expected_version": 2},
    {
        "type": "settle", "job_id": job_id(2), "lease": 1, "to": "submitted",
        "result_hash": HASH, "on_chain_state": "ResultSubmitted", "reason": "r",
        "retry_after_ms": 5,
    },
    {"type": "settle", "job_id": job_id(2), "on_chain_state": "FundsLocked"},
    {"type": "pause_queue", "queue": "a.b-c_D9"},
    {"type": "resume_queue", "queue": "a.b-c_D9"},
    {"type": "count", "queue": "default", "settlement": "wanted"},
    {"type": "list", "limit": 3, "queue": "a.b-c_D9", "settlement": "pending", "newest": True},
    {"type": "list", "limit": 3, "status": "running", "lease": True},
    {"type": "history", "job_id": job_id(1)},
    {"type": "explain", "job_id": job_id(1)},
    {"type": "stats", "queue": "a.b-c_D9"},
    {"type": "events", "after": "-1-0", "limit": 9, "wait_ms": 0, "texts": True},
    {
        "type": "events", "queues": ["default"], "statuses": ["running", "failed"],
        "job_ids": [job_id(1), job_id(2)],
    },
    {
        "type": "claim", "settlement": "wanted", "lease_ms": 5, "wait_ms": 0, "limit": 2,
        "queues": ["*"],
    },
    {
        "type": "claim", "status": "awaiting_payment", "lease_ms": 5, "wait_ms": 5, "limit": 2,
        "queues": ["a.b-c_D9", "default"],
    },
    {
        "type": "claim", "status": "awaiting_payment", "lease_ms": 5, "wait_ms": 0, "limit": 2,
        "job_ids": [job_id(1), job_id(2)],
    },
    {
        "type": "touch", "job_id": job_id(1), "lease": 1, "lease_ms": 5,
        "progress": {"text": "half", "fraction": 0.5},
    },
    {
        "type": "release", "job_id": job_id(1), "lease": 1, "delay_ms": 5, "reason": "r",
        "hold": True,
    },
    {"type": "stop_waiting", "seqs": [1, 2, 3]},
)  # fmt: skip
BOUNDS: Final[tuple[Any, ...]] = (
    9, 10, 64, 65, 1_000, 1_001, 31_536_000_000, 31_536_000_001, "q" * 64, "q" * 65, "a b", "*",
    ["*"], ["*", "a"], ["a"] * 65, [1] * 1_000, [1] * 1_001, "x" * 1_024, "x" * 1_025, "ä" * 512,
    "ä" * 513, "x" * 4_096, "x" * 4_097, "x" * 8_000, "x" * 8_001, {"text": "x" * 1_024},
    {"text": "x" * 1_025, "fraction": 1.0}, {"text": "", "fraction": 1.001}, {"text": 1},
    {"text": "x", "at": TIME}, {"text": "x", "more": 1}, "pending", "wanted", "confirmed", "manual",
    "closed", "nothing", "00-" + "0" * 53, True, False,
)  # fmt: skip
"""Values at the bounds of fields, and just beyond; some are of no field."""
ODD: Final[tuple[Any, ...]] = (
    None, True, -1, 0, 2**53, 2**64 - 1, -(2**63), 1.5, float("nan"), float("inf"), "", "\0", b"",
    b"\xff", [], {}, [[]] * 9, {"type": "create"}, "x" * 70_000, TIME,
    msgspec.msgpack.Ext(-1, b"\xff" * 12), msgspec.msgpack.Ext(5, b""), "running", "completed",
    *BOUNDS,
)  # fmt: skip
CRUDE: Final = (
    b"\xc1", b"\x91" * 200, b"\xdd\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff", b"\xd9\x02\xed\xa0",
    b"\xc9\xff\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xcb\x7f\xf8" + bytes(6), b"\x80" * 50,
)  # fmt: skip


class Mutator:
    """An endless sequence of frames, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._seq = 0
        self._kept = [path.read_bytes() for path in sorted(CORPUS.iterdir())]

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield self.frame()

    def frame(self) -> bytes:
        random = self._random
        if self._kept and random.random() < 0.05:
            return self._crude(random.choice(self._kept))
        message = self._message()
        for _ in range(random.choice((0, 1, 1, 2))):
            self._spoil(message)
        try:
            frame = pack(message)
        except (msgspec.MsgspecError, OverflowError, ValueError):
            return b""
        return self._crude(frame) if random.random() < 0.4 else frame

    def _message(self) -> dict[str, Any]:
        random = self._random
        self._seq += 1
        commands = [dict(random.choice(COMMANDS)) for _ in range(random.choice((0, 1, 1, 1, 3)))]
        seq = random.choice((self._seq, random.randrange(1, 80)))
        session = random.choice((0, 0, 1, 2))
        return {"v": 1, "session": session, "seq": seq, "acked": 0, "commands": commands}

    def _spoil(self, message: dict[str, Any]) -> None:
        """Replace, remove or add one field."""
        random = self._random
        commands = message.get("commands")
        place: Any = message
        if isinstance(commands, list) and commands and random.random() < 0.8:
            place = random.choice(commands)
        if not isinstance(place, dict) or not place:
            return
        key = random.choice(sorted(place))
        kind = random.random()
        if kind < 0.6:
            place[key] = random.choice(ODD)
        elif kind < 0.8:
            del place[key]
        else:
            place[random.choice(("x", "type", "job_id", "v"))] = random.choice(ODD)

    def _crude(self, frame: bytes) -> bytes:
        """Damage the bytes of a frame."""
        random = self._random
        at = random.randrange(len(frame) + 1)
        kind = random.randrange(6)
        if kind == 0:
            return frame[:at]
        if kind == 1:
            return frame[:at] + random.randbytes(random.randrange(NEAR)) + frame[at:]
        if kind == 2:
            return frame[:at] + random.choice(CRUDE) + frame[at + 1 :]
        if kind == 3:
            return frame[:at] + frame[at + random.randrange(1, NEAR) :]
        if kind == 4:
            return frame + frame[:at]
        damaged = bytearray(frame or b"\0")
        for _ in range(random.randrange(1, 4)):
            damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        return bytes(damaged)
