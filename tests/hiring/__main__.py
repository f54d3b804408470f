"""Runs the scenario: python -m tests.hiring --jobs 200 --kills 30 --seed 1."""

import sys

from tests.hiring.harness import HiringRun
from tests.settlement.__main__ import main

if __name__ == "__main__":
    sys.exit(main(HiringRun, __doc__, kills=30))
