"""What can go wrong on the client's side, beyond the broker's own refusals."""

from collections.abc import Sequence

from tollgate.domain.exceptions import TollgateError


class BrokerUnreachableError(TollgateError):
    """No broker answered in time, and nothing can have been changed by the attempt.

    Either the request never left this process, or all of it is safe to ask again.
    """


class OutcomeUnknown(TollgateError):  # noqa: N818 - it is no error: the command may well be done
    """A request left, no answer came in time, and it must not be repeated blindly.

    It may have been executed, or not. Read the job (`get`) before you decide.
    """


class KeyFileError(TollgateError):
    """The key for a broker at tcp is missing, or cannot be used; the message says why."""


class ProtocolError(TollgateError):
    """What answers is no TG/1 broker, or a broken one: its answer does not fit the request."""


class ForkedClientError(TollgateError):
    """A client was used in a child process of the one that opened it: make one per process."""


class ClientClosedError(TollgateError):
    """The client was closed before, or while, this was asked."""


class BatchError(TollgateError):
    """Some commands of a bulk call failed.

    `results` holds what came of each command in order, a value or an exception. A command that the
    call did not come to, because the broker had vanished, has no result. `failed` holds the
    position and the exception of each that failed, of one at least.
    """

    def __init__(self, results: Sequence[object]) -> None:
        """Take the results in the order of the commands."""
        self.results: list[object] = [*results]
        self.failed: list[tuple[int, TollgateError]] = [
            (position, result)
            for position, result in enumerate(self.results)
            if isinstance(result, TollgateError)
        ]
        super().__init__(self._summary())

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by its results."""
        return type(self), (self.results,)

    def _summary(self) -> str:
        position, first = self.failed[0]
        return (
            f"{len(self.failed)} of {len(self.results)} commands failed; "
            f"the first is number {position + 1}: {first}"
        )
