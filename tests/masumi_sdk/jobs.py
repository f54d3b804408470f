"""Jobs as the SDK writes them; its own text of a job's input and its hash."""

import hashlib
import json
import uuid
from typing import Any, Final

PURCHASER: Final = "aabbccddeeff0011"
INPUT: Final = {"prompt": "Cardano payments", "temperature": 1.0, "größe": "ü", "ids": [1, 2]}
QUESTION: Final = {"input_data": [{"id": "approve", "type": "boolean", "name": "Approve?"}]}
PAY_BY: Final = 1_900_000_000_123
SUBMIT_BY: Final = 1_900_043_200_456


def hash_of(identifier: str, value: object) -> str:
    """The hash of `masumi.helper_functions.create_masumi_input_hash`."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{identifier};{text}".encode()).hexdigest()


def new_job(**changes: Any) -> dict[str, Any]:
    """All that `JobManager.create_job` writes."""
    job_id = str(uuid.uuid4())
    job = {
        "job_id": job_id,
        "status": "awaiting_payment",
        "payment_id": f"payment-{job_id}",
        "identifier_from_purchaser": PURCHASER,
        "input_data": INPUT,
        "pay_by_time": PAY_BY,
        "submit_result_time": SUBMIT_BY,
        "unlock_time": SUBMIT_BY + 21_600_000,
        "external_dispute_unlock_time": SUBMIT_BY + 43_200_000,
        "agent_identifier": "a" * 120,
        "seller_vkey": "b" * 56,
        "input_hash": hash_of(PURCHASER, INPUT),
        "result": None,
        "error": None,
        "created_at": None,
    }
    return {**job, **changes}
