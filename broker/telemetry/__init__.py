"""What the broker tells operators: its log, counters, and the service manager."""
