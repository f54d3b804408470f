"""Is `tollgate journal`."""

from tollgate.cli.processes import Replacement

command = Replacement(
    "journal", "tollgate.broker.admin.journal", help="Look after a broker's journal."
)
