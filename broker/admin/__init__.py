"""The command lines that look after keys and journals."""
