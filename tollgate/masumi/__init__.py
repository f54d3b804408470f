"""Connects a broker to the Masumi payment service (extra `masumi`)."""
