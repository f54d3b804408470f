"""Many millions of commands at a broker that forgets what is finished: what it grows by."""

from dataclasses import dataclass
from pathlib import Path

from tests.core import HASH
from tests.soak.house import MIB, aside, broker

BATCH = 1_000
STEPS = 4
KEPT = 20_000


@dataclass
class Marathon:
    """The commands done, the resident bytes after each tenth, and the growth over the last half."""

    durable: bool
    commands: int
    samples: list[int]
    grown_mib_per_million: float


def marathon(home: Path, commands: int, *, durable: bool) -> Marathon:
    """Run `commands` commands of whole lifecycles through a broker that keeps 20,000 of them."""
    options = ["--max-finished", str(KEPT), "--segment-bytes", str(16 * MIB)]
    if not durable:
        options.append("--in-memory")
    with broker(home, *options) as house:
        samples = []
        for _ in range(10):
            aside(_produce, house.endpoint, commands // 10)[0]()
            samples.append(house.memory())
        grown = (samples[-1] - samples[4]) / MIB / (commands / 2 / 1e6)
        house.leave()
        return Marathon(durable, commands, samples, grown)


def _produce(endpoint: str, commands: int) -> None:
    import tollgate  # noqa: PLC0415 - its sockets belong to the process that made them

    with tollgate.Client(endpoint, timeout_s=60) as client:
        for _ in range(commands // (STEPS * BATCH)):
            ids = [job.job_id for job in client.create_many([HASH] * BATCH)]
            batch = client.batch()
            for job_id in ids:
                batch.transition(job_id, tollgate.JobStatus.RUNNING)
            for job_id in ids:
                batch.transition(job_id, tollgate.JobStatus.COMPLETED, result="done")
            for job_id in ids:
                batch.get(job_id)
            if any(isinstance(value, Exception) for value in batch.send()):
                raise RuntimeError("a lifecycle did not come to its end")
