"""The figures of a broker for Prometheus, over HTTP (extra `metrics`)."""
