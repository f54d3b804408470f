# One image for the broker, its workers and the command line. None of them decides a payment by itself.

FROM python:3.13-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source

# The dependencies change seldom: their layer is made before the code is copied.
COPY requirements/ requirements/
RUN python -m venv /opt/tollgate \
    && python -m venv /opt/build \
    && /opt/tollgate/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements/runtime.txt \
    && /opt/build/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements/build.txt

COPY pyproject.toml README.md LICENSE ./
COPY broker/ broker/
COPY client/ client/
COPY domain/ domain/
COPY worker/ worker/
COPY tollgate/ tollgate/
COPY examples/inputs.jsonl examples/inputs.jsonl
RUN /opt/build/bin/python -m hatchling build -t wheel -d /wheel \
    && /opt/tollgate/bin/pip install --no-deps --no-index /wheel/*.whl


FROM python:3.13-slim-bookworm

# The directory is made here, so that a volume mounted on it starts with the same owner and mode.
RUN useradd --uid 10001 --no-create-home --home-dir /run/tollgate --shell /usr/sbin/nologin tollgate \
    && install --directory --owner=tollgate --group=tollgate --mode=0700 /run/tollgate

COPY --from=build /opt/tollgate /opt/tollgate

ENV PATH=/opt/tollgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TOLLGATE_ENDPOINT=ipc:///run/tollgate/broker.sock \
    XDG_CONFIG_HOME=/run/tollgate/config \
    XDG_RUNTIME_DIR=/run/tollgate \
    XDG_STATE_HOME=/run/tollgate/state

USER 10001
WORKDIR /run/tollgate

# A broker that does not answer within 5 seconds is unhealthy. The start period is for the replay of its journal.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["tollgate", "ping"]

CMD ["tollgate", "broker", "--bind", "ipc:///run/tollgate/broker.sock"]
