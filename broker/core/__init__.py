"""Decides: bytes in, records and replies out. No socket, file, clock or random source."""
