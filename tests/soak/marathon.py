"""Millions of commands for a broker that prunes finished jobs: how much its memory grows."""

from dataclasses import dataclass
from pathlib import Path

from tests.core import HASH
from tests.soak.target import MIB, broker, in_process

BATCH = 1_000
STEPS = 4
KEPT = 20_000
"""How many finished jobs the broker keeps."""


@dataclass
class Marathon:
    """The figures of one run."""

    durable: bool
    commands: int
    samples: list[int]
    """Resident bytes after each tenth of the commands."""
    grown_mib_per_million: float
    """Growth over the second half."""


def marathon(home: Path, commands: int, *, durable: bool, kept: int = KEPT) -> Marathon:
    """Run complete job lifecycles, `commands` commands in all, with `kept` finished jobs kept."""
    options = ["--max-finished", str(kept), "--segment-bytes", str(16 * MIB)]
    if not durable:
        options.append("--in-memory")
    with broker(home, *options) as target:
        samples = []
        for _ in range(10):
            in_process(_produce, target.endpoint, commands // 10)[0]()
            samples.append(target.memory())
        grown = (samples[-1] - samples[4]) / MIB / (commands / 2 / 1e6)
        target.leave()
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
                raise RuntimeError("a lifecycle failed")
