"""Is `tollgate keys`."""

from client.commands.processes import Replacement

command = Replacement("keys", "broker.keys", help="Say who may come in by tcp, and as what.")
