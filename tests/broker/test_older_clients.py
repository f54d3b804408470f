"""A client and a worker that speak revision 1: what they send is taken, and they read the answers.

The frames are those of a client from before queues, tries and questions that keep their lease.
"""

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq

from tests.brokers import Peer, Wire, running_broker

HASH = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
REVISION_1 = {
    "job_id", "status", "input_hash", "blockchain_identifier", "created_at", "updated_at", "result",
    "error", "version", "input", "identifier_from_purchaser", "pay_by_time", "submit_result_time",
    "input_schema", "provided_input",
}  # fmt: skip


class OldClient:
    """A session of a client that tells nothing of itself."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        hello = peer.one({"type": "hello", "open_session": True})
        assert hello.keys() >= {"protocol", "server", "boot_id", "role", "limits", "remembers"}
        self._session = hello["session"]
        peer.seq = 0

    def ask(self, kind: str, **fields: object) -> Wire:
        answer = self._peer.one({"type": kind, **fields}, session=self._session)
        assert answer["type"] != "error", answer
        return answer

    def job(self, kind: str, **fields: object) -> Wire:
        job: Wire = self.ask(kind, **fields)["job"]
        return job

    def claimed(self) -> Wire:
        given = {"status": "running", "lease_ms": 30_000, "wait_ms": 0, "limit": 10}
        leases: list[Wire] = self.ask("claim", **given)["leases"]
        assert len(leases) == 1
        return leases[0]


@pytest.fixture
def old() -> Iterator[OldClient]:
    with (
        tempfile.TemporaryDirectory(prefix="tg-") as name,
        running_broker(Path(name)) as broker,
        zmq.Context() as context,
        closing(Peer(context, broker.endpoint)) as peer,
    ):
        yield OldClient(peer)


def test_a_job_of_revision_1_from_end_to_end(old: OldClient) -> None:
    job = old.job("create", input_hash=HASH, input="a")
    assert job.keys() <= REVISION_1
    job = old.job("transition", job_id=job["job_id"], target="running", expected_version=1)
    assert job.keys() <= REVISION_1
    lease = old.claimed()
    assert lease["job"]["job_id"] == job["job_id"]
    token = lease["lease"]
    old.ask("touch", job_id=job["job_id"], lease=token, lease_ms=30_000)
    old.ask("release", job_id=job["job_id"], lease=token)
    token = old.claimed()["lease"]
    asked = old.job(
        "transition", job_id=job["job_id"], target="awaiting_input", input_schema="{}",
        expected_version=2, lease=token,
    )  # fmt: skip
    assert asked.keys() - REVISION_1 == {"inputs"}  # which it skips, as all that it does not know
    old.job("provide_input", job_id=job["job_id"], input="b", expected_version=3)
    lease = old.claimed()  # its lease ended with the question
    assert (lease["job"]["provided_input"], lease["job"]["version"]) == ("b", 4)
    done = old.job(
        "transition", job_id=job["job_id"], target="completed", result="c",
        expected_version=4, lease=lease["lease"],
    )  # fmt: skip
    assert done["result"] == "c"
    (listed,) = old.ask("list", status="completed", limit=10)["jobs"]
    assert (listed["job_id"], listed["result"]) == (done["job_id"], "c")
    assert old.ask("count")["by_status"]["completed"] == 1
