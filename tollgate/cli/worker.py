"""Is `tollgate worker`."""

from tollgate.cli.processes import Replacement

command = Replacement("worker", "tollgate.worker", help="Run a worker.")
