"""The errors of the client; the broker's refusals are in `domain.exceptions`."""

from collections.abc import Sequence
from typing import Any, Final

from tollgate.domain.exceptions import (
    ArgumentError,
    ExpiredError,
    Refusal,
    SessionEvictedError,
    TollgateError,
)


class BrokerUnreachableError(TollgateError):
    """No broker answered in time, and the call has changed nothing.

    Either the request was never sent, or it does not change anything.
    """


NOT_SENT: Final = "not sent: the broker did not answer an earlier request"


class OutcomeUnknown(TollgateError):  # noqa: N818 - not an error: the command may be done
    """A request was sent and not answered in time; it may have been executed or not.

    Do not repeat it blindly: read the job with `get` first. Only a `create` with a `job_id` of your
    own may be repeated as it is: it returns the job that is there.
    """


class InvalidEndpointError(ArgumentError):
    """The endpoint is malformed, so no broker can be there; the message says what to write."""


class KeyFileError(TollgateError):
    """The key for a tcp endpoint is missing or cannot be used; the message says why."""


class ProtocolError(TollgateError):
    """The other side is not a TG/1 broker, or a broken one: its answer does not fit the request."""


class UnsupportedByBrokerError(TollgateError):
    """The broker is older than this client and does not know the command, or a field of it.

    Nothing was sent. `ping` asks the broker again, in case it was replaced by a newer one.
    """


class ForkedClientError(TollgateError):
    """A client was used in a child of the process that opened it: make one client a process.

    `Client()` opens nothing before its first call, so it may be made before a fork; `connect` opens
    a socket, and may not.
    """


class ClientClosedError(TollgateError):
    """The client was closed before or during the call."""


class ClosedOutcomeUnknown(ClientClosedError, OutcomeUnknown):  # noqa: N818 - as OutcomeUnknown
    """The client was closed during a call that may have changed something: both apply."""


class BatchError(TollgateError):
    """Some commands of a bulk call failed.

    `results` holds for each command, in order, its value or its exception. It ends early if the
    broker did not answer in time: the commands after that were not sent. `failed` holds the
    position in `results` and the exception of each command that failed.
    """

    def __init__(self, results: Sequence[object]) -> None:
        """Take the results in the order of the commands; at least one is an exception."""
        self.results: list[object] = [*results]
        self.failed: list[tuple[int, TollgateError]] = [
            (position, result)
            for position, result in enumerate(self.results)
            if isinstance(result, TollgateError)
        ]
        position, first = self.failed[0]
        super().__init__(
            f"{len(self.failed)} of {len(self.results)} commands failed; "
            f"the first is number {position + 1}: {first}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by its results."""
        return type(self), (self.results,)


def raise_failures(values: list[Any]) -> None:
    """Raise BatchError if one of the values is an exception."""
    if any(issubclass(kind, TollgateError) for kind in set(map(type, values))):
        raise BatchError(values)


def may_pass(fault: TollgateError) -> bool:
    """Return whether the same request may succeed later.

    A broker that was restarted without its sessions refuses a request with `session_evicted`. The
    client opens another session with its next request, so this error passes too. A request is
    `expired` if worker and broker were frozen together, or if a clock was set.
    """
    if isinstance(fault, Refusal):
        return fault.retryable or isinstance(fault, SessionEvictedError | ExpiredError)
    return isinstance(fault, OutcomeUnknown | BrokerUnreachableError)
