"""A handler whose results differ from call to call: a hash of a result that was lost is foreign."""

import os
import random
import time

from tollgate import Job


def answer(job: Job) -> str:
    time.sleep(random.uniform(0.0, 0.2))
    return f'{job.input}\n"{os.urandom(8).hex()}" \U0001f600 {os.getpid()}'
