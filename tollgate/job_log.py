"""What each log line about a job carries beside its text."""

from tollgate.domain.models import Job


def log_fields(job: Job) -> dict[str, object]:
    """Return the fields of a line about a job, as `extra` of `logging`: its id, and its trace."""
    fields: dict[str, object] = {"job_id": job.job_id}
    if job.traceparent is not None:
        fields["traceparent"] = job.traceparent
    return fields
