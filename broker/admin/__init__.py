"""The command lines that look after keys, journals and settings, and check an installation."""
