"""Is `tollgate broker`."""

from client.commands.processes import Replacement

command = Replacement("broker", "broker", help="Run the broker.")
