"""A payment as the service shows it, for tests of what it means."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tollgate.masumi.payment import Payment

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def payment(state: str | None = "FundsLocked", **fields: Any) -> Payment:
    """Return a payment in this state, which waits for us and can take a result for an hour."""
    told: dict[str, Any] = {
        "id": "1", "blockchain_identifier": "chain", "changed_at": "", "updated_at": "",
        "on_chain_state": state, "result_hash": None, "input_hash": None,
        "submit_by": NOW + timedelta(hours=1), "action": "WaitingForExternalAction",
        "action_hash": None, "error": None,
    }  # fmt: skip
    return Payment(**told | fields)
