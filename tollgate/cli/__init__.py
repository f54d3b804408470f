"""The command line. Each command is a client, or starts a process of its own."""
