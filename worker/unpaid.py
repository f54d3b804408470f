"""Leases on jobs that are never paid: out of the way, and remembered only to be given back."""

from collections import OrderedDict

from tollgate.client.results import Lease


class Unpaid:
    """At most `limit` leases put aside, the latest; those forgotten lapse by themselves."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tokens: OrderedDict[str, int] = OrderedDict()

    def put_aside(self, lease: Lease) -> None:
        """Remember a lease; an earlier one on the same job has lapsed."""
        self._tokens[lease.job.job_id] = lease.token
        self._tokens.move_to_end(lease.job.job_id)
        if len(self._tokens) > self._limit:
            self._tokens.popitem(last=False)

    def leases(self) -> list[tuple[str, int]]:
        """Return job id and token of each lease that is remembered."""
        return list(self._tokens.items())
