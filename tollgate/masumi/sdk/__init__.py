"""Keeps the jobs of agents of the Masumi SDK (`masumi` 1.2.0), and lets processes share them."""
