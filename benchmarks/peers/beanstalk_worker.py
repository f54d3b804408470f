"""A beanstalkd worker. If a job asks for an answer, it sends one in another tube."""

import os

import greenstalk

ANSWER = "answer"

if __name__ == "__main__":
    client = greenstalk.Client(os.environ["BENCH_SOCKET"], use="done")
    while True:
        job = client.reserve()
        if job.body == ANSWER:
            client.put(ANSWER)
        client.delete(job)
