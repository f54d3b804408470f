"""Is `tollgate worker`."""

from client.commands.processes import Replacement

command = Replacement("worker", "worker", help="Run a worker.")
