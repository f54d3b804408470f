"""Is `tollgate broker`."""

from tollgate.cli.processes import Replacement

command = Replacement("broker", "tollgate.broker", help="Run the broker.")
