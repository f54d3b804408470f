"""The jobs of a broker: the repository, its indexes, and a job as it is stored."""

from tollgate.broker.repository.job_repo import InMemoryJobRepository

__all__ = ["InMemoryJobRepository"]
