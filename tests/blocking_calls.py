"""Makes client/calls.py, the calls of the blocking client, from client/aio_calls.py.

`python -m tests.blocking_calls` writes it; a test fails while the two differ (docs/decisions/0040).
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

CLIENT: Final = Path(__file__).parent.parent / "client"
AWAITED: Final = CLIENT / "aio_calls.py"
BLOCKING: Final = CLIENT / "calls.py"
DOCSTRING: Final = '''"""The calls of the blocking client that are one command each.

This file is made from aio_calls.py by `make twin`: change that file instead.
"""'''
REPLACEMENTS: Final = (
    (r'\A""".*?"""', DOCSTRING),
    (r"\basync def\b", "def"),
    (r"\bawait ", ""),
    (r"\bAsync([A-Z])", r"\1"),
    (r"\bfor (\w+) in (.+):\n +yield \1\n", r"yield from \2\n"),  # asyncio has no `yield from`
)


def blocking_calls() -> str:
    """Return what client/calls.py must hold."""
    source = AWAITED.read_text()
    for pattern, replacement in REPLACEMENTS:
        source = re.sub(pattern, replacement, source, flags=re.DOTALL if '"""' in pattern else 0)
    # Shorter lines may fit where longer ones were broken.
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(BLOCKING), "-"]
    return subprocess.run(
        command, input=source, capture_output=True, text=True, check=True, cwd=CLIENT
    ).stdout


if __name__ == "__main__":
    BLOCKING.write_text(blocking_calls())
