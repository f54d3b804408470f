"""Is `tollgate journal`."""

from client.commands.processes import Replacement

command = Replacement("journal", "broker.maintenance", help="Look after a broker's journal.")
