"""The core against its naive twin: both answer every script alike, restarts included."""

from collections import Counter

import pytest

from tests.broker.core.pair import Pair, Script, fault_of, smallest
from tests.broker.core.scripts import written
from tests.sizes import sample

LOTS = 8
SCRIPTS = sample(25, 250)
"""How many scripts a test plays, each from its own seed."""
STEPS = 70


def play(first_seed: int, number: int) -> Counter[str]:
    """Play so many scripts; return how often each command had each outcome."""
    seen: Counter[str] = Counter()
    for seed in range(first_seed, first_seed + number):
        pair = Pair()
        try:
            written(seed, pair, STEPS if seed % 5 else 3 * STEPS)
        except Exception as fault:
            script: Script = smallest(fault.script, {})  # type: ignore[attr-defined]
            steps = "\n".join(f"    {step}" for step in script)
            reason = fault_of(script, {})
            pytest.fail(f"seed {seed}: {type(reason).__name__} {reason}\nafter\n{steps}")
        seen += pair.seen
    return seen


@pytest.mark.parametrize("lot", range(LOTS))
def test_the_core_answers_as_its_twin_does(lot: int) -> None:
    seen = play(lot * 10_000, SCRIPTS)
    missing = sorted(set(EXPECTED) - set(seen))
    assert not missing, f"no script reaches {missing}"


EXPECTED: list[str] = []
"""What the scripts of each test must reach."""
