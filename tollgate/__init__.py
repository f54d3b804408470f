"""The public names of tollgate, each loaded when it is first used.

import tollgate

with tollgate.connect() as client:
    job = client.create(input='{"prompt": "Hello"}')
    print(client.wait(job.job_id).result)
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it as true; importing `typing` costs 2 ms
if TYPE_CHECKING:
    from typing import Any, Final

    from tollgate.client import commands
    from tollgate.client.aio import AsyncBatch, AsyncClient
    from tollgate.client.batch import Batch
    from tollgate.client.errors import (
        BatchError,
        BrokerUnreachableError,
        ClientClosedError,
        ForkedClientError,
        InvalidEndpointError,
        KeyFileError,
        OutcomeUnknown,
        ProtocolError,
        UnsupportedByBrokerError,
    )
    from tollgate.client.results import Explanation, History, Lease, Page, Touched
    from tollgate.client.sync import Client, connect
    from tollgate.domain.commands import Create
    from tollgate.domain.exceptions import (
        ArgumentError,
        DrainingError,
        EventsGoneError,
        ExpiredError,
        InternalError,
        InvalidStateTransitionError,
        JobConflictError,
        JobNotFoundError,
        LeaseHeldError,
        LeaseLostError,
        MalformedError,
        NotAuthorizedError,
        OverloadedError,
        Refusal,
        ReplyFullError,
        RepositoryFullError,
        RequestConflictError,
        SessionEvictedError,
        StaleRequestError,
        StorageFullError,
        TollgateError,
        TooLargeError,
        UnsupportedVersionError,
        VersionConflictError,
        WaitTimeoutError,
    )
    from tollgate.domain.hashing import input_hash, output_hash, output_hash_as_deployed
    from tollgate.domain.models import Job
    from tollgate.domain.results import (
        CountResult,
        EventsResult,
        HelloResult,
        HistoryEntry,
        InputRound,
        JobEvent,
        LeaseInfo,
        Progress,
        Settlement,
        StatsResult,
    )
    from tollgate.domain.settlement import SettlementState
    from tollgate.domain.status import JobStatus
    from tollgate.worker.call import Fail, Retry
    from tollgate.worker.context import AsyncContext, Context
    from tollgate.worker.handlers import HandlerNotFoundError
    from tollgate.worker.worker import Worker

    __version__: str

__all__ = [
    "ArgumentError",
    "AsyncBatch",
    "AsyncClient",
    "AsyncContext",
    "Batch",
    "BatchError",
    "BrokerUnreachableError",
    "Client",
    "ClientClosedError",
    "Context",
    "CountResult",
    "Create",
    "DrainingError",
    "EventsGoneError",
    "EventsResult",
    "ExpiredError",
    "Explanation",
    "Fail",
    "ForkedClientError",
    "HandlerNotFoundError",
    "HelloResult",
    "History",
    "HistoryEntry",
    "InputRound",
    "InternalError",
    "InvalidEndpointError",
    "InvalidStateTransitionError",
    "Job",
    "JobConflictError",
    "JobEvent",
    "JobNotFoundError",
    "JobStatus",
    "KeyFileError",
    "Lease",
    "LeaseHeldError",
    "LeaseInfo",
    "LeaseLostError",
    "MalformedError",
    "NotAuthorizedError",
    "OutcomeUnknown",
    "OverloadedError",
    "Page",
    "Progress",
    "ProtocolError",
    "Refusal",
    "ReplyFullError",
    "RepositoryFullError",
    "RequestConflictError",
    "Retry",
    "SessionEvictedError",
    "Settlement",
    "SettlementState",
    "StaleRequestError",
    "StatsResult",
    "StorageFullError",
    "TollgateError",
    "TooLargeError",
    "Touched",
    "UnsupportedByBrokerError",
    "UnsupportedVersionError",
    "VersionConflictError",
    "WaitTimeoutError",
    "Worker",
    "__version__",
    "commands",
    "connect",
    "input_hash",
    "output_hash",
    "output_hash_as_deployed",
]

_HOMES: "Final" = {
    "tollgate.client.aio": ("AsyncBatch", "AsyncClient"),
    "tollgate.client.batch": ("Batch",),
    "tollgate.client.sync": ("Client", "connect"),
    "tollgate.client.results": ("Explanation", "History", "Lease", "Page", "Touched"),
    "tollgate.client.errors": (
        "BatchError",
        "BrokerUnreachableError",
        "ClientClosedError",
        "ForkedClientError",
        "InvalidEndpointError",
        "KeyFileError",
        "OutcomeUnknown",
        "ProtocolError",
        "UnsupportedByBrokerError",
    ),
    "tollgate.domain.commands": ("Create",),
    "tollgate.domain.hashing": ("input_hash", "output_hash", "output_hash_as_deployed"),
    "tollgate.domain.models": ("Job",),
    "tollgate.domain.results": (
        "CountResult",
        "EventsResult",
        "HelloResult",
        "HistoryEntry",
        "InputRound",
        "JobEvent",
        "LeaseInfo",
        "Progress",
        "Settlement",
        "StatsResult",
    ),
    "tollgate.domain.settlement": ("SettlementState",),
    "tollgate.domain.status": ("JobStatus",),
    "tollgate.worker.call": ("Fail", "Retry"),
    "tollgate.worker.context": ("AsyncContext", "Context"),
    "tollgate.worker.handlers": ("HandlerNotFoundError",),
    "tollgate.worker.worker": ("Worker",),
}
_HOME_OF: "Final" = {name: home for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # with it, a type checker would find every name, misspelt ones too

    def __getattr__(name: str) -> "Any":  # noqa: ANN401 - the type differs by name
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 - slow, and seldom used

            found = version("tollgate")
        elif name == "commands":
            found = import_module("tollgate.client.commands")
        elif name in __all__:  # a name that is in no row above is a refusal
            found = getattr(import_module(_HOME_OF.get(name, "tollgate.domain.exceptions")), name)
        else:
            raise AttributeError(f"module 'tollgate' has no attribute {name!r}")
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return __all__
