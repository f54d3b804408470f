"""The vocabulary that broker, client and worker share; no I/O, and nothing of ours imported."""
