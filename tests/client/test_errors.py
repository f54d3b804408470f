"""A BatchError says which commands failed and why, also after pickling."""

import pickle

from tollgate.client.errors import BatchError, BrokerUnreachableError
from tollgate.domain.exceptions import MalformedError, TollgateError


def test_a_batch_error_names_the_failed_commands() -> None:
    bad, gone = MalformedError("a bad row"), BrokerUnreachableError("nobody")
    error = BatchError(["job", bad, "job", gone])
    assert error.results == ["job", bad, "job", gone]
    assert error.failed == [(1, bad), (3, gone)]
    assert str(error) == "2 of 4 commands failed; the first is number 2: a bad row"
    assert isinstance(error, TollgateError)


def test_a_batch_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(BatchError(["job", MalformedError("a bad row")])))  # noqa: S301 - our own
    assert error.results[0] == "job"
    assert isinstance(error.results[1], MalformedError)
    assert "number 2: a bad row" in str(error)
