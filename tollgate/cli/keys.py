"""Is `tollgate keys`."""

from tollgate.cli.processes import Replacement

command = Replacement(
    "keys", "tollgate.broker.admin.keys", help="Say who may come in by tcp, and as what."
)
