"""Text, tables and colours on a terminal, for the command line and the demo."""
