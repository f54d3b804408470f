"""The public names of tollgate: what users import, loaded piece by piece when it is asked for.

import tollgate

with tollgate.connect() as client:
    job = client.create(input='{"prompt": "Hello"}')
    print(client.wait(job.job_id).result)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import client.calls as commands
    from client.aio import AsyncBatch, AsyncClient
    from client.batch import Batch
    from client.errors import (
        BatchError,
        BrokerUnreachableError,
        ClientClosedError,
        ForkedClientError,
        KeyFileError,
        OutcomeUnknown,
        ProtocolError,
    )
    from client.sync import Client, connect
    from client.values import Lease, Page
    from domain.commands import Create
    from domain.exceptions import (
        DrainingError,
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
    from domain.hashing import input_hash, output_hash, output_hash_as_deployed
    from domain.models import Job
    from domain.results import CountResult, HelloResult
    from domain.status import JobStatus

    __version__: str

__all__ = [
    "AsyncBatch",
    "AsyncClient",
    "Batch",
    "BatchError",
    "BrokerUnreachableError",
    "Client",
    "ClientClosedError",
    "CountResult",
    "Create",
    "DrainingError",
    "ExpiredError",
    "ForkedClientError",
    "HelloResult",
    "InternalError",
    "InvalidStateTransitionError",
    "Job",
    "JobConflictError",
    "JobNotFoundError",
    "JobStatus",
    "KeyFileError",
    "Lease",
    "LeaseHeldError",
    "LeaseLostError",
    "MalformedError",
    "NotAuthorizedError",
    "OutcomeUnknown",
    "OverloadedError",
    "Page",
    "ProtocolError",
    "Refusal",
    "ReplyFullError",
    "RepositoryFullError",
    "RequestConflictError",
    "SessionEvictedError",
    "StaleRequestError",
    "StorageFullError",
    "TollgateError",
    "TooLargeError",
    "UnsupportedVersionError",
    "VersionConflictError",
    "WaitTimeoutError",
    "__version__",
    "commands",
    "connect",
    "input_hash",
    "output_hash",
    "output_hash_as_deployed",
]

_HOMES: Final = {
    "client.aio": ("AsyncBatch", "AsyncClient"),
    "client.batch": ("Batch",),
    "client.sync": ("Client", "connect"),
    "client.values": ("Lease", "Page"),
    "client.errors": (
        "BatchError",
        "BrokerUnreachableError",
        "ClientClosedError",
        "ForkedClientError",
        "KeyFileError",
        "OutcomeUnknown",
        "ProtocolError",
    ),
    "domain.commands": ("Create",),
    "domain.hashing": ("input_hash", "output_hash", "output_hash_as_deployed"),
    "domain.models": ("Job",),
    "domain.results": ("CountResult", "HelloResult"),
    "domain.status": ("JobStatus",),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has that name
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - slow, and seldom asked for

        found: Any = version("tollgate")
    elif name == "commands":
        found = import_module("client.calls")
    elif name in __all__:  # the refusals are all that is left
        found = getattr(import_module(_HOME_OF.get(name, "domain.exceptions")), name)
    else:
        raise AttributeError(f"module 'tollgate' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
