"""What broker, client and worker share: commands, results, messages, errors; no I/O."""
