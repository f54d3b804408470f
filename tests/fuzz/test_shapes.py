"""Requests of every shape, by Hypothesis: fields that are valid, invalid, missing or unknown.

`FUZZ_EXAMPLES` is the number of examples; `make fuzz` tries many.
"""

import os
from typing import Any, get_args

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core import EPOCH, HASH, job_id
from tests.fuzz.core import feed
from tests.fuzz.mutate import BOUNDS, COMMANDS
from tests.sizes import sample
from tollgate.domain.commands import AnyCommand
from tollgate.domain.settlement import SettlementState
from tollgate.domain.status import JobStatus

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", sample(100, 300)))
FRAMES_MAX = 20

KINDS = [kind.__struct_config__.tag for kind in get_args(AnyCommand)]
FIELDS = sorted({field for kind in get_args(AnyCommand) for field in kind.__struct_fields__})

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
fitting = (
    st.sampled_from([job_id(1), job_id(2), job_id(9), HASH, "nowhere", '{"a": 1}', "0", ""])
    | st.sampled_from([status.value for status in JobStatus])
    | st.sampled_from([state.value for state in SettlementState])
    | st.sampled_from(BOUNDS)
    | st.sampled_from(["default", "a", "*", ["*"], ["a", "default"], [1, 2], True, False])
    | st.fixed_dictionaries({"text": st.text(max_size=5)}, optional={"fraction": st.floats(0, 1)})
    | st.integers(0, 5)
    | st.just(EPOCH)
    | st.lists(st.sampled_from([job_id(1), job_id(2), "running", "failed"]), max_size=3)
)
commands = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)},
    optional=dict.fromkeys([*FIELDS, "unknown"], fitting | anything),
)
likely = st.sampled_from(
    [
        {"type": "hello", "open_session": True},
        {"type": "create", "input_hash": HASH},
        {"type": "create", "input_hash": HASH, "job_id": job_id(9), "input": "{}"},
        {"type": "claim", "status": "running", "lease_ms": 1, "wait_ms": 0, "limit": 9},
        {"type": "claim", "status": "running", "lease_ms": 1, "wait_ms": 9, "limit": 9},
        {"type": "wait", "job_ids": [job_id(1)], "timeout_ms": 5},
        *COMMANDS,
        *(
            {"type": "transition", "job_id": job_id(1), "target": status.value}
            for status in JobStatus
        ),
    ]
)
requests = st.fixed_dictionaries(
    {
        "v": st.just(1) | scalars,
        "session": st.integers(0, 2) | scalars,
        "seq": st.integers(0, 9) | scalars,
        "acked": st.integers(0, 9) | scalars,
        "commands": st.lists(likely | commands, max_size=4) | anything,
    },
    optional={"valid_until": st.just(EPOCH) | anything, "more": anything},
)


def encoded(shape: Any) -> bytes:
    return msgspec.msgpack.encode(shape)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[*HealthCheck], database=None)
@given(st.lists((requests | anything).map(encoded), min_size=1, max_size=FRAMES_MAX))
def test_a_request_of_any_shape_gets_a_valid_answer(frames: list[bytes]) -> None:
    feed(frames)
