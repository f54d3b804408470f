"""Makes random inputs and outputs, by seed, and keeps them with the hashes of hash.js.

python -m tests.hashing.cases       # needs Node.js, and `npm ci` in tests/hashing
"""

import json
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import Any, Final

HERE: Final = Path(__file__).parent
STORED: Final = HERE / "cases.jsonl"
COUNT: Final = 300
SEED: Final = 20_260_101
CHARACTERS: Final = (
    "abcXYZ09 _-./:;,", '"\\\b\f\n\r\t\x00\x1f\x7f', "äßéÅ\u2028\u2029\ufeff", "€漢字ｱ",
    "\ue000\uffff", "\U0001f600\U00010000\U0010ffff",
)  # fmt: skip
"""Plain ones; those that JSON escapes; and keys that UTF-8 and UTF-16 sort differently."""
NUMBERS: Final = (
    0, -0.0, 1, -1, 1.0, 1.5, 0.1, 1e-6, 1e-7, 1e20, 1e21, 1e22, 123456789012345680000.0, 5e-324,
    1.7976931348623157e308, 2**53 - 1, -(2**53) + 1, 333333333.33333329, 4.35, 0.002, 100, 1e100,
)  # fmt: skip


def text(random: Random) -> str:
    """Return a text of up to 12 characters."""
    groups = [random.choice(CHARACTERS) for _ in range(random.randint(0, 12))]
    return "".join(random.choice(group) for group in groups)


def value(random: Random, depth: int = 4) -> Any:
    """Return any JSON value."""
    kinds = ["text", "number", "float", "constant"] + ["list", "object"] * (depth > 0)
    match random.choice(kinds):
        case "text":
            return text(random)
        case "number":
            return random.choice(NUMBERS)
        case "float":
            return random.uniform(-1, 1) * 10.0 ** random.randint(-30, 30)
        case "constant":
            return random.choice([None, True, False])
        case "list":
            return [value(random, depth - 1) for _ in range(random.randint(0, 4))]
        case _:
            return {text(random): value(random, depth - 1) for _ in range(random.randint(0, 5))}


def cases() -> list[dict[str, Any]]:
    """Return the cases, the same each time."""
    random = Random(SEED)
    return [
        {
            "identifier": f"{random.getrandbits(64):016x}",
            "input": {text(random): value(random) for _ in range(random.randint(0, 6))},
            "output": "".join(text(random) for _ in range(random.randint(0, 8))),
        }
        for _ in range(COUNT)
    ]


def hashes(given: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return what hash.js makes of these cases. Raises CalledProcessError."""
    lines = "".join(json.dumps(each) + "\n" for each in given)
    told = subprocess.run(
        [shutil.which("node") or "node", "hash.js"],
        cwd=HERE,
        input=lines,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in told.stdout.splitlines()]


if __name__ == "__main__":
    given = cases()
    rows = [case | {"hashes": found} for case, found in zip(given, hashes(given), strict=True)]
    STORED.write_text("".join(json.dumps(row) + "\n" for row in rows))
