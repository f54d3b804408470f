"""The ROUTER process: it owns the jobs, and decides."""
