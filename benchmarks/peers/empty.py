"""The empty handler of the tollgate worker."""

import tollgate


async def answer(job: tollgate.Job) -> str:
    return job.job_id
